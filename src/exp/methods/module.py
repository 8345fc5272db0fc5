"""method=module: the way most people train, `torch.nn` layers and a `torch.optim` optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from exp.activations import ACTIVATIONS
from exp.arrays import Array, Place, get, put
from exp.methods.base import Formulas, Method
from exp.state import State


@dataclass(kw_only=True)
class Module(Method):
    """A training step of `torch.nn.Sequential` and the twin of the optimizer in `torch.optim`. One run at a time.

    torch keeps a layer's weight as (outputs, inputs); the canonical state has (inputs, outputs).
    """

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        import torch

        network, loss, optimizer = formulas.network, formulas.loss, formulas.optimizer
        activation = ACTIVATIONS[network.activation]
        layers = [state.params[name] for name in state.params if name.endswith(".weight")]
        modules: list[torch.nn.Module] = []
        for weight in layers:
            inputs, outputs = weight.shape
            modules += [torch.nn.Linear(inputs, outputs, bias=network.bias, device=place.device)]
            modules += [getattr(torch.nn, activation.torch_name)(**activation.torch_arguments)]
        self.model = torch.nn.Sequential(*modules[:-1]).to(getattr(torch, place.dtype))
        linear = [module for module in modules if isinstance(module, torch.nn.Linear)]
        self.parameters = {
            f"layer{number}.{kind}": parameter
            for number, module in enumerate(linear, start=1)
            for kind, parameter in module.named_parameters()
        }
        self.loss, self.loss_arguments = getattr(torch.nn.functional, loss.torch_name), loss.torch_arguments
        self.optimizer = getattr(torch.optim, optimizer.torch_name)(self.parameters.values(), **optimizer.torch_arguments())
        self.slot_names, self.count = optimizer.slot_names, put(state.count, place)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(_transposed(put(state.params[name], place)))
                slots = {slot: _transposed(put(state.slots[slot][name], place)) for slot in self.slot_names}
                if "exp_avg" in slots:
                    # float64: compiled, torch's Adam takes 1 − βᵗ in this type
                    slots["step"] = torch.tensor(float(state.count), dtype=torch.float64)
                if slots:
                    self.optimizer.state[parameter] = slots

    def step(self, x: Array, y: Array) -> Array:
        prediction = self.model(x)  # forward
        loss = self.loss(prediction.to(y.dtype), y, **self.loss_arguments)  # loss
        self.optimizer.zero_grad()
        loss.backward()  # backward
        self.optimizer.step()  # update
        self.count += 1
        return loss.detach()

    def predict(self, x: Array) -> Array:
        import torch

        with torch.no_grad():
            return self.model(x).to(x.dtype)

    def export(self) -> State:
        def canonical(arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
            return {name: np.ascontiguousarray(get(_transposed(array))) for name, array in arrays.items()}

        slots = {
            slot: {name: self.optimizer.state[parameter][slot] for name, parameter in self.parameters.items()}
            for slot in self.slot_names
        }
        return State(
            canonical(self.parameters),
            {slot: canonical(arrays) for slot, arrays in slots.items()},
            get(self.count),
        )


def _transposed(array: Array) -> Array:
    return array.swapaxes(0, 1).contiguous() if array.ndim == 2 else array
