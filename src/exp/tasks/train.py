"""task=train: train the method once, keep everything in the run folder, tell MLflow."""

import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exp.conditions import controlled
from exp.curve import Curve
from exp.environment import environment
from exp.experiment import Experiment
from exp.interruption import interrupted
from exp.naming import short
from exp.problems import Data
from exp.report import Report
from exp.run_folder import RunFolder, mark_killed
from exp.seeds import digest
from exp.summary import cell, metrics, valid_columns
from exp.tasks.base import Task
from exp.tracking.links import follow_up
from exp.tracking.uploader import shared_uploader
from exp.training import train

FLUSH_SECONDS = 2.0
"""How often a running curve is written, and sent on."""

KILLED_PATIENCE_SECONDS = 5.0
"""How long a run that was told to stop waits for its last upload."""


@dataclass(kw_only=True)
class Train(Task):
    """Train once."""

    trains = True

    def __call__(self, experiment: Experiment) -> int:
        data = experiment.check()
        report = Report()
        report.begin(experiment, data)
        mark_killed(experiment.runs)
        folder = record(experiment, data, report)
        status = folder.status()
        if status["status"] == "FINISHED":
            columns = ("method", "device", "precision", "first loss", "final loss", *valid_columns([status]), "seconds")
            report.table(columns, [[cell(status, column) for column in columns]])
        for line in follow_up(experiment, [folder]):
            report.say(line)
        return 1 if status["status"] == "FAILED" else 0


def record(experiment: Experiment, data: Data, report: Report, **status: Any) -> RunFolder:
    """Train a checked experiment and return its folder, whatever became of the run.

    An error of the run itself is recorded (FAILED) and said; Ctrl-C and SIGTERM are recorded (KILLED) and raised again.
    """
    address = experiment.tracker.address()
    if address:
        shared_uploader().open(address["uri"])  # while this process imports torch
    device = experiment.resolve_device()
    folder = RunFolder.create(experiment.runs, experiment.name)
    try:
        folder.write_config(experiment.config)
        begun = {"name": experiment.name, "status": "RUNNING", "started": time.time(), "ended": None}
        folder.update_status(**begun, choices=experiment.choices, tracking=address, **status)
        _send(folder, address)
        try:
            ended = _train(experiment, data, device.torch_name, folder, report, address)
        except Exception as error:
            folder.write_text("error.txt", traceback.format_exc())
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            folder.update_status(status="FAILED", ended=time.time(), error=reason)
            report.end()
            report.say(f"failed: {reason} ({Path(where.filename).name} line {where.lineno}; {folder.path}/error.txt)")
        else:
            folder.update_status(ended=time.time(), **ended)
    except BaseException as error:
        report.end()
        if not interrupted(error):  # a method that leaves by SystemExit, a status that could not be written
            folder.update_status(status="FAILED", ended=time.time(), error=f"{type(error).__name__}: {error}")
        else:
            folder.update_status(status="KILLED", ended=time.time())
            report.say(f"killed; what was trained is recorded in {folder.path}")
            _send(folder, address)
            if address:
                shared_uploader().wait([str(folder.path.absolute())], address["uri"], at_most=KILLED_PATIENCE_SECONDS)
        raise
    finally:
        report.end()
        folder.release()
    _send(folder, address)
    return folder


def _train(
    experiment: Experiment, data: Data, torch_device: str, folder: RunFolder, report: Report, address: dict[str, str] | None
) -> dict[str, Any]:
    """The run proper; returns what its status says of it at the end."""
    library = experiment.method.library
    with controlled(experiment.threads, library, experiment.precision, torch_device) as conditions:
        state, place = experiment.start(data, experiment.device)
        digests = {"data": data.digest(), "weights": digest(state.params)}
        folder.update_status(digests=digests)
        folder.write_state("initial", state)
        folder.write_json("problem.json", _problem(data))
        described = environment(torch_device if library == "torch" else None) | {"conditions": conditions}
        folder.write_json("environment.json", described)
        flushed = time.monotonic()
        curve = Curve()
        try:
            for curve in train(experiment.method, experiment.training, data, experiment.loss, place):
                report.progress(curve)
                if time.monotonic() - flushed > FLUSH_SECONDS:
                    folder.write_curve(curve.arrays())
                    _send(folder, address)
                    flushed = time.monotonic()
        finally:  # also of a run that failed or was killed
            report.end()
            folder.write_curve(curve.arrays())
        final = experiment.method.export()
    said = {"status": "FINISHED", "metrics": metrics(curve), "first_loss": next(iter(curve.train_loss), None)}
    if curve.rows_digest:
        said["digests"] = digests | {"rows": curve.rows_digest}
    if curve.blew_up_at_step is not None:
        tensor = f"; first not finite: {curve.first_not_finite}" if curve.first_not_finite else ""
        smaller = f"try optimizer.lr={short(experiment.optimizer.lr / 10)}"
        report.say(f"blew up: loss not finite from step {curve.blew_up_at_step}{tensor}; {smaller}")
        return said | {"blew_up_at_step": curve.blew_up_at_step, "not_finite": curve.first_not_finite}
    folder.write_state("final", final)
    dead = experiment.dead_units(final.params, data)
    for (layer, count), units in zip(dead.items(), experiment.network.hidden, strict=False):
        if 2 * count >= units:
            which = f"all {units} hidden units of {layer} died: no sample of the training split activates any"
            some = f"{count} of {units} hidden units of {layer} died: no sample of the training split activates them"
            report.say(f"{which if count == units else some}; try a smaller optimizer.lr")
    return said | {"dead_units": {layer: count for layer, count in dead.items() if count}}


def _send(folder: RunFolder, address: dict[str, str] | None) -> None:
    if address:
        shared_uploader().send(folder.path)


def _problem(data: Data) -> dict[str, Any]:
    """What predictions need: columns, classes and scalings."""
    scalings = {"input_scaling": data.input_scaling, "target_scaling": data.target_scaling}
    return {
        "rows": {"train": len(data.train.x), "valid": len(data.valid.x) if data.valid else 0},
        "inputs": data.train.inputs.shape[1],
        "outputs": data.train.targets.shape[1],
        "columns": data.columns,
        "classes": None if data.classes is None else data.classes.tolist(),
        **{
            name: {"shift": scaling.shift.tolist(), "scale": scaling.scale.tolist()} if scaling else None
            for name, scaling in scalings.items()
        },
    }
