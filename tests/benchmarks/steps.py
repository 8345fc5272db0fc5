"""What a tracked step costs beside the tutorial's own loop: `python -m benchmarks.steps [cuda] [repeats] [method …]`.

In the folder `tests`. Both keep every loss on the host, compute in the same precision, in the same process, with one thread,
and take turns block by block; a figure is the median ratio of neighbouring blocks, with its quartiles. The peers are the
tutorial's three loops without their `print`, here for batches too, and for methods that the tutorial does not have the plain
loop of their kind.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from campaigns.machine import machine

from exp import registry
from exp.arrays import Array, Place, get, put
from exp.composition import compose
from exp.conditions import controlled
from exp.configuration import instantiate
from exp.losses import SquaredError
from exp.methods import Block, Formulas
from exp.network import Network
from exp.optimizers import SGD
from exp.precisions import FP32
from exp.state import State

RATE = 1e-6
BLOCK_STEPS = 100
LEAST_SECONDS = 0.02

Batches = Iterable[np.ndarray | None]


@dataclass(frozen=True)
class Size:
    """Rows of the data, inputs, hidden units, outputs; the rows of a batch, None for all."""

    rows: int
    inputs: int
    hidden: int
    outputs: int
    batch: int | None = None

    def data(self) -> tuple[np.ndarray, ...]:
        """x, y, w1, w2, float32; the weights so small that no loss overflows."""
        random = np.random.default_rng(0)
        shapes = (self.rows, self.inputs), (self.rows, self.outputs), (self.inputs, self.hidden), (self.hidden, self.outputs)
        return tuple((random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32) for shape in shapes)

    def batches(self, steps: int) -> np.ndarray | None:
        """The rows of each step, (steps, batch)."""
        random = np.random.default_rng(1)
        return None if self.batch is None else np.stack([random.permutation(self.rows)[: self.batch] for _ in range(steps)])


SIZES = {
    "tutorial": Size(64, 1000, 100, 10),
    "small": Size(64, 64, 32, 10),
    "wide": Size(64, 1000, 1000, 10),
    "digits, batches of 64": Size(1437, 64, 32, 10, 64),
    "tutorial, batches of 32": Size(64, 1000, 100, 10, 32),
}


def by_numpy(x: Array, y: Array, w1: Array, w2: Array, batches: Batches) -> list[float]:
    losses = []
    for rows in batches:
        xb, yb = (x, y) if rows is None else (x[rows], y[rows])
        h = xb.dot(w1)
        h_relu = np.maximum(h, 0)
        y_pred = h_relu.dot(w2)

        loss = np.square(y_pred - yb).sum()
        losses.append(loss)

        grad_y_pred = 2.0 * (y_pred - yb)
        grad_w2 = h_relu.T.dot(grad_y_pred)
        grad_h_relu = grad_y_pred.dot(w2.T)
        grad_h = grad_h_relu.copy()
        grad_h[h < 0] = 0
        grad_w1 = xb.T.dot(grad_h)

        w1 -= RATE * grad_w1
        w2 -= RATE * grad_w2
    return losses


def by_tensor(x: Array, y: Array, w1: Array, w2: Array, batches: Batches) -> list[float]:
    losses = []
    for rows in batches:
        xb, yb = (x, y) if rows is None else (x[rows], y[rows])
        h = xb.mm(w1)
        h_relu = h.clamp(min=0)
        y_pred = h_relu.mm(w2)

        loss = (y_pred - yb).pow(2).sum().item()
        losses.append(loss)

        grad_y_pred = 2.0 * (y_pred - yb)
        grad_w2 = h_relu.t().mm(grad_y_pred)
        grad_h_relu = grad_y_pred.mm(w2.t())
        grad_h = grad_h_relu.clone()
        grad_h[h < 0] = 0
        grad_w1 = xb.t().mm(grad_h)

        w1 -= RATE * grad_w1
        w2 -= RATE * grad_w2
    return losses


def by_autograd(x: Array, y: Array, w1: Array, w2: Array, batches: Batches) -> list[float]:
    losses = []
    for rows in batches:
        xb, yb = (x, y) if rows is None else (x[rows], y[rows])
        y_pred = xb.mm(w1).clamp(min=0).mm(w2)

        loss = (y_pred - yb).pow(2).sum()
        losses.append(loss.item())

        loss.backward()

        with torch.no_grad():
            w1 -= RATE * w1.grad
            w2 -= RATE * w2.grad

            w1.grad.zero_()
            w2.grad.zero_()
    return losses


def by_functional(x: Array, y: Array, w1: Array, w2: Array, batches: Batches) -> list[float]:
    """The plain loop of `torch.func`."""

    def objective(w1: Array, w2: Array, xb: Array, yb: Array) -> Array:
        return (xb.mm(w1).clamp(min=0).mm(w2) - yb).pow(2).sum()

    losses, step = [], torch.func.grad_and_value(objective, argnums=(0, 1))
    for rows in batches:
        xb, yb = (x, y) if rows is None else (x[rows], y[rows])
        (grad_w1, grad_w2), loss = step(w1, w2, xb, yb)
        losses.append(loss.item())
        w1 -= RATE * grad_w1
        w2 -= RATE * grad_w2
    return losses


def by_module(x: Array, y: Array, w1: Array, w2: Array, batches: Batches) -> list[float]:
    """The plain loop of `torch.nn` and `torch.optim`."""
    (inputs, hidden), outputs = w1.shape, w2.shape[1]
    first, last = torch.nn.Linear(inputs, hidden, bias=False), torch.nn.Linear(hidden, outputs, bias=False)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), last).to(x.device)
    with torch.no_grad():
        first.weight.copy_(w1.T)
        last.weight.copy_(w2.T)
    optimizer, measure, losses = torch.optim.SGD(model.parameters(), lr=RATE), torch.nn.MSELoss(reduction="sum"), []
    for rows in batches:
        xb, yb = (x, y) if rows is None else (x[rows], y[rows])
        loss = measure(model(xb), yb)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


Loop = Callable[[Array, Array, Array, Array, Batches], list[float]]
PEERS: dict[str, list[Loop]] = {
    "numpy": [by_numpy],
    "tensor": [by_tensor],
    "autograd": [by_autograd],
    "function": [by_autograd],
    "functional": [by_autograd, by_functional],
    "module": [by_autograd, by_module],
    "compiled": [by_autograd],
    "graphed": [by_autograd],
    "jax": [by_autograd],
}


def ours(name: str, size: Size, device: str) -> Callable[[], np.ndarray]:
    """A block of steps of a method, its losses on the host."""
    experiment, _ = instantiate(*compose([f"method={name}", f"device={device}"]))
    method, (x, y, w1, w2) = experiment.method, size.data()
    place = Place(method.library, device, "float32")
    optimizer = SGD(lr=RATE)
    state = State({"layer1.weight": w1, "layer2.weight": w2}, {}, np.array(0, dtype=np.int64))
    method.start(Formulas(Network(hidden=[size.hidden]), SquaredError(), optimizer, optimizer.constants()), state, place)
    all_x, all_y, block = put(x, place), put(y, place), Block(0, BLOCK_STEPS, size.batches(BLOCK_STEPS))
    return lambda: get(method.steps(all_x, all_y, block, place))


def theirs(loop: Loop, name: str, size: Size, device: str) -> Callable[[], list[float]]:
    """The same steps by a loop of the tutorial's kind."""
    arrays: list[Any] = [np.copy(array) if name == "numpy" else torch.tensor(array, device=device) for array in size.data()]
    if loop is by_autograd:
        arrays[2:] = [array.requires_grad_() for array in arrays[2:]]
    batches: Any = size.batches(BLOCK_STEPS)
    if batches is not None and name != "numpy":
        batches = torch.tensor(batches, device=device)
    x, y, w1, w2 = arrays
    return lambda: loop(x, y, w1, w2, [None] * BLOCK_STEPS if batches is None else batches)


