"""method=function: every layer is a `torch.autograd.Function` whose backward pass is by hand; autograd links the layers.

A layer maps a to f(z), z = a W + b. a is (…, N, inputs), W (…, inputs, outputs), b (…, outputs), z (…, N, outputs).
"""

import functools
from dataclasses import dataclass
from typing import Any

from exp.activations import ACTIVATIONS, Activation
from exp.arrays import Array, product
from exp.methods.base import ArrayMethod
from exp.network import depth
from exp.state import State


@dataclass(kw_only=True)
class Function(ArrayMethod):
    """A training step of layers that bring their own derivative, the way an own kernel is brought to torch."""

    leading_axes = True

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        import torch

        params = {name: param.detach().requires_grad_() for name, param in state.params.items()}
        prediction = self.forward(params, x)  # forward
        loss = self.loss.value(prediction, y)  # loss
        # The gradient of a sum of K independent losses is the K gradients.
        grads = torch.autograd.grad(loss.sum() if loss.ndim else loss, list(params.values()))  # backward
        with torch.no_grad():
            return loss.detach(), self.update(state, dict(zip(params, grads, strict=True)))  # update

    def predict(self, x: Array) -> Array:
        return self.forward(self.state.params, x)

    def forward(self, params: dict[str, Array], x: Array) -> Array:
        """The prediction, (…, N, outputs): all layers in a row, the last one linear."""
        import torch

        layers = depth(params)
        function = layer_function(x.device.type, torch.is_autocast_enabled(x.device.type))
        for layer in range(1, layers + 1):
            activation = self.activation if layer < layers else ACTIVATIONS["identity"]
            x = function.apply(x, params[f"layer{layer}.weight"], params.get(f"layer{layer}.bias"), activation)
        return x


@functools.cache
def layer_function(device: str, autocast: bool) -> Any:
    """One layer. Under `autocast` its backward pass multiplies in the precision of its forward pass, whoever calls it."""
    import torch

    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Array, weight: Array, bias: Array | None, activation: Activation) -> Array:
            z = product(a, weight)
            if bias is not None:
                z += bias[..., None, :]
            output = activation.value(z)
            ctx.save_for_backward(a, weight, z, output)
            ctx.activation, ctx.has_bias = activation, bias is not None
            return output

        @staticmethod
        def backward(ctx: Any, *signals: Array) -> tuple[Array | None, Array, Array | None, None]:
            """Given ∂L/∂f(z): ∂L/∂z = ∂L/∂f(z) · f′(z);  ∂L/∂a = ∂L/∂z Wᵀ;  ∂L/∂W = aᵀ ∂L/∂z;  ∂L/∂b = Σ over N of ∂L/∂z."""
            a, weight, z, output = ctx.saved_tensors
            signal = ctx.activation.backward(*signals, z, output)
            to_a = product(signal, weight.swapaxes(-1, -2)) if ctx.needs_input_grad[0] else None
            to_weight = product(a.swapaxes(-1, -2), signal)
            return to_a, to_weight, signal.sum(axis=-2) if ctx.has_bias else None, None

    if not autocast:
        return Layer

    class AutocastLayer(Layer):
        forward = staticmethod(torch.amp.custom_fwd(Layer.forward, device_type=device))
        backward = staticmethod(torch.amp.custom_bwd(Layer.backward, device_type=device))

    return AutocastLayer
