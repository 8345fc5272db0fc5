"""method=numpy and method=tensor: the tutorial's step with the backward pass written by hand.

One implementation serves both: the arrays bring their own library.
"""

from dataclasses import dataclass

from exp.activations import Activation
from exp.arrays import Array, product
from exp.methods.base import ArrayMethod
from exp.network import depth, forward
from exp.state import State


@dataclass(kw_only=True)
class Manual(ArrayMethod):
    """A training step by hand: the four beats of the tutorial, for any depth."""

    leading_axes = True

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        pre, outputs = forward(state.params, x, self.activation)  # forward
        loss = self.loss.value(outputs[-1], y)  # loss
        signal = self.loss.gradient(outputs[-1], y)
        grads = backward(state.params, pre, outputs, signal, self.activation)  # backward
        return loss, self.update(state, grads)  # update


@dataclass(kw_only=True)
class NumPy(Manual):
    """The hand-written step on NumPy arrays."""

    library = "numpy"


@dataclass(kw_only=True)
class Tensor(Manual):
    """The hand-written step on torch tensors."""

    library = "torch"


def backward(
    params: dict[str, Array], pre: list[Array], outputs: list[Array], signal: Array, activation: Activation
) -> dict[str, Array]:
    """The gradient of every parameter, given `signal` = ∂L/∂z_L, (…, N, outputs) (Rumelhart, Hinton & Williams 1986).

    ∂L/∂Wₙ = a₍ₙ₋₁₎ᵀ ∂L/∂zₙ;  ∂L/∂bₙ = Σ over the batch of ∂L/∂zₙ;  ∂L/∂z₍ₙ₋₁₎ = (∂L/∂zₙ Wₙᵀ) · f′(z₍ₙ₋₁₎).
    """
    grads = {}
    for layer in range(depth(params), 0, -1):
        weight, bias = f"layer{layer}.weight", f"layer{layer}.bias"
        grads[weight] = product(outputs[layer - 1].swapaxes(-1, -2), signal)  # (…, inputs, outputs) of this layer
        if bias in params:
            grads[bias] = signal.sum(axis=-2)
        if layer > 1:
            signal = product(signal, params[weight].swapaxes(-1, -2))  # (…, N, inputs of this layer)
            signal = activation.backward(signal, pre[layer - 2], outputs[layer - 1])
    return grads