def seconds(block: Callable[[], object]) -> float:
    """One block, repeated until it can be timed."""
    done, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < LEAST_SECONDS or not done:
        block()
        done += 1
    return taken / done


def compared(one: Callable[[], object], other: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Microseconds of a step of `one` and its ratios to `other`, in turns."""
    steps, ratios = [], []
    for repeat in range(-1, repeats):
        first, second = (one, other) if repeat % 2 else (other, one)
        taken = {first: seconds(first), second: seconds(second)}
        if repeat >= 0:  # before that, all is warmed up
            steps.append(taken[one] / BLOCK_STEPS * 1e6)
            ratios.append(taken[one] / taken[other])
    return steps, ratios


def main() -> None:
    """Measure and print."""
    words = sys.argv[1:]
    device = words.pop(0) if words[:1] == ["cuda"] else "cpu"
    repeats = int(words.pop(0)) if words else 15
    places = {"numpy": ["cpu"], "graphed": ["cuda"]}
    able = [name for name in PEERS if name in registry.choices("method") and device in places.get(name, [device])]
    print(machine("1 thread, fp32"))
    print(f"\nµs of a step, and its ratio to the peer's: median (quartiles) of {repeats} pairs of blocks in turns\n")
    with controlled(1, "torch", FP32(), device):
        for title, size in SIZES.items():
            for name in words or able:
                for loop in PEERS[name]:
                    steps, ratios = compared(ours(name, size, device), theirs(loop, name, size, device), repeats)
                    low, middle, high = statistics.quantiles(ratios, n=4)
                    what = f"{title}: {name} to {loop.__name__.replace('_', ' ')}"
                    print(f"{statistics.median(steps):8.1f} {middle:7.2f}  ({low:.2f} to {high:.2f})  {what}", flush=True)


if __name__ == "__main__":
    main()
