"""A finished comparison: what is printed, written as HTML, CSV and JSON, and asked by conditions."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from exp.comparison.cells import columns, heading, text
from exp.comparison.differences import DEPENDS, Difference, differences
from exp.comparison.page import Contents, page
from exp.comparison.pair import pair
from exp.comparison.selection import Selection
from exp.comparison.surroundings import surroundings
from exp.comparison.table import NUMBERS, Row, baseline_of, relative_to, rows
from exp.comparison.verdicts import verdicts
from exp.comparison.warnings import indistinct, notes
from exp.comparison.watch import over
from exp.expression import Condition


@dataclass(frozen=True)
class Comparison:
    """Runs, what differs between them, and their numbers relative to a baseline."""

    selection: Selection
    differences: list[Difference]
    rows: list[Row]
    baseline: Row
    allow: Sequence[str] = field(default_factory=tuple)

    @cached_property
    def notes(self) -> list[str]:
        return notes(self.rows, self.baseline)

    @property
    def differs(self) -> list[str]:
        """What differs apart from the declared factors, in words."""
        same = [kind for kind in DEPENDS if kind not in {each.kind for each in self.differences}]
        lines = [f"declared: {', '.join(self.selection.declared) or 'nothing'}"]
        lines += [f"differs, {'allowed' if each.kind in self.allow else 'not declared'}: {each}" for each in self.differences]
        return [*lines, f"no undeclared difference in {', '.join(same)}"] if same else lines

    @cached_property
    def pair(self) -> tuple[list[str], list[Sequence[str]]] | None:
        """Of exactly two runs that have begun everything that differs, as headings and lines; None for others."""
        if len(self.selection.trials) != 2 or not all(trial.config for trial in self.selection.trials):
            return None
        first, second = self.selection.trials
        return ["where", "what", first.name, second.name], list(pair(first, second))

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        names = columns(self.rows)
        return [heading(name) for name in names], [[text(row, name) for name in names] for row in self.rows]

    def unmet(self, key: str, condition: str) -> list[str]:
        """The settings in which `condition` does not hold. Raises `InputError` for one that cannot be asked."""
        values = [row.values for row in self.rows]
        names = list(dict.fromkeys(name for each in values for name in each))
        if not any(row.n for row in self.rows):  # what will be measured may be asked before it is
            names += ["speed", *NUMBERS]
        asked = Condition.parse(key, condition, names)
        return [row.setting for row, each in zip(self.rows, values, strict=True) if not asked.holds(each)]

    def html(self) -> str:
        kinds = {"finished": 0} | {trial.state: 0 for trial in self.selection.trials}
        for trial in self.selection.trials:
            kinds[trial.state] += 1
        states = ", ".join(f"{count} {state}" for state, count in kinds.items() if count)
        seeds = len({trial.seed for trial in self.selection.trials})
        subtitle = (
            f"{len(self.selection.trials)} runs ({states}), {len(self.rows)} settings, {seeds} seed{'s' * (seeds > 1)} each"
        )
        title = f"Sweep {self.selection.title}" if self.selection.sweep else f"Comparison of {self.selection.title}"
        lists = (self.notes, self.differs, self.environment())
        return page(
            Contents(title, subtitle if seeds > 1 else subtitle.rpartition(",")[0], self.rows, self.baseline, *lists, self.pair)
        )

    def csv(self) -> str:
        """The table, numbers in full: one line a setting."""
        values = [row.values for row in self.rows]
        names = list(dict.fromkeys(name for each in values for name in each))
        written = io.StringIO()
        writer = csv.DictWriter(written, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(values)
        return written.getvalue()

    def json(self) -> str:
        """The table, every run, what differs, what cannot be told apart, the environment."""
        runs = [
            {
                "run": trial.name,
                "folder": trial.path,
                "state": trial.state,
                "setting": trial.setting,
                "factors": trial.factors,
                "metrics": trial.metrics,
            }
            for trial in self.selection.trials
        ]
        unclear = [
            {
                "settings": [each.first, each.second],
                "n": each.n,
                "interval": each.interval and [each.interval.low, each.interval.high],
            }
            for each in indistinct(self.rows, self.baseline)
        ]
        content = {
            "title": self.selection.title,
            "declared": self.selection.declared,
            "baseline": self.baseline.setting,
            "table": [row.values for row in self.rows],
            "runs": runs,
            "differences": [{"kind": each.kind, "what": each.what, "values": each.values} for each in self.differences],
            "allowed": list(self.allow),
            "cannot_tell_apart": unclear,
            "notes": self.notes,
            "environment": [list(line) for line in self.environment()],
        }
        return json.dumps(content, indent=1)

    def environment(self) -> list[tuple[str, str]]:
        """What the runs were done in: each entry once, or every value with how many runs have it."""
        counted: dict[str, dict[str, int]] = {}
        begun = [trial for trial in self.selection.trials if trial.environment]
        for trial in begun:
            for key, value in surroundings(trial.environment).items():
                values = counted.setdefault(key, {})
                values[value] = values.get(value, 0) + 1
        return [(key, _counted(values, len(begun))) for key, values in counted.items()]


def compared(selection: Selection, runs: Path | str, baseline: str | None, allow: Sequence[str] = ()) -> Comparison:
    """The comparison. Raises `InputError` (keys "sweep", "runs", "baseline") where nothing was measured, or for no baseline.

    Whether what differs is allowed is the caller's to ask: `require_allowed`.
    """
    measured = [trial for trial in selection.trials if trial.metrics or len(trial.losses)]
    going_on = any(trial.state in ("running", "planned") for trial in selection.trials)
    if len(measured) < (1 if going_on else 2):
        states = ", ".join(f"{count} {state}" for state, count in Counter(trial.state for trial in selection.trials).items())
        where = f" in {selection.title}" if selection.sweep and selection.asked != selection.title else ""
        problem = f"{len(measured)} of {len(selection.trials)} runs{where} have measured anything ({states})"
        advice = "name other runs or another sweep" if over(selection) else "wait until one has"
        raise selection.error(f"nothing to compare: {problem}; {advice}")
    settings = rows(selection.trials, verdicts(selection.trials, runs))
    chosen = baseline_of(settings, baseline)
    related = relative_to(chosen, settings)
    found = differences(selection.trials, selection.declared, planned=selection.sweep is not None)
    return Comparison(selection, found, related, next(row for row in related if row.setting == chosen.setting), allow)


def _counted(values: dict[str, int], runs: int) -> str:
    if len(values) == 1 and sum(values.values()) == runs:
        return next(iter(values))
    return " | ".join(f"{value} ({count} of {runs} runs)" for value, count in values.items())
