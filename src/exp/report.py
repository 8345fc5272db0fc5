"""What a person sees of a run: a header, the falling loss, the final table."""

import io
import sys
from collections.abc import Sequence
from math import ceil
from typing import Any
from unicodedata import combining, east_asian_width

from exp.curve import Curve
from exp.experiment import Experiment
from exp.naming import short
from exp.problems import Data
from exp.summary import number


class Report:
    """Plain lines on standard output; on a terminal a bar takes the place of most."""

    def __init__(self, *, title: str | None = None):
        self._title = title
        self._progress: Any = None
        self._said = -1
        self.begun = False

    @property
    def detailed(self) -> bool:
        """Whether this is the report of a single run, which has room for details."""
        return self._title is None

    def begin(self, experiment: Experiment, data: Data) -> None:
        """What is about to run, said before anything slow is imported."""
        self.begun = True
        rows, inputs = data.train.inputs.shape
        widths = " → ".join(map(str, experiment.network.widths(inputs, data.train.targets.shape[1])))
        steps = experiment.training.total_steps(rows)
        choices = experiment.choices
        parts = [
            f"{choices['method']} {choices['precision']}",
            f"{choices['problem']} {rows} × {widths}",
            choices["loss"],
            f"{choices['optimizer']} lr={short(experiment.optimizer.lr)}",
            f"{steps} steps",
            f"seed {experiment.seed}",
        ]
        self.say(self._title or ", ".join(parts))
        self._total, self._cadence = steps, max(experiment.training.log_cadence(rows), ceil(steps / 5) if self._title else 0)
        if sys.stdout and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._progress = Progress(*columns, transient=True)
            self._progress.start()
            self._task = self._progress.add_task("", total=steps)

    def progress(self, curve: Curve) -> None:
        """The loss so far."""
        last = len(curve.train_loss) - 1
        if last < 0:
            return
        if self._progress:
            self._progress.update(self._task, completed=last + 1, description=f"train/loss {number(curve.train_loss[-1])}")
        elif self._title is None and (last // self._cadence > self._said // self._cadence or last == self._total - 1):
            due = last if last == self._total - 1 else last // self._cadence * self._cadence
            self._said = last
            self.say(f"step {due:>{len(str(self._total))}}  train/loss {number(curve.train_loss[due])}{_latest(curve)}")

    def end(self) -> None:
        """No more progress: the bar goes."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def say(self, line: str) -> None:
        """Print a line. A reader that has gone away (`| head`) does not end the run."""
        try:
            print(line, flush=True)
        except OSError:
            sys.stdout = io.StringIO()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table, never wrapped or cut."""
        lines = [columns, *rows]
        widths = [max(_width(line[place]) for line in lines) for place in range(len(columns))]
        bold = ("\033[1m", "\033[0m") if sys.stdout and sys.stdout.isatty() else ("", "")
        for line in lines:
            cells = []
            for cell, width, column in zip(line, widths, columns, strict=True):
                space = " " * (width - _width(cell))
                cells.append(f"{space}{cell}" if column in _NUMBERS else f"{cell}{space}")
            start, end = bold if line is columns else ("", "")
            self.say(f"{start}{'  '.join(cells).rstrip()}{end}")


class Silence(Report):
    """Nothing is printed: for notebooks."""

    @property
    def detailed(self) -> bool:
        return False

    def begin(self, experiment: Experiment, data: Data) -> None: ...

    def progress(self, curve: Curve) -> None: ...

    def say(self, line: str) -> None: ...


_NUMBERS = ("first loss", "final loss", "valid accuracy", "valid r2", "valid loss", "seconds")
_NUMBERS += ("resolution", "largest error / tolerance")


def _width(text: str) -> int:
    """Columns of a terminal: the letters of some alphabets take two, accents none."""
    return sum(0 if combining(letter) else 1 + (east_asian_width(letter) in "WF") for letter in text)


def _latest(curve: Curve) -> str:
    return "".join(f"  valid/{name} {number(values[-1])}" for name, values in curve.valid.items())
