"""Which runs of a plan are done together."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from exp.sweep.planning import Entry

DIED = "the process of the last attempt died"


@dataclass(frozen=True)
class Together:
    """Runs that are done together, and the rule by which they are; `alone`: with nothing else in their process."""

    entries: list[Entry]
    rule: str = ""
    alone: bool = False


def grouped(
    entries: Sequence[Entry], fuse: str, alone: Collection[str] = (), *, elsewhere: bool = False, workers: int = 1
) -> list[Together]:
    """These runs in groups, as their task says. Last come those that died, half as many together as then, and by themselves
    those whose keys are in `alone`."""

    def together(some: Sequence[Entry]) -> list[Together]:
        ready = [entry.ready for entry in some if entry.ready]
        runs = [(each.experiment, each.data) for each in ready]
        groups = ready[0].task.groups(runs, fuse, elsewhere=elsewhere, workers=workers) if ready else []
        return [Together([some[number] for number in group.runs], group.rule) for group in groups]

    able = [entry for entry in entries if entry.ready and entry.key not in alone]
    found = together([entry for entry in able if not entry.died])
    for size in sorted({entry.died for entry in able if entry.died > 1}, reverse=True):
        died, half = [entry for entry in able if entry.died == size], size // 2
        for first in range(0, len(died), half):
            found += [replace(group, rule=f"{DIED}, of {size} together", alone=True) for group in together(died[first:][:half])]
    kept = {entry.key for group in found for entry in group.entries}
    return found + [Together([entry], DIED, alone=True) for entry in entries if entry.key not in kept]


def shared_out(groups: Sequence[Together], jobs: int | None) -> list[list[Together]]:
    """Groups for the jobs of a launcher: one each, or as many as it takes for about so many `jobs`, one after the other."""
    free = [group for group in groups if not group.alone]
    each = 1 if jobs is None else max(1, -(-len(free) // jobs))
    return [free[first : first + each] for first in range(0, len(free), each)] + [[group] for group in groups if group.alone]


def rules(groups: Sequence[Together]) -> list[str]:
    """What the plan says of groups: how many runs are in how many programs, and by which rule."""
    sizes: dict[str, list[int]] = {}
    for group in groups:
        sizes.setdefault(group.rule, []).append(len(group.entries))
    return [_line(rule, counts) for rule, counts in sizes.items() if rule]


def _line(rule: str, sizes: list[int]) -> str:
    runs = f"{sum(sizes)} run{'s' * (sum(sizes) != 1)}"
    programs = f"{len(sizes)} program{'s' * (len(sizes) != 1)}"
    return f"{runs} {f'in {programs}' if max(sizes) > 1 else 'one by one'}: {rule}"
