"""A program: runs that are trained together as one stack of tensors, or one run alone. Each stays what it is by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from exp.arrays import Array, Place, get, put
from exp.curve import Curve
from exp.devices import Device
from exp.experiment import Experiment
from exp.loop import exported, train
from exp.methods.base import Block, Formulas, Method, Wrapper
from exp.optimizers import shared, stack_constants
from exp.problems import Data
from exp.seeds import unforeseen
from exp.state import State, stack_states

if TYPE_CHECKING:
    from exp.agreement import Agreement
    from exp.verification.tolerance import Arithmetic


OUTPUTS = 64
"""Rows of which the outputs of a program and of its exported weights are compared."""

MEMBERS = 32
"""Runs of a program, at most, whose second step is compared with their own."""


class Disagreement(Exception):
    """A run in a program was not what it is alone."""


class Program:
    """Runs that differ in numbers only (`exp.fusion` says which), on their data. Of several each is compared with itself
    alone: MEMBERS of them in a step, and the run `compared` in its whole training, both drawn at random."""

    def __init__(self, experiments: Sequence[Experiment], data: Sequence[Data]):
        self.experiments, self.data = experiments, data
        self.random = unforeseen()
        self.compared = int(self.random.integers(len(experiments)))

    def start(self, device: Device) -> list[State]:
        """Start the first method, anew, with all runs; returns the states of their seeds, in float64."""
        first = self.experiments[0]
        self.initial = [run.initial_state(data) for run, data in zip(self.experiments, self.data, strict=True)]
        self.place = Place(first.method.library, device.torch_name, first.precision.dtype)
        network, constants = first.network, first.optimizer.constants()
        if len(self.initial) > 1:
            widths = zip(*(run.network.hidden for run in self.experiments), strict=True)
            network = replace(network, hidden=[max(each) for each in widths])
            constants = shared(stack_constants([run.optimizer for run in self.experiments]))
        self.formulas = Formulas(network, first.loss, first.optimizer, constants)
        self.method = self._started(self.initial)
        return self.initial

    def _started(self, states: Sequence[State]) -> Method:
        """A fresh copy of the method with all runs, from these states."""
        method = replace(self.experiments[0].method)  # type: ignore[type-var]  # every method is a dataclass
        method.start(self.formulas, stack_states(states) if len(states) > 1 else states[0], self.place)
        return method

    def train(self) -> Iterator[list[Curve]]:
        """The growing curves of the runs, after every block. Raises `Disagreement` for several, after the first step."""
        loss = self.experiments[0].loss
        trainings = [run.training for run in self.experiments]
        begun = len(self.experiments) == 1  # what is alone is compared with nothing
        for curves in train(self.method, self.initial, trainings, self.data, loss, self.place):
            if not begun:
                begun, states = True, self.export()
                self.first_step = states[self.compared]
                self._compare_steps(states)
            yield curves

    def export(self) -> list[State]:
        """The canonical state of each run."""
        return exported(self.method, self.initial)

    def _compare_steps(self, states: Sequence[State]) -> None:
        """A step of the stack from these `states`, and the same step of MEMBERS of its runs alone.

        At the states after the first step, where momentum and averages show.
        """
        from exp.agreement import step_agreement

        first = self.experiments[0]
        size = first.training.batch_size or len(self.data[0].train.inputs)
        one_set = len({id(each) for each in self.data}) == 1
        chosen = self.data[:1] if one_set else self.data
        rows = [(each.train.inputs[:size], each.train.targets[:size]) for each in chosen]
        x, y = (put(rows[0][part] if one_set else np.stack([each[part] for each in rows]), self.place) for part in (0, 1))
        stack, block = self._started(states), Block(int(states[0].count), 1)
        losses = get(stack.steps(x, y, block, self.place))[0]
        after = exported(stack, self.initial)
        members = self.random.permutation(len(states))[:MEMBERS].tolist()
        for run in members:
            alone = self._alone(run, states[run])
            own_x, own_y = (put(array, self.place) for array in rows[0 if one_set else run])
            loss = get(alone.steps(own_x, own_y, block, self.place))[0]
            found = step_agreement(states[run], (losses[run], after[run]), (loss, alone.export()), *self._rounding(run))
            if not found.agrees and self._decides(run, states[run], own_x, own_y, (loss, alone.export())):
                raise Disagreement(f"a step of {self.experiments[run].name} is not what it is alone: {found}")

    def _decides(self, run: int, state: State, x: Array, y: Array, right: tuple[Array, State]) -> bool:
        """Whether a step from `state` is the `right` one also where the weights are off by their roundings. Where it is not, as
        of Adam where a gradient is rounding, no step from there tells a right program from a wrong one."""
        from exp.agreement import step_agreement

        nudged = self._nudged(run, state)
        alone = self._alone(run, nudged)
        loss, after = get(alone.steps(x, y, Block(int(state.count), 1), self.place))[0], alone.export()
        back = {name: after.params[name] - nudged.params[name] + state.params[name] for name in state.params}
        return step_agreement(state, (loss, after._replace(params=back)), right, *self._rounding(run)).agrees

    def _nudged(self, run: int, state: State) -> State:
        """The state with every weight off by so much as the sums of a step are."""
        arithmetic, terms = self._rounding(run)

        def off(array: np.ndarray) -> np.ndarray:
            return (array * (1 + arithmetic.product(terms) * self.random.uniform(-1, 1, array.shape))).astype(array.dtype)

        return state._replace(params={name: off(array) for name, array in state.params.items()})

    def _alone(self, run: int, state: State) -> Method:
        """The method of a run, started alone: that whose formulas it has, where it is one that wraps."""
        experiment = self.experiments[run]
        method = experiment.method
        while isinstance(method, Wrapper):
            method = method.inner
        alone = replace(method)  # type: ignore[type-var]
        optimizer = experiment.optimizer
        alone.start(Formulas(experiment.network, experiment.loss, optimizer, optimizer.constants()), state, self.place)
        return alone

    def compared_alone(self, curve: Curve, final: State, device: Device) -> "Agreement":
        """Train the run `compared` once more, alone: what it is alone it has to be in the program, which ended with `curve`
        and `final`."""
        from exp.agreement import Seen, agreement, early_losses  # a run alone needs none of it

        run = self.compared
        single, first_step = self._trained_alone(device)
        initial, inputs = self.initial[run], put(self.data[run].train.inputs[:OUTPUTS], self.place)
        outputs = get(self.method.predict(inputs))[run]
        both = (
            Seen(initial, self.first_step, curve, outputs),
            Seen(initial, first_step, single, get(self._alone(run, final).predict(inputs))),
        )
        found = agreement(*both, *self._rounding(run))
        if found.agrees:
            return found
        nudged, _ = self._trained_alone(device, self._nudged(run, initial))
        return agreement(*both, *self._rounding(run), chaos=early_losses(nudged, single))

    def _trained_alone(self, device: Device, state: State | None = None) -> tuple[Curve, State]:
        """The curve of the run `compared` by itself, from its own initial state or another, and the state after a step."""
        alone = Program([self.experiments[self.compared]], [self.data[self.compared]])
        alone.start(device)
        if state is not None:
            alone.method = alone._started([state])
        curves = alone.train()
        (curve,) = next(curves)
        (first_step,) = alone.export()
        for _ in curves:  # the curve grows
            pass
        return curve, first_step

    def _rounding(self, run: int) -> tuple["Arithmetic", int]:
        """The arithmetic of a run, and how many terms are summed from one end of its network to the other."""
        from exp.verification.tolerance import Arithmetic

        precision = self.experiments[run].precision
        terms = sum(sum(array.shape) for array in self.initial[run].params.values()) + len(self.data[run].train.inputs)
        return Arithmetic(precision.name, precision.dtype), terms
