"""What a reader of the table must know: where n cannot tell two settings apart, what is unverified, what did not finish."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from exp.comparison.spread import Interval, welch
from exp.comparison.table import Row
from exp.errors import listed


@dataclass(frozen=True)
class Indistinct:
    """Two settings that their n runs cannot tell apart by the final loss. No interval: there is no spread to judge by."""

    first: str
    second: str
    n: int
    interval: Interval | None

    def __str__(self) -> str:
        said = f"n = {self.n} cannot tell {self.first} and {self.second} apart"
        if self.interval is None:
            return f"{said}: one run shows no spread"
        what = "ratio" if self.interval.ratio else "difference"
        return f"{said}: 95 % interval of the {what} of final losses {self.interval.low:.3g} … {self.interval.high:.3g}"


def indistinct(rows: Sequence[Row], baseline: Row) -> list[Indistinct]:
    """The settings that cannot be told apart from the baseline, and the best from the second best."""
    finished = [row for row in rows if row.spread("final/loss").n]
    pairs = [(baseline, row) for row in finished if row is not baseline and baseline in finished]
    best = sorted(finished, key=lambda row: row.spread("final/loss").mean)[:2]
    if len(best) == 2 and baseline not in best:
        pairs.append((best[0], best[1]))
    found = []
    for first, second in pairs:
        values = [row.spread("final/loss").values for row in (second, first)]
        interval = welch(*values)
        if interval is None or not interval.apart:
            found.append(Indistinct(first.setting, second.setting, min(map(len, values)), interval))
    return found


def notes(rows: Sequence[Row], baseline: Row) -> list[str]:
    """Lines to print below the table, few even of a large sweep."""
    lines = []
    unclear = indistinct(rows, baseline)
    if without_spread := _without_spread(rows):
        lines.append(f"warning: n = 1 cannot tell {without_spread}: one run shows no spread; sweep seed=0,1,2 too")
    several = [each for each in unclear if each.interval is not None]
    lines += [f"warning: {each}" for each in several[:3]]
    if len(several) > 3:
        lines.append(f"warning: and {len(several) - 3} more pairs that n cannot tell apart (compare.json lists them)")
    unverified = [row for row in rows if row.n and not row.verified]
    if unverified:
        which = "no run has" if len(unverified) == len([row for row in rows if row.n]) else f"{_few(unverified)} has not"
        how = "training.verify=true, or python -m exp task=verify with the same choices"
        lines.append(f"unverified: {which} the verdict equivalent, so the speed may be that of wrong results; {how}")
    shared = [trial for row in rows for trial in row.trials if trial.status.get("program")]
    if shared:
        lines.append(f"shared: times of {len(shared)} runs are their shares of programs; sweep.fuse=off times each by itself")
    states = Counter(trial.state for row in rows for trial in row.trials)
    for state in ("planned", "running", "failed", "killed", "blew up"):
        if states[state]:
            names = [trial.name for row in rows for trial in row.trials if trial.state == state]
            others = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(
                f"{state}: {states[state]} of {states.total()} runs, not in the numbers: {', '.join(names[:3])}{others}"
            )
    return lines


def _without_spread(rows: Sequence[Row]) -> str:
    """Which settings have one run and so no spread, and what they cannot be told from; empty where there are none."""
    finished = [row for row in rows if row.spread("final/loss").n]
    names = [row.setting for row in finished if row.spread("final/loss").n == 1]
    if not names or len(finished) < 2:
        return ""
    if len(finished) == 2:
        return f"{finished[0].setting} and {finished[1].setting} apart"
    if len(names) == len(finished):
        return f"any two of the {len(finished)} settings apart"
    return f"{listed([*names[:3], f'{len(names) - 3} more'] if len(names) > 3 else names)} from any other setting"


def _few(rows: Sequence[Row]) -> str:
    names = ", ".join(row.setting for row in rows[:3])
    return f"{names} and {len(rows) - 3} more" if len(rows) > 3 else names
