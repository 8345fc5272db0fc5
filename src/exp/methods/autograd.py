"""method=autograd: the forward pass by hand, the backward pass by `torch.autograd`, the update by our optimizer."""

from dataclasses import dataclass

from exp.arrays import Array
from exp.methods.base import ArrayMethod
from exp.network import forward
from exp.state import State


@dataclass(kw_only=True)
class Autograd(ArrayMethod):
    """A training step whose gradient is taken by automatic differentiation."""

    leading_axes = True

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        import torch

        params = {name: param.detach().requires_grad_() for name, param in state.params.items()}
        prediction = forward(params, x, self.activation)[1][-1]  # forward
        loss = self.loss.value(prediction, y)  # loss
        # The gradient of a sum of K independent losses is the K gradients.
        grads = torch.autograd.grad(loss.sum() if loss.ndim else loss, list(params.values()))  # backward
        with torch.no_grad():
            return loss.detach(), self.update(state, dict(zip(params, grads, strict=True)))  # update

    def predict(self, x: Array) -> Array:
        import torch

        with torch.no_grad():
            return super().predict(x)
