"""A program: runs that are trained together as one stack of tensors, or one run alone. Each stays what it is by itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from exp.arrays import Place, get, put
from exp.curve import Curve
from exp.devices import Device
from exp.experiment import Experiment
from exp.loop import exported, train
from exp.methods.base import Formulas
from exp.optimizers import stack_constants
from exp.problems import Data
from exp.state import State, stack_states

if TYPE_CHECKING:
    from exp.agreement import Agreement


OUTPUTS = 64
"""Rows of which the outputs of a program and of its exported weights are compared."""


class Program:
    """Runs that differ in numbers only (`exp.fusion` says which), on their data."""

    def __init__(self, experiments: Sequence[Experiment], data: Sequence[Data], *, compares: bool | None = None):
        self.experiments, self.data = experiments, data
        self.compares = len(experiments) > 1 if compares is None else compares

    def start(self, device: Device) -> tuple[list[State], Place]:
        """Start the first method, anew, with all runs; returns the states of their seeds, in float64, and the place."""
        first = self.experiments[0]
        self.initial = [run.initial_state(data) for run, data in zip(self.experiments, self.data, strict=True)]
        self.place = Place(first.method.library, device.torch_name, first.precision.dtype)
        state, network, constants = self.initial[0], first.network, first.optimizer.constants()
        if len(self.initial) > 1:
            widths = zip(*(run.network.hidden for run in self.experiments), strict=True)
            state, network = stack_states(self.initial), replace(network, hidden=[max(each) for each in widths])
            constants = _shared(stack_constants([run.optimizer for run in self.experiments]))
        self.method = replace(first.method)
        self.method.start(Formulas(network, first.loss, first.optimizer, constants), state, self.place)
        return self.initial, self.place

    def train(self) -> Iterator[list[Curve]]:
        """The growing curves of the runs, after every block. `first_step` are the states after the first of them."""
        loss = self.experiments[0].loss
        trainings = [run.training for run in self.experiments]
        self.first_step: list[State] = []
        for curves in train(self.method, self.initial, trainings, self.data, loss, self.place):
            if self.compares and not self.first_step:
                self.first_step = exported(self.method, self.initial)
            yield curves

    def export(self) -> list[State]:
        """The canonical state of each run."""
        return exported(self.method, self.initial)

    def compared_alone(self, run: int, curve: Curve, device: Device) -> "Agreement":
        """Train one of the runs once more, alone: what it is alone it has to be in the program, whose `curve` is given."""
        from exp.agreement import Seen, compared  # a run alone needs none of it
        from exp.verification.tolerance import Arithmetic

        alone = Program([self.experiments[run]], [self.data[run]], compares=True)
        alone.start(device)
        *_, (single,) = alone.train()
        initial, experiment = self.initial[run], self.experiments[run]
        inputs = put(self.data[run].train.inputs[:OUTPUTS], self.place)
        ended = replace(alone.method)
        optimizer = experiment.optimizer
        ended.start(
            Formulas(experiment.network, experiment.loss, optimizer, optimizer.constants()), self.export()[run], self.place
        )
        terms = sum(sum(array.shape) for array in initial.params.values()) + len(self.data[run].train.inputs)
        return compared(
            Seen(initial, self.first_step[run], curve, get(self.method.predict(inputs))[run]),
            Seen(initial, alone.first_step[0], single, get(ended.predict(inputs))),
            Arithmetic(experiment.precision.name, experiment.precision.dtype),
            terms,
        )


def _shared(constants: Mapping[str, list[float]]) -> dict[str, Any]:
    """A constant that all runs have in common as one number: a weight decay of 0 is left out, as in one run."""
    return {key: values[0] if len(set(values)) == 1 else values for key, values in constants.items()}
