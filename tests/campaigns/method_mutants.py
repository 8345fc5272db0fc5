"""Mutants of methods: a method of this package with one planted fault in a step, in `predict`, in `export` or in its loop.

A mutant is a subclass, made by the helpers below, of which the verifier takes fresh copies: whatever it remembers between
steps it sets in `start`. "cheat" families pretend to train.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from campaigns.faults import Fault

from exp.arrays import Array, Place, cast, library, put, stack
from exp.methods import Block, Formulas, Method
from exp.methods.autograd import Autograd
from exp.methods.manual import NumPy, Tensor
from exp.methods.module import Module
from exp.network import depth
from exp.optimizers import Adam, AdamW
from exp.state import State

FINE = ("fp32", "fp64")
COARSE = ("fp32", "fp64", "bf16")
"""The precisions of a fault that moves the tensor concerned by more than the resolution of bfloat16, about 4 %."""

SMALL = ("network=mlp", "network.hidden=[6,5]", "problem.inputs=7", "problem.outputs=3", "problem.samples=11")
DIGITS = ("problem=digits", "loss=cross_entropy", "network=mlp", "network.hidden=[6,5]", "training.batch_size=16")
TUTORIAL: tuple[str, ...] = ()

Grads = dict[str, Array]


@dataclass(frozen=True)
class Mutant(Fault):
    """A planted fault, and the precisions in which it can be seen."""

    precisions: tuple[str, ...] = FINE


def small(
    *more: str,
    activation: str = "tanh",
    loss: str = "mean_squared_error",
    optimizer: str = "sgd",
    hidden: str = "[6,5]",
    batch: int | None = None,
) -> tuple[str, ...]:
    """The words of a small problem whose sizes differ pairwise."""
    rates = {"sgd": "1e-2", "momentum": "1e-2", "adam": "1e-3", "adamw": "1e-3"}
    sizes = [f"network.hidden={hidden}" if word.startswith("network.hidden") else word for word in SMALL]
    chosen = [f"network.activation={activation}", f"loss={loss}", f"optimizer={optimizer}", f"optimizer.lr={rates[optimizer]}"]
    batches = [] if batch is None else [f"training.batch_size={batch}"]
    return (*sizes, *chosen, *batches, *more)


def method(base: type[Any], **functions: Callable[..., Any]) -> type[Method]:
    """A kind of `base` with these functions in place of its own."""
    mutated: Any = type(f"Mutated{base.__name__}", (base,), functions)
    return dataclass(kw_only=True)(mutated)


def mutant(
    family: str,
    beats: str,
    tensors: str,
    overrides: tuple[str, ...],
    mutated: type[Method],
    magnitude: str = "",
    precisions: tuple[str, ...] = COARSE,
) -> Mutant:
    """An entry; `beats` and `tensors` are words separated by blanks."""
    return Mutant(
        family,
        tuple(beats.split()),
        tuple(tensors.split()),
        overrides,
        lambda: nullcontext(mutated()),
        magnitude,
        precisions=precisions,
    )


def gradients(change: Callable[[Grads, State], Grads], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` whose update gets `change(grads, state)`."""

    def update(self: Any, state: State, grads: Grads) -> State:
        return base.update(self, state, change(grads, state))

    return method(base, update=update)


