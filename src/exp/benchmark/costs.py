"""What a training step must compute and move, counted from the network: it says nothing of how a method does it.

For N rows and layers n = 1 … L that map I to O numbers, P parameters in all:

| | floating-point operations | numbers read and written |
|---|---|---|
| forward  | products 2 N I O; bias N O; activation N O (hidden)    | a (N, I), W (I, O), b (O,), z (N, O); hidden: z, a again |
| loss     | difference, square, sum: 3 N O_L; gradient 2 N O_L     | prediction and target (N, O_L), signal (N, O_L)          |
| backward | products 2 N I O for W, 2 N I O for the inputs (n > 1) | a, signal (N, O), ∂W (I, O), ∂b; n > 1: W, signal (N, I) |
|          | ∂b N O; activation N O (hidden)                        | hidden: z, signal twice                                  |
| update   | SGD 2 P, momentum 4 P, Adam 12 P; weight decay 2 P     | p, ∂p, every slot; p and every slot again                |

A product of (N, I) and (I, O) is N O sums of I products (Golub & Van Loan, Matrix Computations, 1.1): 2 N I O operations. An
array counts once for each beat that reads or writes it, as if nothing stayed in a cache in between: a step whose arrays do
stay there moves less, and its share of the ceiling is an upper bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from exp.experiment import Experiment
from exp.problems import Data

UPDATE_OPERATIONS = {(): 2, ("momentum_buffer",): 4, ("exp_avg", "exp_avg_sq"): 12}
"""For each parameter, by the optimizer's slots; weight decay adds two."""

WORKING_ARRAYS = 4
"""Arrays of a hidden layer's size that a plain step holds at once: z, a, and two signals."""


@dataclass(frozen=True)
class Costs:
    """Of one step: `products` are the operations in matrix products, `operations` all; `numbers` are read and written."""

    products: int
    operations: int
    numbers: int
    parameters: int
    held: int
    """Numbers that a plain step holds at once: data, parameters with gradient, slots and their successors, and signals."""

    def bytes(self, dtype: str) -> int:
        """The traffic in bytes where every number is of this type."""
        return self.numbers * np.dtype(dtype).itemsize

    def held_bytes(self, dtype: str) -> int:
        """What a plain step needs of the device's memory."""
        return self.held * np.dtype(dtype).itemsize


def step_costs(
    rows: int, widths: Sequence[int], *, bias: bool, slots: tuple[str, ...] = (), decays: bool = False, samples: int = 0
) -> Costs:
    """Of a step on `rows` rows of `samples`, for `widths` from the inputs to the outputs and an optimizer with these slots."""
    layers = list(pairwise(widths))
    products = operations = numbers = 0
    for number, (inputs, outputs) in enumerate(layers, start=1):
        hidden, inner = number < len(layers), number > 1
        result, weights = rows * outputs, inputs * outputs
        products += 2 * rows * weights * (3 if inner else 2)
        operations += 2 * result * bias + 2 * result * hidden
        forward = rows * inputs + weights + outputs * bias + result + 2 * result * hidden
        backward = rows * inputs + result + weights + outputs * bias + (weights + rows * inputs) * inner + 3 * result * hidden
        numbers += forward + backward
    parameters = sum(inputs * outputs + outputs * bias for inputs, outputs in layers)
    operations += products + 5 * rows * widths[-1] + parameters * (UPDATE_OPERATIONS.get(slots, 12) + 2 * decays)
    numbers += 3 * rows * widths[-1] + parameters * (3 + 2 * len(slots))
    held = max(samples, rows) * (widths[0] + widths[-1]) + parameters * (3 + 2 * len(slots))
    held += rows * sum(widths[1:]) * WORKING_ARRAYS
    return Costs(products, operations, numbers, parameters, held)


def costs(experiment: Experiment, data: Data) -> Costs:
    """Of one step of an experiment."""
    samples, inputs = data.train.inputs.shape
    widths = experiment.network.widths(inputs, data.train.targets.shape[1])
    optimizer = experiment.optimizer
    return step_costs(
        experiment.training.batch_size or samples,
        widths,
        bias=experiment.network.bias,
        slots=tuple(optimizer.slot_names),
        decays=bool(optimizer.weight_decay),
        samples=samples,
    )
