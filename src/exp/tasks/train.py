"""task=train: train the method once, keep everything in the run folder, tell MLflow."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from exp.claims import Claim
from exp.conditions import controlled
from exp.curve import Curve
from exp.environment import environment
from exp.experiment import Experiment
from exp.identity import run_sources
from exp.memory import measured
from exp.naming import short
from exp.problems import Data
from exp.report import Report
from exp.run_folder import RunFolder, Verdicts
from exp.seeds import digest
from exp.summary import cell, metrics, valid_columns
from exp.tasks.base import RunTask, Table
from exp.tasks.recording import alone, recorded
from exp.training import train

FLUSH_SECONDS = 2.0
"""How often a running curve is written, and sent on."""


@dataclass(kw_only=True)
class Train(RunTask):
    """Train once."""

    def __call__(self, experiment: Experiment) -> int:
        return alone(self, experiment, Report())

    def record(
        self, experiment: Experiment, data: Data, report: Report, claim: Claim | None = None, **status: Any
    ) -> RunFolder:
        return recorded(experiment, report, partial(_train, experiment, data, report), claim, **status, task="train")

    def table(self, statuses: list[dict[str, Any]], first: Sequence[str]) -> Table:
        valid = valid_columns(statuses)
        judged = ["verdict"] if any("verdict" in status for status in statuses) else []
        known = ("device", "precision", "first loss", "final loss")
        columns = [*first, *(column for column in known if column not in first), *valid, "seconds", *judged]
        names = [f"final/{column.replace(' ', '_')}" for column in valid] + ["final/loss", "time/train_seconds"]
        rows = [[cell(status, column) for column in columns] for status in _ranked(statuses, valid)]
        return Table(columns, rows, names)

    def exit_code(self, statuses: list[dict[str, Any]]) -> int:
        return 0


def _ranked(statuses: list[dict[str, Any]], valid: list[str]) -> list[dict[str, Any]]:
    """Best first: by the validation metric where there is one, else by the final loss; what blew up comes last."""

    def rank(status: dict[str, Any]) -> tuple[bool, float]:
        metrics = status.get("metrics", {})
        name, sign = (f"final/{valid[0].replace(' ', '_')}", -1) if valid else ("final/loss", 1)
        score = sign * metrics[name] if name in metrics else inf
        return status.get("blew_up_at_step") is not None, score

    return sorted(statuses, key=rank)


def _train(
    experiment: Experiment, data: Data, report: Report, folder: RunFolder, torch_device: str, send: Callable[[], None]
) -> dict[str, Any]:
    """The run proper; returns what its status says of it at the end."""
    library = experiment.method.library
    with controlled(experiment.threads, library, experiment.precision, torch_device) as conditions:
        memory = measured(torch_device if library == "torch" else None)
        state, place = experiment.start(data, experiment.device)
        digests = {"data": data.digest(), "weights": digest(state.params)}
        folder.update_status(digests=digests)
        folder.write_state("initial", state)
        folder.write_json("problem.json", _problem(data))
        described = environment(torch_device if library == "torch" else None) | {"conditions": conditions}
        described["sources"] = run_sources(experiment)
        folder.write_json("environment.json", described)
        flushed = time.monotonic()
        curve = Curve()
        try:
            for curve in train(experiment.method, experiment.training, data, experiment.loss, place):
                report.progress(curve)
                if time.monotonic() - flushed > FLUSH_SECONDS:
                    folder.write_curve(curve.arrays())
                    send()
                    flushed = time.monotonic()
        finally:  # also of a run that failed or was killed
            report.end()
            folder.write_curve(curve.arrays())
        taken = memory()
        final = experiment.method.export()
    said = {"status": "FINISHED", "metrics": metrics(curve) | taken, "first_loss": next(iter(curve.train_loss), None)}
    if experiment.training.verify:
        from exp.judgement import remembered  # a tenth of a start: most runs need none of it
        from exp.tasks.verify import verdict_status

        verdict = remembered(experiment, data, torch_device, Verdicts(experiment.runs))
        folder.write_json("verdict.json", {**experiment.choices, **verdict.as_json()})
        report.say(f"verdict: {verdict.line}")
        judged = verdict_status(verdict, experiment)
        said |= judged | {"metrics": said["metrics"] | judged["metrics"]}
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
