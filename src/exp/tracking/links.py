"""What is said after runs: where their curves are, or why they are not there yet."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from exp.experiment import Experiment
from exp.run_folder import RunFolder
from exp.tracking.settings import SERVERS, database_file
from exp.tracking.uploader import DATABASE_PATIENCE_SECONDS, shared_uploader
from exp.tracking.view import run_link, sweep_filter, sweep_link

ADDRESS = "http://127.0.0.1:5000"

RUN_PATIENCE_SECONDS = 0.2
"""How much longer the uploads of many runs are waited for, for each."""

RECOVERY_PATIENCE_SECONDS = 5.0
"""How long the uploads of earlier runs are waited for; they go on without us."""


def follow_up(experiment: Experiment, folders: list[RunFolder], view: dict[str, Any] | None = None) -> list[str]:
    """Wait for the uploads, within bounds, and say where to look. The last line says what to type to see the curves."""
    address = experiment.tracker.address()
    where = f"{experiment.runs}/ (the sweep: {folders[-1].path})" if len(folders) > 1 else str(folders[-1].path)
    if address is None:
        load = f"exp.load({str(folders[-1].path)!r}).losses" if len(folders) == 1 else "exp.load(folder).losses"
        return [f"recorded in {where}; not tracked (tracker=none): {load} is the curve"]
    uploader = shared_uploader()
    uploader.send_unknown(folder.path for folder in folders)
    runs = Path(experiment.runs).absolute()
    if view:
        uploader.send_view(view)
    uploader.recover(runs, address["uri"])
    names = [str(folder.path.absolute()) for folder in folders] + ([view["sweep"]] if view else [])
    answers = uploader.wait(names, address["uri"], at_most=DATABASE_PATIENCE_SECONDS + RUN_PATIENCE_SECONDS * len(names))
    answers |= uploader.wait([f"recovered {runs}"], address["uri"], at_most=RECOVERY_PATIENCE_SECONDS)
    errors = [answers.get(name, {}).get("error", None if name in answers else "no answer in time") for name in names]
    errors = [error for error in errors if error]
    lines = [f"recorded in {where}"]
    recovered = answers.get(f"recovered {runs}", {})
    if missing := [path for path in recovered.get("uploaded", ()) if path not in names]:
        lines[0] += f"; uploaded {len(missing)} of earlier runs"
    if failed := [why for path, why in recovered.get("failed", ()) if path not in names]:
        which = f"{len(failed)} earlier runs are" if len(failed) > 1 else "an earlier run is"
        lines[0] += f"; {which} still not uploaded" + ("" if failed[0] in errors else f" ({failed[0]})")
    for uri, count, path in recovered.get("waiting", ()):
        which = f"{count} earlier runs have" if count > 1 else "an earlier run has"
        lines.append(f"{which} not reached {uri} yet, which is tried again now; to give up, delete {os.path.relpath(path)}")
    if errors:
        return [*lines, f"not in MLflow yet ({errors[0]}); the next python -m exp with this runs folder uploads it"]
    if view:
        saved = answers[view["sweep"]]
        link = sweep_link(_server(address["uri"]), saved["experiment"], sweep_filter(view), saved.get("key"))
    else:
        first = answers[names[0]]
        curves = [name for name in ("train/loss", "reference/loss") if name in folders[0].curve()] or ["train/loss"]
        link = run_link(_server(address["uri"]), first["experiment"], first["run"], curves)
    return [*lines, f"see the curve{'s' if view else ''}: {_command(address['uri'])}{link}"]


def _server(uri: str) -> str:
    return uri if uri.partition(":")[0] in SERVERS else ADDRESS


def _command(uri: str) -> str:
    """What to type to serve the store; nothing for a server."""
    if uri.partition(":")[0] in SERVERS:
        return ""
    beside = Path(sys.executable).parent / "mlflow"  # not on the path in an environment that is not activated
    program = "mlflow" if shutil.which("mlflow") or not beside.exists() else _near(beside)
    default = database_file(uri) == Path("mlflow.db").absolute() and not os.environ.get("MLFLOW_TRACKING_URI")
    store = "" if default else f" --backend-store-uri {shlex.quote(uri)}"
    return f"{shlex.quote(program)} ui{store}, then open "


def _near(path: Path) -> str:
    """The path as one would type it here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