def gradient_of(name: str, change: Callable[[Array], Array], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` with a change in the gradient of one parameter."""
    return gradients(lambda grads, state: {**grads, name: change(grads[name])}, base)


def updated(change: Callable[[State, State], State], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` whose state after an update is `change(before, after)`."""

    def update(self: Any, state: State, grads: Grads) -> State:
        return change(state, base.update(self, state, grads))

    return method(base, update=update)


def formulas(change: Callable[[Formulas], Formulas], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` that is started with other formulas."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, change(given), state, place)

    return method(base, start=start)


def constants(change: Callable[[Mapping[str, Any]], Mapping[str, Any]], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` that is started with other numbers of the optimizer: `change(constants)` replaces some."""
    return formulas(lambda given: replace(given, constants={**given.constants, **change(given.constants)}), base)


def optimizer(change: Callable[[Any], Any], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` that is started with another optimizer."""

    def changed(given: Formulas) -> Formulas:
        other = change(given.optimizer)
        return replace(given, optimizer=other, constants=other.constants())

    return formulas(changed, base)


def half(array: Array, dtype: str = "float16") -> Array:
    """`array` rounded to a lower precision."""
    if library(array) is np:
        return array.astype(dtype).astype(array.dtype)
    return array.to(getattr(torch, dtype)).to(array.dtype)


def norm(grads: Grads) -> Any:
    """The norm of all gradients together."""
    return sum((grad * grad).sum() for grad in grads.values()) ** 0.5


def fixed_noise(array: Array, size: float) -> Array:
    """`array` with relative noise that is the same in every step."""
    noise = np.random.default_rng(1).choice([-1.0, 1.0], tuple(array.shape))
    return array * (1 + size * cast(noise if library(array) is np else torch.from_numpy(noise), like=array))


# Gradients


def scaled(factor: float) -> Callable[[Grads, State], Grads]:
    """All gradients times a factor."""
    return lambda grads, state: {name: factor * grad for name, grad in grads.items()}


def swapped(one: str, other: str) -> Callable[[Grads, State], Grads]:
    """Two gradients of one shape in each other's place."""
    return lambda grads, state: {**grads, one: grads[other], other: grads[one]}


def element(array: Array, index: tuple[int, ...], factor: float) -> Array:
    """`array` with one element multiplied."""
    array = array * 1
    array[index] = array[index] * factor
    return array


def clipped(power: int, most: float) -> Callable[[Grads, State], Grads]:
    """Gradients clipped by a power of their norm."""

    def change(grads: Grads, state: State) -> Grads:
        size = norm(grads) ** power
        factor = library(size).where(size > most, most / size, 1.0) if hasattr(size, "shape") else min(1.0, most / size)
        return {name: grad * factor for name, grad in grads.items()}

    return change


def remembering(change: Callable[[Grads, Grads], Grads], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` whose gradient is `change(grads, memory)`, the memory being what was used in the step before."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, state, place)
        self.memory = None

    def update(self: Any, state: State, grads: Grads) -> State:
        used = grads if self.memory is None else change(grads, self.memory)
        self.memory = self.remembered(grads, used)
        return base.update(self, state, used)

    return method(base, start=start, update=update, remembered=lambda self, grads, used: used)


def stale(base: type[Any], weight: float = 1.0) -> type[Method]:
    """The gradient of the step before has a weight; the first step has only its own."""
    mixed = remembering(lambda g, old: {name: weight * old[name] + (1 - weight) * g[name] for name in g}, base)
    return method(mixed, remembered=lambda self, grads, used: grads)


def accumulated(base: type[Any], kept: float = 1.0) -> type[Method]:
    """What is kept of the accumulated gradient is added to the new one."""
    return remembering(lambda g, old: {name: g[name] + kept * old[name] for name in g}, base)


def detached(layer: int) -> type[Method]:
    """autograd with the output of a hidden layer detached: no gradient reaches the layers before."""

    def transition(self: Any, state: State, x: Array, y: Array) -> tuple[Array, State]:
        params = {name: param.detach().requires_grad_() for name, param in state.params.items()}
        a = x
        for number in range(1, depth(params) + 1):
            a = a @ params[f"layer{number}.weight"] + params[f"layer{number}.bias"]
            a = self.activation.value(a) if number < depth(params) else a
            a = a.detach() if number == layer else a
        loss = self.loss.value(a, y)
        found = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        pairs = zip(params.items(), found, strict=True)
        grads = {name: torch.zeros_like(param) if grad is None else grad for (name, param), grad in pairs}
        with torch.no_grad():
            before = state.map(lambda array: array.detach())
            return loss.detach(), self.update(before, grads)

    return method(Autograd, transition=transition)


EQUAL, SQUARE = "[5,5,5]", "[5,5]"
BATCHED = small(batch=4)

GRADIENTS = [
    *(
        mutant("constant factor", "backward", "layer3.weight", words, gradients(scaled(factor), base), f"{factor}", seen)
        for factor, base, words, seen in (
            (1.001, NumPy, small(loss="squared_error"), FINE),
            (0.5, Tensor, small(activation="relu"), COARSE),
            (2.0, Autograd, small(activation="gelu", optimizer="momentum"), COARSE),
        )
    ),
    mutant("constant factor", "backward", "layer2.weight", TUTORIAL, gradients(scaled(0.5)), "0.5, tutorial", COARSE),
    *(
        mutant("factor of one gradient", "backward", name, words, gradient_of(name, lambda g, f=f: f * g, base), f"{f}", FINE)
        for name, f, base, words in (
            ("layer2.weight", 1.001, NumPy, small(loss="squared_error")),
            ("layer1.weight", 1.01, Autograd, small(optimizer="adam")),
        )
    ),
    *(
        mutant("sign flipped", "backward", name, words, gradient_of(name, lambda g: -g, base), name, COARSE)
        for name, base, words in (
            ("layer3.bias", NumPy, small()),
            ("layer1.weight", Autograd, small(activation="relu", loss="squared_error")),
        )
    ),
    *(
        mutant("gradient zero", "backward", name, words, gradient_of(name, lambda g: 0 * g, base), name, COARSE)
        for name, base, words in (
            ("layer1.weight", NumPy, small(optimizer="momentum")),
            ("layer2.bias", Autograd, small(activation="gelu")),
        )
    ),
    mutant(
        "swapped gradients",
        "backward",
        "layer3.weight",
        small(hidden=EQUAL),
        gradients(swapped("layer2.weight", "layer3.weight")),
        "weights",
        COARSE,
    ),
    *(
        mutant(
            "transposed gradient",
            "backward",
            "layer2.weight",
            small(hidden=SQUARE, activation=activation),
            gradient_of("layer2.weight", lambda g: g.swapaxes(-1, -2), base),
            activation,
            COARSE,
        )
        for activation, base in (("tanh", NumPy), ("relu", Autograd))
    ),
    mutant(
        "bias gradient forgotten",
        "backward",
        "layer1.bias",
        small(optimizer="adamw"),
        gradient_of("layer1.bias", lambda g: 0 * g, Tensor),
        "layer 1",
        COARSE,
    ),
]

MORE_GRADIENTS = [
    mutant("detached branch", "backward", "layer2.weight", small(), detached(2), "after layer 2", COARSE),
    mutant("stale gradient", "backward", "", small(optimizer="adam", batch=4), stale(Autograd), "whole, batches", COARSE),
    mutant("stale gradient", "backward", "", small(optimizer="momentum", batch=4), stale(Tensor, 0.1), "a tenth"),
    mutant("gradient accumulated", "backward", "", small(), accumulated(Autograd), "never zeroed", COARSE),
    mutant("gradient accumulated", "backward", "", small(optimizer="adam", batch=4), accumulated(NumPy, 0.1), "a tenth kept"),
    mutant("clipping by norm left on", "backward", "", small(loss="squared_error"), gradients(clipped(1, 1.0)), "1", COARSE),
    mutant(
        "clipping by squared norm left on",
        "backward",
        "",
        small(loss="squared_error", optimizer="momentum"),
        gradients(clipped(2, 1.0), Tensor),
        "1",
        COARSE,
    ),
    mutant(
        "one element of a gradient",
        "backward",
        "layer2.weight",
        small(),
        gradient_of("layer2.weight", lambda g: element(g, (3, 1), 1.05)),
        "1.05",
        FINE,
    ),
    *(
        mutant(
            "gradient in lower precision",
            "backward",
            name,
            words,
            gradient_of(name, lambda g, dtype=dtype: half(g, dtype), base),
            dtype,
            FINE,
        )
        for name, dtype, base, words in (
            ("layer2.weight", "float16", NumPy, small()),
            ("layer1.weight", "bfloat16", Tensor, small(activation="gelu", optimizer="momentum")),
        )
    ),
]

NOISE_AND_ORDER = [
    *(
        mutant(
            "gradient noise",
            "backward",
            name,
            words,
            gradients(lambda grads, state, size=size: {n: fixed_noise(g, size) for n, g in grads.items()}, base),
            f"{size}",
            FINE,
        )
        for size, base, words, name in (
            (1e-3, NumPy, small(), "layer3.weight"),
            (1e-2, Tensor, small(activation="relu", optimizer="momentum"), "layer3.weight"),
        )
    ),
]


# The forward pass and the loss of a step


class Mask(torch.nn.Module):
    """Dropout with a fixed mask: one unit is off, the others are scaled."""

    def forward(self, a: Array) -> Array:
        units = a.shape[-1]
        return a * (torch.arange(units) != 1).to(a) * (units / (units - 1))


class Rounded(torch.nn.Module):
    """The output of a layer in a lower precision."""

    def forward(self, a: Array) -> Array:
        return a + (half(a) - a).detach()


class Scaled(torch.nn.Module):
    """A residual that nobody asked for."""

    def forward(self, a: Array) -> Array:
        return 1.002 * a


def modules(change: Callable[[list[torch.nn.Module]], list[torch.nn.Module]]) -> type[Method]:
    """`Module` with other modules: 0, 2 and 4 are the layers of a network of two hidden layers, 1 and 3 the activations."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        Module.start(self, given, state, place)
        self.model = torch.nn.Sequential(*change(list(self.model)))

    return method(Module, start=start)


def placed(index: int, module: torch.nn.Module) -> type[Method]:
    """`Module` with one module replaced."""
    return modules(lambda found: [*found[:index], module, *found[index + 1 :]])


def inserted(index: int, module: torch.nn.Module) -> type[Method]:
    """`Module` with one module more."""
    return modules(lambda found: [*found[:index], module, *found[index:]])


def in_step(change: Callable[[Any, Array, Array], tuple[Array, Array]], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` whose step, but not its `predict`, gets other x and y."""

    def step(self: Any, x: Array, y: Array) -> Array:
        return base.step(self, *change(self, x, y))

    return method(base, step=step)


def reported(change: Callable[[Any, Array], Array], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` that reports `change(method, loss)` for the loss."""

    def step(self: Any, x: Array, y: Array) -> Array:
        return change(self, base.step(self, x, y))

    return method(base, step=step)


class Biased(torch.nn.Module):
    """A linear layer with its bias times a factor."""

    def __init__(self, linear: Any, factor: float) -> None:
        super().__init__()
        self.linear, self.factor = linear, factor

    def forward(self, a: Array) -> Array:
        linear: Any = self.linear
        return torch.nn.functional.linear(a, linear.weight, self.factor * linear.bias)


def biased(index: int, factor: float) -> type[Method]:
    """`Module` with the bias of one layer times a factor."""
    return modules(lambda found: [*found[:index], Biased(found[index], factor), *found[index + 1 :]])


def _transposed_start(self: Any, given: Formulas, state: State, place: Place) -> None:
    """A square weight is taken over as it lies in the canonical state."""
    Module.start(self, given, state, place)
    weight = self.parameters["layer2.weight"]
    with torch.no_grad():
        weight.copy_(weight.T.clone())


def _transposed_export(self: Any) -> State:
    return _export_transposed(Module.export(self))


def _export_transposed(state: State) -> State:
    return state._replace(params={**state.params, "layer2.weight": np.array(state.params["layer2.weight"].T)})


FORWARD = [
    mutant("dropout left on", "forward", "layer1.output", small(activation="relu"), inserted(2, Mask()), "layer 1"),
    mutant("dropout left on", "forward", "layer2.output", small(optimizer="adam"), inserted(4, Mask()), "layer 2"),
    mutant(
        "leaky slope", "forward", "layer1.output", small(activation="relu"), placed(1, torch.nn.LeakyReLU(0.01)), "0.01", FINE
    ),
    mutant(
        "GELU by the error function",
        "forward",
        "layer1.output",
        small(activation="gelu"),
        placed(1, torch.nn.GELU()),
        "1",
        FINE,
    ),
    mutant(
        "activation missing",
        "forward",
        "layer2.output",
        small(activation="relu", optimizer="momentum"),
        placed(3, torch.nn.Identity()),
        "last hidden layer",
        COARSE,
    ),
    mutant(
        "activation on the last layer",
        "forward",
        "layer3.output",
        small(activation="relu"),
        inserted(5, torch.nn.ReLU()),
        "relu",
        COARSE,
    ),
    mutant("bias forgotten", "forward", "layer1.output", small(), biased(0, 0.0), "layer 1"),
    mutant("bias with the wrong sign", "forward", "layer3.output", small(activation="relu"), biased(4, -1.0), "layer 3"),
    mutant(
        "output in lower precision", "forward", "layer1.output", small(activation="gelu"), inserted(2, Rounded()), "1", FINE
    ),
    mutant("layer scaled", "forward", "layer2.output", small(activation="gelu"), inserted(4, Scaled()), "1.002", FINE),
    mutant(
        "inputs normalised",
        "forward",
        "layer1.output",
        small(activation="relu", loss="squared_error"),
        in_step(lambda self, x, y: (x / (1e-6 + (x * x).mean() ** 0.5), y)),
        "in the step",
    ),
    mutant(
        "weight taken transposed",
        "forward",
        "layer2.output",
        small(hidden=SQUARE),
        method(Module, start=_transposed_start, export=_transposed_export),
        "and exported so",
        COARSE,
    ),
]


# What is predicted and reported


def predicted(change: Callable[[Array], Array], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` whose prediction is changed; its step is right."""
    return method(base, predict=lambda self, x: change(base.predict(self, x)))


def _predict_old(base: type[Any]) -> type[Method]:
    """A prediction of the weights before the last step."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, state, place)
        self.old = self.state

    def step(self: Any, x: Array, y: Array) -> Array:
        self.old = self.state
        return base.step(self, x, y)

    def predict(self: Any, x: Array) -> Array:
        now, self.state = self.state, self.old
        prediction = base.predict(self, x)
        self.state = now
        return prediction

    return method(base, start=start, step=step, predict=predict)


def loss_before(base: type[Any], repeated: int = 1) -> type[Method]:
    """The loss of the step before is reported; `repeated` times the first."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, state, place)
        self.losses = []

    def step(self: Any, x: Array, y: Array) -> Array:
        self.losses.append(base.step(self, x, y))
        return self.losses[max(len(self.losses) - 1 - repeated, 0)]

    return method(base, start=start, step=step)


def _module_loss_after(self: Any, x: Array, y: Array) -> Array:
    """`Module` that looks at its loss after the update."""
    Module.step(self, x, y)
    with torch.no_grad():
        return self.loss(self.model(x), y, **self.loss_arguments)


REPORTS = [
    mutant(
        "columns of the prediction permuted",
        "forward",
        "layer3.output",
        small(),
        predicted(lambda p: p[..., [1, 0, *range(2, p.shape[-1])]]),
        "two",
        COARSE,
    ),
    mutant(
        "prediction of old weights", "forward", "layer3.output", small(activation="relu"), _predict_old(NumPy), "full batch"
    ),
    mutant("loss of the batch before", "loss", "loss", BATCHED, loss_before(NumPy), "one"),
    mutant("loss of the updated weights", "loss", "loss", BATCHED, method(Module, step=_module_loss_after), "module"),
    mutant(
        "loss rounded", "loss", "loss", small(loss="squared_error"), reported(lambda self, loss: half(loss)), "float16", FINE
    ),
    mutant("targets shifted", "loss forward", "", small(), in_step(lambda self, x, y: (x, y + 0.1)), "0.1", FINE),
    mutant(
        "targets shifted", "loss", "loss", small(), in_step(lambda self, x, y: (x, 1.01 * y), Autograd), "scaled by 1.01", FINE
    ),
    mutant(
        "last row dropped",
        "loss batches",
        "",
        small(loss="squared_error"),
        in_step(lambda self, x, y: (x[: max(len(x) - 1, 1)], y[: max(len(y) - 1, 1)])),
        "sum",
    ),
]


# The update


def frozen(wrong: Callable[[str], bool], base: type[Any] = NumPy) -> type[Method]:
    """Parameters that an update does not move; their slots are right."""

    def change(before: State, after: State) -> State:
        return after._replace(params={n: before.params[n] if wrong(n) else value for n, value in after.params.items()})

    return updated(change, base)


def _row_kept(name: str, row: int) -> Callable[[State, State], State]:
    """One row of a weight is not updated."""

    def change(before: State, after: State) -> State:
        value = after.params[name] * 1
        value[row] = before.params[name][row]
        return after._replace(params={**after.params, name: value})

    return change


def _warming(steps: int, base: type[Any] = NumPy) -> type[Method]:
    """The learning rate grows over the first steps."""

    def update(self: Any, state: State, grads: Grads) -> State:
        given = self.constants
        share = min(1.0, (int(state.count) + 1) / steps)
        self.constants = {**given, "lr": given["lr"] * share}
        after = base.update(self, state, grads)
        self.constants = given
        return after

    return method(base, update=update)


def undecayed(wrong: Callable[[str], bool], base: type[Any] = NumPy) -> type[Method]:
    """Parameters that weight decay leaves alone."""

    def update(self: Any, state: State, grads: Grads) -> State:
        given, after = self.constants, base.update(self, state, grads)
        self.constants = {key: 0.0 if "weight_decay" in key else value for key, value in given.items()}
        named, other = after.named(), base.update(self, state, grads).named()
        self.constants = given
        return State.from_named({n: other[n] if wrong(n.rpartition("/")[2]) else value for n, value in named.items()})

    return method(base, update=update)


def slots_changed(change: Callable[[State, State], Mapping[str, Array]], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` whose slots after an update have these in their place, by canonical names."""
    return updated(lambda before, after: State.from_named({**after.named(), **change(before, after)}), base)


def _twice(base: type[Any]) -> type[Method]:
    """The optimizer is called twice, the count is right."""

    def update(self: Any, state: State, grads: Grads) -> State:
        once = base.update(self, state, grads)
        return base.update(self, once._replace(count=state.count), grads)

    return method(base, update=update)


def _slots_of(state: State, wrong: Callable[[str], bool] = lambda name: True) -> dict[str, Array]:
    return {name: value for name, value in state.named().items() if "/" in name and wrong(name)}


def _one_late(base: type[Any]) -> type[Method]:
    """Every update is done at the beginning of the next step: the last is missing."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, state, place)
        self.pending = None

    def update(self: Any, state: State, grads: Grads) -> State:
        self.pending, before = grads, self.pending
        return state if before is None else base.update(self, state, before)

    return method(base, start=start, update=update)


def _adam(given: AdamW) -> Adam:
    return Adam(lr=given.lr, weight_decay=given.weight_decay, betas=given.betas, eps=given.eps)


def _adamw(given: Adam) -> AdamW:
    return AdamW(lr=given.lr, weight_decay=given.weight_decay, betas=given.betas, eps=given.eps)


def is_bias(name: str) -> bool:
    return name.endswith(".bias")


DECAYED = "optimizer.weight_decay=0.01"

UPDATES = [
    mutant(
        "layer frozen", "update", "layer1.weight", small(optimizer="momentum"), frozen(lambda n: "layer1" in n), "1", COARSE
    ),
    mutant(
        "only the last layer trained",
        "update",
        "",
        small(optimizer="adam"),
        frozen(lambda n: "3" not in n, Autograd),
        "",
        COARSE,
    ),
    mutant("only the last layer trained", "update backward", "", TUTORIAL, frozen(lambda n: "2" not in n), "tutorial", COARSE),
    mutant(
        "row not updated",
        "update",
        "layer2.weight",
        small(optimizer="momentum"),
        updated(_row_kept("layer2.weight", 2)),
        "momentum",
    ),
    mutant(
        "row not updated",
        "update",
        "layer1.weight",
        small(optimizer="adam"),
        updated(_row_kept("layer1.weight", 0), Tensor),
        "adam",
    ),
    mutant("rate halved", "update", "", small(optimizer="adam"), constants(lambda c: {"lr": c["lr"] / 2}), "adam", COARSE),
    mutant(
        "rate off", "update", "", small(optimizer="momentum"), constants(lambda c: {"lr": c["lr"] * 1.001}), "1.001, momentum"
    ),
    mutant("rate squared", "update", "", small(optimizer="momentum"), constants(lambda c: {"lr": c["lr"] ** 2}), "", COARSE),
    mutant("warm-up left on", "update", "", small(optimizer="adam"), _warming(5), "5 steps", COARSE),
    mutant("decay missing", "update", "", small(DECAYED), constants(lambda c: {"weight_decay": 0.0}), "sgd"),
    mutant(
        "decay missing",
        "update",
        "",
        small("optimizer.weight_decay=0.5", optimizer="adamw"),
        constants(lambda c: {"lr_weight_decay": 0.0}, Autograd),
        "adamw",
    ),
    mutant(
        "decay with the wrong sign",
        "update",
        "",
        small("optimizer.weight_decay=0.5", optimizer="adamw"),
        constants(lambda c: {"lr_weight_decay": -c["lr_weight_decay"]}, Tensor),
        "adamw",
    ),
    mutant("decay of weights only", "update", "", small(DECAYED, optimizer="momentum"), undecayed(is_bias), "momentum"),
]

MORE_UPDATES = [
    mutant("coupled decay", "update", "", small("optimizer.weight_decay=0.1", optimizer="adamw"), optimizer(_adam), "0.1"),
    mutant(
        "decoupled decay", "update", "", small("optimizer.weight_decay=0.1", optimizer="adam"), optimizer(_adamw, Tensor), "0.1"
    ),
    mutant(
        "Nesterov without look-ahead",
        "update",
        "",
        small("optimizer.nesterov=true", optimizer="momentum"),
        optimizer(lambda given: replace(given, nesterov=False)),
    ),
    mutant(
        "momentum off", "update", "", small(optimizer="momentum"), constants(lambda c: {"momentum": 0.899}, Tensor), "0.899"
    ),
    mutant(
        "betas swapped", "update", "", small(optimizer="adam"), optimizer(lambda g: replace(g, betas=g.betas[::-1])), "", COARSE
    ),
    mutant(
        "betas off", "update", "", small(optimizer="adam"), optimizer(lambda g: replace(g, betas=[0.9, 0.99]), Tensor), "0.99"
    ),
    mutant(
        "buffer not updated",
        "update",
        "",
        small(optimizer="momentum"),
        slots_changed(lambda before, after: _slots_of(before)),
        "momentum",
        COARSE,
    ),
    mutant(
        "buffer not updated",
        "update",
        "",
        small(optimizer="adam"),
        slots_changed(lambda before, after: _slots_of(before, lambda n: n.startswith("exp_avg_sq/")), Tensor),
        "exp_avg_sq",
    ),
    mutant(
        "buffer in lower precision",
        "update",
        "",
        small(optimizer="adam"),
        slots_changed(lambda before, after: {n: half(v, "bfloat16") for n, v in _slots_of(after).items()}, Tensor),
        "bfloat16",
    ),
    mutant("updated twice", "update", "", small(optimizer="momentum"), _twice(NumPy), "momentum", COARSE),
    mutant("update late by a step", "update backward", "", small(optimizer="momentum"), _one_late(NumPy), "", COARSE),
    mutant(
        "count twice",
        "update",
        "count",
        small(),
        updated(lambda old, new: new._replace(count=new.count + 1)),
        "reported",
        COARSE,
    ),
    mutant(
        "count never incremented",
        "update",
        "count",
        small(optimizer="adam"),
        updated(lambda old, new: new._replace(count=old.count), Tensor),
        "",
        COARSE,
    ),
    mutant(
        "count started anew",
        "update",
        "",
        small(optimizer="adam"),
        method(NumPy, update=lambda self, state, grads: NumPy.update(self, state._replace(count=0 * state.count), grads)),
        "in every step",
        COARSE,
    ),
]


# State, inputs, blocks


def exported(change: Callable[[Any, State], State], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` that exports `change(method, state)`."""
    return method(base, export=lambda self: change(self, base.export(self)))


def _exports_initial(base: type[Any]) -> type[Method]:
    """The state that the method was started from is exported."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, state, place)
        self.first = base.export(self)

    return method(base, start=start, export=lambda self: self.first.map(np.copy))


def alias(base: type[Any], wrong: Callable[[str], bool] = lambda name: True) -> type[Method]:
    """An update in place, and an export without a copy of some tensors: what was exported moves along."""

    def step(self: Any, x: Array, y: Array) -> Array:
        before = self.state.named()
        loss, after = self.transition(self.state, x, y)
        for name, value in after.named().items():
            before[name][...] = value
        return loss

    def export(self: Any) -> State:
        live = {name: np.asarray(value) for name, value in self.state.named().items()}
        return State.from_named({name: value if wrong(name) else np.array(value) for name, value in live.items()})

    return method(base, step=step, export=export)


def started(change: Callable[[State], State], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` that starts from `change(state)`."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, change(state), place)

    return method(base, start=start)


def in_place(change: Callable[[Any, Array, Array], Any], base: type[Any], *, after: bool = True) -> type[Method]:
    """A step that changes x or y where they lie, after it was computed or before."""

    def step(self: Any, x: Array, y: Array) -> Array:
        if not after:
            change(self, x, y)
        loss = base.step(self, x, y)
        if after:
            change(self, x, y)
        return loss

    return method(base, step=step)


def _predict_in_place(self: Any, x: Array) -> Array:
    x *= 1.001
    return NumPy.predict(self, x)


def _scale(array: Array, factor: float) -> None:
    array *= factor


def _rectify(array: Array) -> None:
    torch.relu_(array) if library(array) is torch else np.maximum(array, 0, out=array)


def _subtract(array: Array, other: Array) -> None:
    array -= other


def _predict_decays(self: Any, x: Array) -> Array:
    """A prediction that moves the weights."""
    prediction = NumPy.predict(self, x)
    self.state = self.state._replace(params={name: 0.999 * value for name, value in self.state.params.items()})
    return prediction


STATES = [
    mutant("initial state exported", "state", "", small(), _exports_initial(NumPy), "", COARSE),
    mutant("export aliases live memory", "state", "", small(), alias(NumPy), "NumPy", COARSE),
    mutant("export aliases live memory", "state", "", small(optimizer="adam"), alias(Tensor), "torch", COARSE),
    mutant(
        "export aliases live memory",
        "state",
        "",
        small(optimizer="momentum"),
        alias(NumPy, lambda n: "/" in n),
        "slots",
        COARSE,
    ),
    mutant(
        "weight exported transposed",
        "state",
        "layer2.weight",
        small(hidden=SQUARE),
        exported(lambda self, state: _export_transposed(state)),
        "",
        COARSE,
    ),
    mutant(
        "weight exported transposed",
        "state",
        "layer2.weight",
        small(hidden=SQUARE, optimizer="adamw"),
        method(Module, start=_transposed_start),
        "module",
        COARSE,
    ),
    mutant(
        "slots exported under each other's name",
        "state",
        "",
        small(optimizer="adam"),
        exported(
            lambda self, s: s._replace(slots={"exp_avg": s.slots["exp_avg_sq"], "exp_avg_sq": s.slots["exp_avg"]}), Tensor
        ),
        "",
        COARSE,
    ),
    mutant(
        "count not taken over", "state", "count", small(), started(lambda s: s._replace(count=0 * s.count), Module), "", COARSE
    ),
    mutant(
        "count starts at 1",
        "state",
        "count",
        small(optimizer="adam"),
        started(lambda s: s._replace(count=s.count + 1)),
        "",
        COARSE,
    ),
    mutant(
        "start draws other weights",
        "state",
        "",
        small(),
        started(lambda s: s.map(lambda a: half(a) if a.ndim else a)),
        "float16",
    ),
    mutant("prediction moves the weights", "state forward", "", small(), method(NumPy, predict=_predict_decays), "0.999"),
    mutant("x changed in place", "inputs", "x", small(), in_place(lambda self, x, y: _scale(x, 1.001), NumPy), "scaled, after"),
    mutant(
        "x changed in place",
        "inputs",
        "x",
        small(activation="relu"),
        in_place(lambda self, x, y: _rectify(x), Autograd),
        "relu",
    ),
    mutant("x changed in place", "inputs", "x", small(), method(NumPy, predict=_predict_in_place), "by predict"),
    mutant(
        "y changed in place",
        "inputs",
        "y",
        small(loss="squared_error"),
        in_place(lambda self, x, y: _subtract(y, self.predict(x)), NumPy),
        "prediction subtracted",
    ),
    mutant("y changed in place", "inputs", "y", small(), in_place(lambda self, x, y: _scale(y, 1.001), Module), "scaled"),
]


def blocks(change: Callable[[Block], Block], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` that trains `change(block)`."""

    def steps(self: Any, x: Array, y: Array, block: Block, place: Place) -> Array:
        return base.steps(self, x, y, change(block), place)

    return method(base, steps=steps)


def losses_of_block(change: Callable[[Array], Array], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` that returns `change(losses)` of a block."""

    def steps(self: Any, x: Array, y: Array, block: Block, place: Place) -> Array:
        return change(base.steps(self, x, y, block, place))

    return method(base, steps=steps)


def rows_changed(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Block], Block]:
    """A change of the rows of a block, (steps, B)."""
    return lambda block: block if block.rows is None else replace(block, rows=change(block.rows))


def _one_step_of_block(self: Any, x: Array, y: Array, block: Block, place: Place) -> Array:
    """Only the first step of a block is done; its loss stands for all."""
    rows = None if block.rows is None else put(block.rows[0], place)
    loss = self.step(x, y) if rows is None else self.step(x[rows], y[rows])
    return stack([loss] * block.steps)


BLOCKS = [
    mutant(
        "every step on the block's first batch",
        "batches",
        "",
        BATCHED,
        blocks(rows_changed(lambda rows: np.repeat(rows[:1], len(rows), axis=0))),
    ),
    mutant(
        "last row of every batch dropped",
        "batches",
        "",
        BATCHED,
        blocks(rows_changed(lambda rows: rows[:, :-1] if rows.shape[1] > 1 else rows), Tensor),
    ),
    mutant("one step of every block", "batches", "", small(), method(Tensor, steps=_one_step_of_block), "full batch"),
    mutant(
        "last loss for the whole block",
        "batches loss",
        "",
        BATCHED,
        losses_of_block(lambda losses: 0 * losses + losses[-1:]),
        "batches",
    ),
]


# Cheats


def never_trains(
    moves: Callable[[State, State], State] = lambda before, after: before, base: type[Any] = NumPy
) -> type[Method]:
    """The losses of the state are right, and the state after a step is `moves(before, after)`."""

    def step(self: Any, x: Array, y: Array) -> Array:
        before = self.state
        loss = base.step(self, x, y)
        self.state = moves(before, self.state)
        return loss

    return method(base, step=step)


def answering(answer: Callable[[Any, Array], Array], base: type[Any] = NumPy, *, trains: bool = True) -> type[Method]:
    """The loss is `answer(method, loss)`; `method.seen` are the true losses so far, this one included."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, state, place)
        self.seen = []

    def step(self: Any, x: Array, y: Array) -> Array:
        before = self.state
        self.seen.append(base.step(self, x, y))
        self.state = self.state if trains else before
        return answer(self, self.seen[-1])

    return method(base, start=start, step=step)


def hidden_training(base: type[Any]) -> type[Method]:
    """A hidden copy is trained and reported; what is exported and predicted with never moves."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, state, place)
        self.shown = base()
        self.shown.start(given, state, place)

    return method(base, start=start, predict=lambda self, x: self.shown.predict(x), export=lambda self: self.shown.export())


def sometimes(skips: Callable[[int], bool], base: type[Any] = NumPy, *, counted: bool = True) -> type[Method]:
    """Steps whose update is skipped, by their number since the start from 0."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, state, place)
        self.number = -1

    def update(self: Any, state: State, grads: Grads) -> State:
        self.number += 1
        after = base.update(self, state, grads)
        return state._replace(count=after.count if counted else state.count) if skips(self.number) else after

    return method(base, start=start, update=update)


def _precomputed(before: State, after: State) -> State:
    """Every state is the same: drawn from a seed."""
    draws = np.random.default_rng(7)

    def drawn(array: Array) -> Array:
        values = np.abs(draws.standard_normal(tuple(array.shape)))
        return cast(values if library(array) is np else torch.from_numpy(values), like=array)

    named = {name: value if name == "count" else drawn(value) for name, value in after.named().items()}
    return State.from_named(named)


def _first_gradient(base: type[Any]) -> type[Method]:
    return method(remembering(lambda grads, memory: memory, base))


NEVER = "update backward"

CHEATS = [
    mutant(
        "cheat: zeros", "loss", "loss", small(), answering(lambda self, loss: 0 * loss, trains=False), "never trains", COARSE
    ),
    mutant("cheat: zeros", "forward", "layer3.output", small(), predicted(lambda p: 0 * p, Tensor), "prediction", COARSE),
    mutant("cheat: never trains", NEVER, "", small(), never_trains(), "nothing moves", COARSE),
    mutant(
        "cheat: weights never move",
        "state update backward",
        "",
        small(optimizer="adam", batch=4),
        hidden_training(Module),
        "module",
        COARSE,
    ),
    mutant("cheat: first loss cached", "loss", "loss", small(), answering(lambda self, loss: self.seen[0])),
    mutant(
        "cheat: loss falls by a formula",
        "loss",
        "loss",
        small(),
        answering(lambda self, loss: self.seen[0] * 0.97 ** (len(self.seen) - 1), Tensor),
        "and trains",
    ),
    mutant("cheat: constant loss", "loss", "loss", small(), answering(lambda self, loss: 0 * loss + 1), "1"),
    mutant("cheat: first gradient cached", "backward", "", small(), _first_gradient(NumPy), "full batch"),
    mutant("cheat: state computed before", NEVER, "", small(), never_trains(_precomputed), "sgd", COARSE),
    mutant("cheat: every second update skipped", NEVER, "", small(), sometimes(lambda n: n % 2 == 1), "but counted", COARSE),
    mutant(
        "cheat: trains at first only",
        NEVER,
        "",
        small(optimizer="adam"),
        sometimes(lambda n: n >= 2, Tensor),
        "2 steps",
        COARSE,
    ),
]

MUTANTS: list[Mutant] = [
    *GRADIENTS,
    *MORE_GRADIENTS,
    *NOISE_AND_ORDER,
    *FORWARD,
    *REPORTS,
    *UPDATES,
    *MORE_UPDATES,
    *STATES,
    *BLOCKS,
    *CHEATS,
]
