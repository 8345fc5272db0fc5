"""task=compare: the runs of a sweep against each other: what differs, what is faster or better, by how much, how surely."""

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from exp.comparison.differences import require_allowed, require_kinds
from exp.comparison.files import write
from exp.comparison.report import compared
from exp.comparison.selection import Selection, selected
from exp.comparison.table import fitting_rows
from exp.comparison.watch import watch
from exp.errors import within
from exp.experiment import Experiment
from exp.report import Report
from exp.run_folder import RunFolder, mark_killed
from exp.tasks.base import Task
from exp.tracking.uploader import shared_uploader

UNMET = 5
"""The exit code of a condition that is not met."""


MOST_PRINTED = 40
"""How many rows of the table are printed; the files hold all of it."""


@dataclass(kw_only=True)
class Compare(Task):
    """Compare the runs of a sweep, or runs by their names.

    `allow` names what may differ apart from the declared factors; `require` is a condition that must hold for every row of
    the table; `out` is where the files go.
    """

    sweep: str = "latest"
    runs: list[str] = field(default_factory=list)
    baseline: str | None = None
    allow: list[str] = field(default_factory=list)
    require: str | None = None
    watch: bool = False
    out: str | None = None

    def __post_init__(self) -> None:
        require_kinds("allow", self.allow)

    def __call__(self, experiment: Experiment) -> int:
        report = Report()
        with within("compare"):
            mark_killed(experiment.runs)
            select = partial(selected, experiment.runs, self.sweep, self.runs)
            selection = select()
            if self.watch:
                selection = watch(select, experiment.runs, report, terminal=bool(sys.stdout and sys.stdout.isatty()))
            return self._compare(experiment, selection, report)

    def _compare(self, experiment: Experiment, selection: Selection, report: Report) -> int:
        comparison = compared(selection, experiment.runs, self.baseline, self.allow)
        unmet = comparison.unmet("require", self.require) if self.require is not None else []
        report.say(f"sweep {selection.title}: {len(selection.trials)} runs" if selection.sweep else selection.title)
        for line in comparison.differs:
            report.say(line)
        if comparison.pair:
            report.table(*comparison.pair)
        require_allowed(comparison.differences, self.allow)
        several = len(fitting_rows(comparison.rows, self.baseline)) if self.baseline else 0
        which = f", the first of {several} settings with {self.baseline}" if several > 1 else ""
        report.say(f"relative to {comparison.baseline.setting}{which}:")
        names, rows = comparison.table
        report.table(names, rows[:MOST_PRINTED])
        if len(rows) > MOST_PRINTED:
            report.say(f"… and {len(rows) - MOST_PRINTED} more settings in compare.csv and compare.html")
        for line in comparison.notes:
            report.say(line)
        folder = Path(self.out) if self.out else selection.sweep.path if selection.sweep else Path("comparison")
        written = write(comparison, folder)
        report.say(f"see {written[0]}; beside it {written[1].name} and {written[2].name}")
        if selection.sweep and selection.sweep.path == folder:
            _attach(selection.sweep, report)
        if unmet:
            report.say(f"unmet: {self.require}: does not hold for {', '.join(unmet[:5])}{' …' * (len(unmet) > 5)}")
            return UNMET
        if self.require is not None:
            report.say(f"met: {self.require}")
        return 0


def _attach(sweep: RunFolder, report: Report) -> None:
    """Have the files uploaded to the sweep's run, where it has one, and wait for it within bounds.

    Of a sweep that is still going on the status is not ours to change: what lies in its folder is uploaded when it ends.
    """
    status = sweep.status()
    if not status.get("tracking"):
        return
    if status["status"] == "RUNNING":
        report.say("attached to the sweep's run in MLflow when the sweep ends")
        return
    sweep.revise()  # there is something new to upload
    uri, path = status["tracking"]["uri"], str(sweep.path.absolute())
    shared_uploader().open(uri)
    shared_uploader().send(sweep.path)
    failed = shared_uploader().wait([path], uri).get(path, {"error": "no answer in time"}).get("error")
    report.say(f"not attached in MLflow yet ({failed})" if failed else "attached to the sweep's run in MLflow")
