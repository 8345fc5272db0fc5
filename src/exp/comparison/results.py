"""`exp.results`: the runs of a sweep with their full histories."""

from pathlib import Path
from typing import TYPE_CHECKING

from exp.comparison.frame import frame
from exp.comparison.selection import selected
from exp.comparison.verdicts import verdicts

if TYPE_CHECKING:
    import pandas


def results(sweep: str, runs_folder: Path | str) -> "pandas.DataFrame":
    """See `exp.results`."""
    selection = selected(runs_folder, sweep, fewest=1)
    return frame(selection, verdicts(selection.trials, runs_folder))
