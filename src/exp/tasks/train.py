"""task=train: train the method, keep everything in the run folder, tell MLflow; several runs of a sweep as one program."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf
from typing import Any

from exp.claims import Claim
from exp.conditions import controlled
from exp.curve import Curve
from exp.devices import Device
from exp.environment import environment
from exp.experiment import Experiment
from exp.fusion import groups
from exp.identity import run_sources
from exp.interruption import interrupted
from exp.memory import measured
from exp.naming import short
from exp.problems import Data
from exp.program import Disagreement, Program
from exp.report import Report
from exp.run_folder import RunFolder, Verdicts
from exp.seeds import digest
from exp.state import State
from exp.summary import cell, metrics, valid_columns
from exp.tasks.base import Group, Member, RunTask, Table
from exp.tasks.recording import alone, carried_out

FLUSH_SECONDS = 2.0
"""How often a running curve is written, and sent on."""


@dataclass(kw_only=True)
class Train(RunTask):
    """Train once."""

    kind = "train"

    def __call__(self, experiment: Experiment) -> int:
        return alone(self, experiment, Report())

    def record(
        self, experiment: Experiment, data: Data, report: Report, claim: Claim | None = None, **status: Any
    ) -> RunFolder:
        return self.record_together([Member(experiment, data, claim, status)], report)[0]

    def groups(
        self, runs: Sequence[tuple[Experiment, Data]], fuse: str, *, elsewhere: bool = False, workers: int = 1
    ) -> list[Group]:
        return groups(runs, fuse, elsewhere=elsewhere, workers=workers)

    def record_together(self, members: Sequence[Member], report: Report) -> list[RunFolder]:
        return carried_out(members, report, partial(_train, report), task=self.kind)

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
    report: Report,
    members: Sequence[Member],
    folders: Sequence[RunFolder],
    torch_device: str,
    send: Callable[[], None],
) -> Iterator[dict[str, Any]]:
    """The runs proper, as one program; one after the other what the status of each says of it at the end.

    Raises `Disagreement` for a program in which a run was not what it is alone.
    """
    program = Program([member.experiment for member in members], [member.data for member in members])
    first = members[0].experiment
    library = first.method.library
    used = torch_device if library == "torch" else None
    with controlled(first.threads, library, first.precision, torch_device) as conditions:
        memory = measured(used)
        initial = program.start(first.device)
        described = environment(used) | {"conditions": conditions, "sources": run_sources(first)}
        digests = []
        for member, folder, state in zip(members, folders, initial, strict=True):
            digests.append({"data": member.data.digest, "weights": digest(state.params)})
            folder.update_status(digests=digests[-1])
            folder.write_state("initial", state)
            folder.write_json("problem.json", _problem(member.data))
            folder.write_json("environment.json", described)
        flushed = time.monotonic()
        curves = [Curve() for _ in members]
        try:
            for curves in program.train():
                report.progress(next((curve for curve in curves if curve.blew_up_at_step is None), curves[0]))
                if len(members) == 1 and time.monotonic() - flushed > FLUSH_SECONDS:
                    _write_curves(folders, curves)
                    send()
                    flushed = time.monotonic()
            report.end()
            taken = {name: value / len(members) for name, value in memory().items()}
            finals = program.export()
            said = [taken | metrics(curve) for curve in curves]
            together = _checked(program, folders, curves, finals, first.device) if len(members) > 1 else {}
        except BaseException as error:  # also of a run that failed or was killed; a program that failed is done again
            report.end()
            if len(members) == 1 or interrupted(error):
                _write_curves(folders, curves)
            raise
        _write_curves(folders, curves)
    for member, folder, curve, final, own, numbers in zip(members, folders, curves, finals, digests, said, strict=True):
        ended = _ended(report, member, folder, curve, final, own, numbers, torch_device, several=len(members) > 1)
        yield ended | together


def _checked(
    program: Program, folders: Sequence[RunFolder], curves: Sequence[Curve], finals: Sequence[State], device: Device
) -> dict[str, Any]:
    """What all runs of a program say of it: its size, and how one of them, taken at random, compares with itself alone."""
    run = program.compared
    found = program.compared_alone(curves[run], finals[run], device)
    if not found.agrees:
        raise Disagreement(f"{folders[run].path.name} is not what it is alone: {found}")
    checked = {"run": folders[run].path.name, **asdict(found)}
    return {"program": {"first": folders[0].path.name, "runs": len(curves), "checked": checked}}


def _write_curves(folders: Sequence[RunFolder], curves: Sequence[Curve]) -> None:
    for folder, curve in zip(folders, curves, strict=True):
        folder.write_curve(curve.arrays())


def _ended(
    report: Report,
    member: Member,
    folder: RunFolder,
    curve: Curve,
    final: State,
    digests: dict[str, str],
    numbers: dict[str, float],
    torch_device: str,
    *,
    several: bool,
) -> dict[str, Any]:
    """What the status of one run says at the end; what a person should know is said, with its name where there are several."""
    experiment, data = member.experiment, member.data
    which = f"{experiment.name}: " if several else ""
    said = {"status": "FINISHED", "metrics": numbers, "first_loss": next(iter(curve.train_loss), None)}
    if experiment.training.verify:
        from exp.in_stack import InStack
        from exp.judgement import remembered  # a tenth of a start: most runs need none of it
        from exp.tasks.verify import verdict_status

        judged_as = replace(experiment, method=InStack(inner=experiment.method)) if several else experiment
        verdict = remembered(judged_as, data, torch_device, Verdicts(experiment.runs))
        folder.write_json("verdict.json", {**experiment.choices, **verdict.as_json()})
        report.say(f"{which}verdict: {verdict.line}")
        judged = verdict_status(verdict, experiment)
        said |= judged | {"metrics": said["metrics"] | judged["metrics"]}
    if curve.rows_digest:
        said["digests"] = digests | {"rows": curve.rows_digest}
    if curve.blew_up_at_step is None and int(final.count) != len(curve.train_loss):
        counted = f"the method's state counts {int(final.count)} updates after {len(curve.train_loss)} steps"
        report.say(f"{which}{counted}: some were left out, or not counted; task=verify says which")
    if curve.blew_up_at_step is not None:
        tensor = f"; first not finite: {curve.first_not_finite}" if curve.first_not_finite else ""
        smaller = f"try optimizer.lr={short(experiment.optimizer.lr / 10)}"
        report.say(f"{which}blew up: loss not finite from step {curve.blew_up_at_step}{tensor}; {smaller}")
        return said | {"blew_up_at_step": curve.blew_up_at_step, "not_finite": curve.first_not_finite}
    folder.write_state("final", final)
    dead = experiment.dead_units(final.params, data)
    for (layer, count), units in zip(dead.items(), experiment.network.hidden, strict=False):
        if 2 * count >= units:
            all_of = f"all {units} hidden units of {layer} died: no sample of the training split activates any"
            some = f"{count} of {units} hidden units of {layer} died: no sample of the training split activates them"
            report.say(f"{which}{all_of if count == units else some}; try a smaller optimizer.lr")
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
