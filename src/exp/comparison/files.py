"""The files of a comparison: compare.html, compare.csv, compare.json in the sweep's folder, or in one of your own."""

from pathlib import Path

from exp.comparison.report import Comparison
from exp.errors import InputError
from exp.run_folder import RunFolder

NAMES = ("compare.html", "compare.csv", "compare.json")


def write(comparison: Comparison, folder: Path | str) -> list[Path]:
    """Write the files, each replaced as a whole; returns their paths. Raises `InputError` (key "out")."""
    folder = Path(folder)
    contents = (comparison.html(), comparison.csv(), comparison.json())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in zip(NAMES, contents, strict=True):
            RunFolder(folder).write_text(name, content)
    except OSError as error:
        raise InputError("out", folder, f"cannot be written ({error.strerror}); give another folder") from None
    return [folder / name for name in NAMES]
