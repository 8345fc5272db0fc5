"""Peers, on request in the same table: the tutorial's three scripts in their own form, and a Lightning loop.

They are methods of no configuration: what others write, timed by the same blocks as ours. The tutorial's have no `print`; every
loss is read, as there. Their ReLU has the derivative 1 at 0, so they are judged by their timed blocks alone.
"""

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from exp.arrays import Array, Place, get, put
from exp.errors import InputError, require_choice
from exp.experiment import Experiment
from exp.methods.base import Block, Formulas, Method
from exp.state import State

PEERS = ("tutorial", "lightning")


def peers(experiment: Experiment, wanted: Collection[str]) -> dict[str, Method]:
    """The peers by their names in the table, for the size and the place of an experiment; of those that can be had there."""
    found: dict[str, Method] = {}
    absent = absences(experiment, wanted)
    if "tutorial" in wanted and "tutorial" not in absent:
        found |= {} if "tutorial numpy" in absent else {"tutorial numpy": TutorialNumPy()}
        found |= {"tutorial tensor": TutorialTensor(), "tutorial autograd": TutorialAutograd()}
    if "lightning" in wanted and "lightning" not in absent:
        from exp.benchmark.lightning_loop import LightningLoop

        found |= {"lightning": LightningLoop()}
    return found


def require_peers(wanted: list[str]) -> None:
    """Raise `InputError` for a peer that is none, or is not installed."""
    for name in wanted:
        require_choice("peers", name, PEERS)
    if "lightning" in wanted and importlib.util.find_spec("lightning") is None:
        raise InputError("peers", "lightning", "is not installed; pip install 'exp[bench]', or leave it out")


def absences(experiment: Experiment, wanted: Collection[str]) -> dict[str, str]:
    """Why a wanted peer, or one of its scripts, cannot do the experiment."""
    network, optimizer, choices = experiment.network, experiment.optimizer, experiment.choices
    found = {}
    if "tutorial" in wanted:
        shape = (len(network.hidden), network.bias, network.activation) == (1, False, "relu")
        update = choices["optimizer"] == "sgd" and not optimizer.weight_decay and experiment.training.batch_size is None
        if not (shape and update and choices["loss"] == "squared_error"):
            known = "one hidden ReLU layer without biases, squared_error, plain sgd and whole batches alone"
            found["tutorial"] = f"the tutorial's scripts know {known}"
        elif experiment.device.torch_name != "cpu" or experiment.precision.name not in ("fp32", "fp64"):
            found["tutorial numpy"] = "NumPy computes on a CPU, in fp32 or fp64"
    if "lightning" in wanted and experiment.precision.name not in ("fp32", "fp64"):
        found["lightning"] = "its loop is written for precision=fp32 and fp64"
    return found


@dataclass(kw_only=True)
class Tutorial(Method):
    """One of the tutorial's scripts: two weights, and a loop of its own."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        self.learning_rate = formulas.optimizer.lr
        self.w1, self.w2 = (put(state.params[f"layer{layer}.weight"], place) for layer in (1, 2))
        self.count = int(state.count)

    def step(self, x: Array, y: Array) -> Array:
        return self.steps(x, y, Block(0, 1), Place(self.library))[0]

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        self.count += block.steps
        return np.array(self.loop(x, y, block.steps))

    def loop(self, x: Array, y: Array, steps: int) -> list[float]:
        """The script's own loop; returns what it would print."""
        raise NotImplementedError

    def predict(self, x: Array) -> Array:
        h = x @ self.w1
        return (h * (h > 0)) @ self.w2

    def export(self) -> State:
        weights = {"layer1.weight": get(self.w1), "layer2.weight": get(self.w2)}
        return State(weights, {}, np.array(self.count, dtype=np.int64))


@dataclass(kw_only=True)
class TutorialNumPy(Tutorial):
    """The first script."""

    library = "numpy"

    def loop(self, x: Array, y: Array, steps: int) -> list[float]:
        losses, w1, w2, learning_rate = [], self.w1, self.w2, self.learning_rate
        for _ in range(steps):
            h = x.dot(w1)
            h_relu = np.maximum(h, 0)
            y_pred = h_relu.dot(w2)

            loss = np.square(y_pred - y).sum()
            losses.append(loss)

            grad_y_pred = 2.0 * (y_pred - y)
            grad_w2 = h_relu.T.dot(grad_y_pred)
            grad_h_relu = grad_y_pred.dot(w2.T)
            grad_h = grad_h_relu.copy()
            grad_h[h < 0] = 0
            grad_w1 = x.T.dot(grad_h)

            w1 -= learning_rate * grad_w1
            w2 -= learning_rate * grad_w2
        return losses


@dataclass(kw_only=True)
class TutorialTensor(Tutorial):
    """The second script."""

    def loop(self, x: Array, y: Array, steps: int) -> list[float]:
        losses, w1, w2, learning_rate = [], self.w1, self.w2, self.learning_rate
        for _ in range(steps):
            h = x.mm(w1)
            h_relu = h.clamp(min=0)
            y_pred = h_relu.mm(w2)

            loss = (y_pred - y).pow(2).sum().item()
            losses.append(loss)

            grad_y_pred = 2.0 * (y_pred - y)
            grad_w2 = h_relu.t().mm(grad_y_pred)
            grad_h_relu = grad_y_pred.mm(w2.t())
            grad_h = grad_h_relu.clone()
            grad_h[h < 0] = 0
            grad_w1 = x.t().mm(grad_h)

            w1 -= learning_rate * grad_w1
            w2 -= learning_rate * grad_w2
        return losses


@dataclass(kw_only=True)
class TutorialAutograd(Tutorial):
    """The third script."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.w1.requires_grad_()
        self.w2.requires_grad_()

    def loop(self, x: Array, y: Array, steps: int) -> list[float]:
        import torch

        losses, w1, w2, learning_rate = [], self.w1, self.w2, self.learning_rate
        for _ in range(steps):
            y_pred = x.mm(w1).clamp(min=0).mm(w2)

            loss = (y_pred - y).pow(2).sum()
            losses.append(loss.item())

            loss.backward()

            with torch.no_grad():
                w1 -= learning_rate * w1.grad
                w2 -= learning_rate * w2.grad

                w1.grad.zero_()
                w2.grad.zero_()
        return losses

    def predict(self, x: Array) -> Array:
        return super().predict(x).detach()
