"""From an experiment to a verdict on its method, and the verdicts that are remembered."""

import hashlib
import json
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from exp.arrays import Place
from exp.conditions import controlled
from exp.environment import packages, processor, version
from exp.experiment import Experiment
from exp.optimizers import SGD, Momentum
from exp.problems import Data
from exp.seeds import generator
from exp.sources import kinds_of, modules_of, sources
from exp.verification.case import Case, judge_method
from exp.verification.judge import Judge
from exp.verification.reference import Unknown
from exp.verification.subject import Subject
from exp.verification.training_run import judge_training
from exp.verification.verdict import DIFFERENT, EQUIVALENT, Verdict, concluded, concluded_of_losses, undecided

FIRST_STEPS = 3
"""Of a run, that are judged with the verdict that is remembered."""

READERS = (SGD(lr=1.0), Momentum(lr=1.0, momentum=0.5))
"""Other optimizers by which a gradient can be read: they tell a wrong gradient from a wrong update of it."""


def case(experiment: Experiment, data: Data, device: str) -> Case:
    """What is to be verified, on `device` as torch names it."""
    inputs, outputs = data.train.inputs.shape[1], data.train.targets.shape[1]
    network, loss, optimizer = experiment.network, experiment.loss, experiment.optimizer
    place = Place(experiment.method.library, device, experiment.precision.dtype)
    chosen = {"device": device.partition(":")[0], "precision": experiment.precision.name, "network": network, "loss": loss}
    readers = [reader for reader in READERS if experiment.method.unsupported(**chosen, optimizer=reader) is None]
    return Case(
        subject=Subject(experiment.method, network, loss, optimizer, place),
        precision=experiment.precision.name,
        widths=tuple(network.widths(inputs, outputs)),
        classes=data.classes is not None,
        batch_size=experiment.training.batch_size,
        samples=len(data.train.inputs),
        seed=experiment.seed,
        readers=readers,
        lengths=experiment.training.lengths(len(data.train.inputs)),
    )


def conditions(experiment: Experiment, device: str) -> AbstractContextManager[dict[str, Any]]:
    """Those of the run itself; the reference needs torch also where the method does not."""
    return controlled(experiment.threads, "torch", experiment.precision, device)


def judged(
    experiment: Experiment,
    data: Data,
    device: str,
    *,
    first_steps: int | None = None,
    probes: bool = True,
    further: Callable[[Case, Judge], None] = lambda case, judge: None,
) -> Verdict:
    """The verdict on the experiment's method in its place, and along the configured training, or so many of its first steps.

    The caller has set the `conditions`. `further` looks at what else there is to judge: at all there is, without `probes`.
    A method that raises is undecided: what it computes has not been seen.
    """
    started = time.perf_counter()
    asked = case(experiment, data, device)
    try:
        judge = asked.judge(generator(asked.seed, "verification"))
    except Unknown as error:
        return undecided(str(error), "a loss, an activation or an optimizer that torch has too")
    curve: dict[str, Any] = {}
    try:
        if probes:
            judge_method(asked, judge)
        if first_steps != 0:
            training = experiment.training
            if first_steps is not None:
                training = replace(training, epochs=None, steps=min(first_steps, training.total_steps(len(data.train.inputs))))
            curve = judge_training(
                asked, judge, training, data.train.inputs, data.train.targets, experiment.initial_state(data)
            )
        further(asked, judge)
    except (Exception, SystemExit) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"the method raised {type(error).__name__}: {error}".split())
        found = undecided(f"{reason} ({Path(where.filename).name} line {where.lineno})", "a step that runs at every probe")
        if any(entry.wrong for entry in judge.judged):  # it was wrong before
            found = concluded(asked, judge)
        found.traceback = traceback.format_exc()
    else:
        found = concluded(asked, judge) if probes else concluded_of_losses(asked, judge)
    found.curve, found.seconds = curve, time.perf_counter() - started
    return found


def judged_by_kit(experiment: Experiment, data: Data, device: str) -> Verdict:
    """The verdict with the report of the conformance kit."""
    from exp.verification.kit import conformance

    found = judged(experiment, data, device)
    if found.traceback:
        return found
    return conformance(case(experiment, data, device), found, (experiment.threads, "torch", experiment.precision, device))


def remembered(experiment: Experiment, data: Data, device: str, verdicts: Any) -> Verdict:
    """The verdict on the method, from `verdicts` (a `run_folder.Verdicts`) where it is known, else judged and kept.

    Judged are its steps at probes, and the first of the run that comes first: numbers of a size that no probe has.

    Only `equivalent` and `different` are kept: what was undecided may be decided another time.
    """
    key = identity(experiment, data, device)
    if (known := verdicts.read(key)) is not None:
        return Verdict.from_json(known)
    with conditions(experiment, device):
        found = judged(experiment, data, device, first_steps=FIRST_STEPS)
    if found.verdict in (EQUIVALENT, DIFFERENT):
        verdicts.write(key, found.as_json())
    return found


def remember_different(found: Verdict, experiment: Experiment, data: Data, device: str, verdicts: Any) -> None:
    """A method that was found different, by whatever it was judged, is so for all runs that ask for what is remembered."""
    if found.verdict == DIFFERENT:
        verdicts.write(identity(experiment, data, device), found.as_json())


def identity(experiment: Experiment, data: Data, device: str) -> str:
    """The hash of what a verdict on a method depends on: its code, the shape of the configuration, the device, versions.

    Not the seeds or the learning rate: probes have their own, and other seeds give numbers of the same size.
    """
    asked = case(experiment, data, device)
    method, optimizer = experiment.method, replace(experiment.optimizer, lr=1.0)
    depends = {
        "method": [type(method).__qualname__, {field.name: repr(getattr(method, field.name)) for field in fields(method)}],  # type: ignore[arg-type]
        "code": sources([*modules_of(kinds_of(method)), __name__]),
        "shape": [asked.widths, asked.classes, asked.shape.whole, asked.ragged, asked.batch_size is not None, asked.lengths],
        "network": [experiment.network.activation, experiment.network.bias, experiment.network.initial],
        "problem": {key: value for key, value in experiment.config["problem"].items() if key != "seed"},
        "parts": [repr(experiment.loss), type(optimizer).__qualname__, repr(optimizer)],
        "where": [experiment.precision.name, device, _device_name(device), experiment.threads],
        "versions": {name: version(name) for name in packages(method.library)},
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return processor()
