"""method=functional: loss as a pure function of the parameters, its gradient by `torch.func`, the update by our optimizer."""

from dataclasses import dataclass

from exp.arrays import Array, Place
from exp.methods.base import ArrayMethod, Formulas
from exp.network import forward
from exp.state import State


@dataclass(kw_only=True)
class Functional(ArrayMethod):
    """A training step that transforms functions, as JAX does: no tensor is ever told that it requires a gradient."""

    leading_axes = True

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        import torch

        super().start(formulas, state, place)
        torch.func.grad(torch.sum)(torch.zeros(()))  # the first use imports sympy and more: a second that is no step's

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        import torch

        def objective(params: dict[str, Array]) -> tuple[Array, Array]:
            """The sum of the losses of K runs, whose gradient is the K gradients, and the losses themselves."""
            prediction = forward(params, x, self.activation)[1][-1]  # forward
            loss = self.loss.value(prediction, y)  # loss
            return loss.sum(), loss

        grads, (_, loss) = torch.func.grad_and_value(objective, has_aux=True)(state.params)  # backward
        return loss, self.update(state, grads)  # update
