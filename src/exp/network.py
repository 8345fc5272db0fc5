"""The network: fully connected layers. Its widths, initial weights and forward pass.

Layer n maps a₍ₙ₋₁₎ to zₙ = a₍ₙ₋₁₎ Wₙ + bₙ, and aₙ = f(zₙ) but for the last layer, whose z is the prediction.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from typing import Any

from exp.activations import ACTIVATIONS, Activation
from exp.arrays import Array, product, zeros
from exp.errors import require, require_choice


@dataclass(kw_only=True)
class Network:
    """Hidden widths, activation, biases, and the distribution of the initial weights (biases start at zero).

    `initial` is `standard_normal`, W ~ N(0, 1), as in the tutorial; `he`, W ~ N(0, 2 / inputs) (He et al. 2015);
    or `glorot`, W ~ U(−r, r) with r = √(6 / (inputs + outputs)) (Glorot & Bengio 2010).
    """

    hidden: list[int] = field(default_factory=lambda: [100])
    activation: str = "relu"
    bias: bool = False
    initial: str = "standard_normal"
    seed: int = 0

    def __post_init__(self) -> None:
        require(all(width >= 1 for width in self.hidden), "hidden", self.hidden, "widths >= 1, such as [100] or [64,32]")
        require_choice("activation", self.activation, ACTIVATIONS)
        require_choice("initial", self.initial, _DRAWS)
        require(self.seed >= 0, "seed", self.seed, "a whole number >= 0")

    def widths(self, inputs: int, outputs: int) -> list[int]:
        """The widths from the inputs to the outputs."""
        return [inputs, *self.hidden, outputs]

    def parameters(self, inputs: int, outputs: int) -> int:
        """How many numbers the weights and biases are."""
        return sum((before + self.bias) * after for before, after in pairwise(self.widths(inputs, outputs)))

    def initial_params(self, inputs: int, outputs: int, generator: Callable[[int], Any]) -> dict[str, Array]:
        """Initial parameters in float64; `generator(n)` is the random generator of layer n (`numpy.random.Generator`)."""
        params = {}
        widths = self.widths(inputs, outputs)
        for layer, (rows, columns) in enumerate(pairwise(widths), start=1):
            params[f"layer{layer}.weight"] = _DRAWS[self.initial](generator(layer), rows, columns)
            if self.bias:
                params[f"layer{layer}.bias"] = zeros((columns,))
        return params


_DRAWS: dict[str, Callable[[Any, int, int], Array]] = {
    "standard_normal": lambda generator, rows, columns: generator.standard_normal((rows, columns)),
    "he": lambda generator, rows, columns: generator.standard_normal((rows, columns)) * sqrt(2 / rows),
    "glorot": lambda generator, rows, columns: generator.uniform(-1, 1, (rows, columns)) * sqrt(6 / (rows + columns)),
}


def depth(params: dict[str, Array]) -> int:
    """The number of layers."""
    return len(params) // (2 if "layer1.bias" in params else 1)


def forward(params: dict[str, Array], x: Array, activation: Activation) -> tuple[list[Array], list[Array]]:
    """The pre-activations z₁ … z_L and the outputs a₀ = x, a₁ … a_L of all layers; a_L = z_L is the prediction.

    x is (N, inputs), or (K, N, inputs) for K runs; zₙ and aₙ are (…, N, width of layer n).
    """
    pre, outputs = [], [x]
    layers = depth(params)
    for layer in range(1, layers + 1):
        z = product(outputs[-1], params[f"layer{layer}.weight"])  # (…, N, width)
        if (bias := params.get(f"layer{layer}.bias")) is not None:
            z += bias[..., None, :]
        pre.append(z)
        outputs.append(activation.value(z) if layer < layers else z)
    return pre, outputs
