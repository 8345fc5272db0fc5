"""Activation functions f with their derivative, element by element; any shape.

`value(z)` is f(z). `backward(signal, z, a)` is signal · f′(z), where a = f(z): the gradient with respect to z, given the
gradient with respect to a.
"""

from math import pi, sqrt
from typing import Protocol

from exp.arrays import Array, library, positive_part, where_positive


class Activation(Protocol):
    torch_name: str
    torch_arguments: dict[str, str]

    def value(self, z: Array) -> Array: ...

    def backward(self, signal: Array, z: Array, a: Array) -> Array: ...


class Relu:
    """f(z) = 0 where z ≤ 0, else z; f′(0) = 0, and NaN stays NaN, as in `torch.relu` (Nair & Hinton 2010)."""

    torch_name, torch_arguments = "ReLU", {}

    def value(self, z: Array) -> Array:
        return positive_part(z)

    def backward(self, signal: Array, z: Array, a: Array) -> Array:
        return where_positive(z, signal)


class Tanh:
    """f(z) = tanh z; f′ = 1 − f²."""

    torch_name, torch_arguments = "Tanh", {}

    def value(self, z: Array) -> Array:
        return library(z).tanh(z)

    def backward(self, signal: Array, z: Array, a: Array) -> Array:
        return signal * (1 - a * a)


class Gelu:
    """f(z) = z/2 · (1 + tanh u), u = √(2/π)·(z + 0.044715 z³): the tanh form of GELU (Hendrycks & Gimpel 2016)."""

    torch_name, torch_arguments = "GELU", {"approximate": "tanh"}

    def value(self, z: Array) -> Array:
        return 0.5 * z * (1 + library(z).tanh(self._inner(z)))

    def backward(self, signal: Array, z: Array, a: Array) -> Array:
        t = library(z).tanh(self._inner(z))
        inner_derivative = sqrt(2 / pi) * (1 + 3 * 0.044715 * z * z)
        return signal * (0.5 * (1 + t) + 0.5 * z * (1 - t * t) * inner_derivative)

    def _inner(self, z: Array) -> Array:
        return sqrt(2 / pi) * (z + 0.044715 * (z * z * z))


class Identity:
    """f(z) = z: the network is linear."""

    torch_name, torch_arguments = "Identity", {}

    def value(self, z: Array) -> Array:
        return z

    def backward(self, signal: Array, z: Array, a: Array) -> Array:
        return signal


ACTIVATIONS: dict[str, Activation] = {"relu": Relu(), "tanh": Tanh(), "gelu": Gelu(), "identity": Identity()}
