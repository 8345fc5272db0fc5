"""Further mutants: what is left on by mistake, what is shared, what appears under some shape, count or magnitude only.

And cheats that are right wherever they believe to be watched.
"""

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

import numpy as np
import torch
from campaigns import formula_mutants
from campaigns.formula_mutants import (
    ADAM,
    MEAN,
    MOMENTUM,
    RELU,
    activation,
    corrections,
    forward,
    sgd_rule,
    targeted,
)
from campaigns.method_mutants import (
    BATCHED,
    COARSE,
    DECAYED,
    DIGITS,
    EQUAL,
    FINE,
    SQUARE,
    TUTORIAL,
    Grads,
    Mutant,
    answering,
    gradients,
    half,
    hidden_training,
    in_step,
    is_bias,
    losses_of_block,
    method,
    mutant,
    never_trains,
    optimizer,
    predicted,
    slots_changed,
    small,
    sometimes,
    started,
    updated,
)

from exp.activations import Gelu, Relu, Tanh
from exp.arrays import Array, Place, library, product
from exp.losses import CrossEntropy
from exp.methods import Block, Formulas, Method
from exp.methods.autograd import Autograd
from exp.methods.manual import NumPy, Tensor
from exp.optimizers import AdamW, Momentum
from exp.state import State

planted = formula_mutants.mutant
"""An entry with a fault in a shared formula."""


# Left on, or of another model


def _decaying(self: Any, state: State, grads: Grads) -> State:
    """The learning rate falls with the count."""
    given = self.constants
    self.constants = {**given, "lr": given["lr"] / (1 + 0.01 * int(state.count))}
    after = NumPy.update(self, state, grads)
    self.constants = given
    return after


def _largest_second_moment(base: type[Any]) -> type[Method]:
    """AMSGrad, which keeps the largest exp_avg_sq so far."""

    def change(before: State, after: State) -> State:
        new, old = after.slots["exp_avg_sq"], before.slots["exp_avg_sq"]
        largest = {name: library(value).maximum(value, old[name]) for name, value in new.items()}
        return after._replace(slots={**after.slots, "exp_avg_sq": largest})

    return updated(change, base)


def _average_exported(base: type[Any]) -> type[Method]:
    """An average of the weights over the steps is exported."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, state, place)
        self.average = base.export(self).params

    def step(self: Any, x: Array, y: Array) -> Array:
        loss = base.step(self, x, y)
        self.average = {name: 0.9 * self.average[name] + 0.1 * new for name, new in base.export(self).params.items()}
        return loss

    def export(self: Any) -> State:
        state = base.export(self)
        return state._replace(params={name: self.average[name].astype(value.dtype) for name, value in state.params.items()})

    return method(base, start=start, step=step, export=export)


def each(change: Callable[[Array], Array]) -> Callable[[Grads, State], Grads]:
    """A change of every gradient."""
    return lambda grads, state: {name: change(grad) for name, grad in grads.items()}


def _at_look_ahead(base: type[Any]) -> type[Method]:
    """The gradient at p - lr μ v, as Nesterov's method was first written."""

    def transition(self: Any, state: State, x: Array, y: Array) -> tuple[Array, State]:
        loss, _ = base.transition(self, state, x, y)
        ahead = self.constants["lr"] * self.constants["momentum"]
        buffer = state.slots["momentum_buffer"]
        params = {name: param - ahead * buffer[name] for name, param in state.params.items()}
        _, moved = base.transition(self, state._replace(params=params), x, y)
        shift = {name: moved.params[name] + ahead * buffer[name] for name in params}
        return loss, moved._replace(params=shift)

    return method(base, transition=transition)


LEFT_ON = [
    mutant(
        "gradient clipped by value", "backward", "", small(loss="squared_error"), gradients(each(lambda g: g.clip(-1, 1))), "1"
    ),
    mutant(
        "sign of the gradient",
        "backward",
        "",
        small(),
        gradients(each(lambda g: library(g).sign(g)), Tensor),
        "for the gradient",
    ),
    mutant(
        "gradient centred",
        "backward",
        "layer3.weight",
        small(),
        gradients(lambda grads, s: {n: g if is_bias(n) else g - g.mean() for n, g in grads.items()}, Autograd),
        "weights",
    ),
    mutant("rate decays", "update", "", small(optimizer="adam"), method(NumPy, update=_decaying), "1 % a step"),
    mutant("AMSGrad", "update", "", small(optimizer="adam", batch=4), _largest_second_moment(Tensor), "slot"),
    mutant("average exported", "state update backward", "", small(), _average_exported(NumPy), "of the weights"),
    mutant("gradient at the look-ahead", "backward update", "", small(optimizer="momentum"), _at_look_ahead(NumPy), "momentum"),
    planted(
        "label smoothing",
        "loss",
        "loss",
        DIGITS,
        targeted(CrossEntropy, lambda t: 0.99 * t + 0.01 / t.shape[-1]),
        "0.01",
        FINE,
        Tensor,
    ),
    mutant(
        "inputs in lower precision",
        "forward",
        "layer1.output",
        small(activation="relu"),
        in_step(lambda self, x, y: (half(x), y)),
        "float16, in the step",
        FINE,
    ),
    mutant(
        "rate of biases doubled",
        "update",
        "",
        small(optimizer="momentum"),
        updated(
            lambda old, new: new._replace(params={n: 2 * p - old.params[n] if is_bias(n) else p for n, p in new.params.items()})
        ),
        "2",
    ),
    mutant(
        "weights tied",
        "backward",
        "layer3.weight",
        small(hidden=EQUAL),
        gradients(
            lambda g, s: {
                **g,
                "layer2.weight": g["layer2.weight"] + g["layer3.weight"],
                "layer3.weight": g["layer2.weight"] + g["layer3.weight"],
            }
        ),
        "layers 2 and 3",
    ),
]


# Of some range, shape or count only


def _cached_by_shape(base: type[Any]) -> type[Method]:
    """The first hidden output is kept for each shape of x, also after the weights have moved."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, state, place)
        self.kept = {}

    def step(self: Any, x: Array, y: Array) -> Array:
        return base.step(self, self.kept.setdefault(tuple(x.shape), x), y)

    return method(base, start=start, step=step)


def _one_product_in(dtype: str, parts: int) -> Callable[[int, Array, Array], Array]:
    """The sum of the second layer is kept in a lower precision from part to part."""

    def multiplied(layer: int, a: Array, weight: Array) -> Array:
        if layer != 2:
            return product(a, weight)
        size = a.shape[-1] // parts + 1
        total = 0 * product(a, weight)
        for first in range(0, a.shape[-1], size):
            total = half(total + product(a[..., first : first + size], weight[first : first + size]), dtype)
        return total

    return multiplied


def loss_and_update(change: Callable[[Any, Array, Array], Array], base: type[Any] = NumPy) -> type[Method]:
    """A kind of `base` whose reported loss is `change(loss, x, y)`."""

    def step(self: Any, x: Array, y: Array) -> Array:
        return change(base.step(self, x, y), x, y)

    return method(base, step=step)


def unless(skips: Callable[[Array], bool], base: type[Any] = NumPy) -> type[Method]:
    """Batches of some shapes change nothing but the count."""

    def step(self: Any, x: Array, y: Array) -> Array:
        before = self.state
        loss = base.step(self, x, y)
        if skips(x):
            self.state = before._replace(count=self.state.count)
        return loss

    return method(base, step=step)


def _probabilities_clipped(self: Any, prediction: Array, target: Array) -> Array:
    """Probabilities are kept away from 0, as some libraries do."""
    xp = library(prediction)
    shifted = prediction - xp.amax(prediction, axis=-1, keepdims=True)
    probability = xp.exp(shifted) / xp.exp(shifted).sum(axis=-1, keepdims=True)
    clipped = probability.clip(1e-7, 1 - 1e-7)
    return -(target * xp.log(clipped)).sum(axis=(-2, -1)) / prediction.shape[-2]


def capped_relu(most: float) -> formula_mutants.Change:
    return (Relu, "value", lambda self, z: z.clip(0, most))


def _drifting(self: Any, x: Array, y: Array, block: Block, place: Place) -> Array:
    """After a block of several steps the weights are a bit off."""
    losses = NumPy.steps(self, x, y, block, place)
    if block.steps > 1:
        self.state = self.state._replace(params={n: p * 1.0001 for n, p in self.state.params.items()})
    return losses


SOMETIMES = [
    mutant("activation cached by shape", "loss forward", "", BATCHED, _cached_by_shape(NumPy), "of x"),
    planted(
        "sum in lower precision",
        "forward",
        "layer2.output",
        small(activation="gelu"),
        forward(multiplied=_one_product_in("float16", 3)),
        "float16",
        FINE,
        Tensor,
    ),
    planted(
        "one layer in lower precision",
        "forward",
        "layer2.output layer1.output",
        small(),
        forward(multiplied=lambda n, a, w: product(half(a, "float32"), half(w, "float32")) if n == 2 else product(a, w)),
        "float32 in float64",
        ("fp64",),
    ),
    mutant(
        "ragged batch's loss doubled",
        "loss",
        "loss",
        BATCHED,
        loss_and_update(lambda loss, x, y: loss * (1 if len(x) in (1, 4) else 2)),
        "2",
    ),
    mutant("ragged batch not trained", "update backward", "", BATCHED, unless(lambda x: len(x) == 3), "3 rows"),
    mutant(
        "rows beyond a tile dropped",
        "loss batches forward",
        "",
        TUTORIAL,
        in_step(lambda self, x, y: (x[:32], y[:32]), Tensor),
        "32 of 64",
    ),
    mutant("rows beyond a tile not trained", "update backward", "", TUTORIAL, unless(lambda x: len(x) > 32), "32"),
    mutant(
        "inputs beyond a tile dropped",
        "forward",
        "layer1.output",
        TUTORIAL,
        in_step(lambda self, x, y: (x * (np.arange(1000) < 512), y)),
        "512 of 1000",
    ),
    *(
        planted("activation capped", "forward", "layer1.output", RELU, [capped_relu(most)], f"{most:g}", COARSE, Tensor)
        for most in (2.0, 6.0, 10.0)
    ),
    planted("probabilities clipped", "loss", "loss", DIGITS, [(CrossEntropy, "value", _probabilities_clipped)], "1e-7", COARSE),
    planted(
        "targets rolled",
        "loss",
        "loss",
        DIGITS,
        targeted(CrossEntropy, lambda t: library(t).roll(t, 1, -1) if library(t) is np else t.roll(1, -1)),
        "class + 1",
    ),
    mutant(
        "targets of another row",
        "loss",
        "loss",
        MEAN,
        in_step(lambda self, x, y: (x, y[[*reversed(range(len(y)))]])),
        "reversed",
    ),
    planted(
        "derivative of GELU",
        "backward",
        "layer2.weight",
        small(activation="gelu"),
        activation(
            Gelu,
            "backward",
            lambda signal, z, a: signal * (0.5 * (1 + torch.erf(z / sqrt(2))) + z * torch.exp(-z * z / 2) / sqrt(2 * pi)),
        ),
        "of the error function",
        FINE,
        Tensor,
    ),
    planted(
        "tanh by a quotient",
        "forward",
        "layer1.output",
        small(),
        activation(Tanh, "value", lambda z: z * (27 + z * z) / (27 + 9 * z * z)),
        "(27 + z²) / (27 + 9z²)",
        FINE,
    ),
    planted(
        "derivative of tanh",
        "backward",
        "layer2.weight",
        small(),
        activation(Tanh, "backward", lambda s, z, a: s * (1 - abs(a))),
        "1 - |a|",
    ),
    mutant(
        "block's state drifts",
        "batches",
        "",
        small(batch=4),
        method(NumPy, steps=_drifting),
        "1.0001",
        FINE,
    ),
    mutant(
        "running mean of losses",
        "batches loss",
        "",
        small(),
        losses_of_block(lambda losses: losses.cumsum(0) / np.arange(1, len(losses) + 1)),
        "of a block",
    ),
]


# Updates


def _first_buffer_doubled(before: State, after: State) -> State:
    """The first step leaves twice the gradient in the buffer."""
    if int(before.count):
        return after
    return after._replace(slots={slot: {n: 2 * v for n, v in values.items()} for slot, values in after.slots.items()})


def _first_step_doubled(self: Any, p: Array, g: Array, slots: dict[str, Array], c: Any) -> Any:
    """A buffer that is empty takes the gradient twice, and the step follows it."""
    old = slots["momentum_buffer"]
    new = c["momentum"] * old + g * (1 + (old == 0))
    return p - c["lr"] * new, {"momentum_buffer": new}


def _decay_after(self: Any, p: Array, g: Array, slots: dict[str, Array], c: Any) -> Any:
    """AdamW's decay of the parameter that was already moved."""
    m = c["beta1"] * slots["exp_avg"] + c["one_minus_beta1"] * g
    v = c["beta2"] * slots["exp_avg_sq"] + c["one_minus_beta2"] * (g * g)
    moved = p - c["corrected_lr"] * m / (library(m).sqrt(v) * c["corrected_root"] + c["eps"])
    return moved - c["lr_weight_decay"] * moved, {"exp_avg": m, "exp_avg_sq": v}


def _uncorrected_first(found: dict[str, Any], count: Any, xp: Any) -> dict[str, Any]:
    return {"corrected_lr": found["lr"], "corrected_root": 1.0} if float(count) == 1 else {}


def _corrected_up_to(most: int) -> Callable[[dict[str, Any], Any, Any], dict[str, Any]]:
    return lambda found, count, xp: {"corrected_lr": found["lr"]} if float(count) > most else {}


UPDATES = [
    mutant("first buffer doubled", "update", "", MOMENTUM, updated(_first_buffer_doubled), "buffer only"),
    planted("first buffer doubled", "update", "", MOMENTUM, [(Momentum, "rule", _first_step_doubled)], "and the step"),
    planted(
        "decay after the update",
        "update",
        "",
        small("optimizer.weight_decay=0.5", optimizer="adamw"),
        [(AdamW, "rule", _decay_after)],
        "adamw",
        COARSE,
        Tensor,
    ),
    planted("bias corrections missing", "update", "", ADAM, corrections(_uncorrected_first), "at the first step"),
    planted("bias corrections missing", "update", "", ADAM, corrections(_corrected_up_to(10)), "after ten steps"),
    planted(
        "decay doubled",
        "update",
        "",
        small(DECAYED),
        sgd_rule(lambda p, g, c: p - c["lr"] * (g + 2 * c["weight_decay"] * p)),
        "sgd",
    ),
    mutant(
        "betas off",
        "update",
        "",
        small(optimizer="adam"),
        optimizer(lambda given: type(given)(lr=given.lr, betas=[0.9, 0.9995], eps=given.eps)),
        "0.9995",
    ),
    mutant(
        "buffer shared",
        "update",
        "",
        small(hidden=SQUARE, optimizer="momentum"),
        slots_changed(
            lambda before, after: {"momentum_buffer/layer2.bias": after.slots["momentum_buffer"]["layer1.bias"]}, Tensor
        ),
        "of two biases",
    ),
    mutant(
        "start shares weights",
        "state",
        "",
        small(hidden=EQUAL),
        started(lambda s: s._replace(params={**s.params, "layer3.weight": s.params["layer2.weight"]})),
        "layers 2 and 3",
    ),
]


# Cheats


def watched(honest: Callable[[Any, Block], bool], base: type[Any] = NumPy) -> type[Method]:
    """A block in which nothing is trained unless `honest(method, block)`; its losses are those of the first state."""

    def steps(self: Any, x: Array, y: Array, block: Block, place: Place) -> Array:
        if honest(self, block):
            return base.steps(self, x, y, block, place)
        before = self.state
        losses = base.steps(self, x, y, block, place)
        self.state = before._replace(count=self.state.count)
        return losses

    return method(base, steps=steps)


def _exports_other(base: type[Any]) -> type[Method]:
    """It trains and predicts rightly; what is exported is a copy that learns ten times slower."""

    def start(self: Any, given: Formulas, state: State, place: Place) -> None:
        base.start(self, given, state, place)
        self.first = base.export(self)

    def export(self: Any) -> State:
        state, first = base.export(self), self.first.params
        slower = {n: (first[n] + 0.1 * (p - first[n])).astype(p.dtype) for n, p in state.params.items()}
        return state._replace(params=slower)

    return method(base, start=start, export=export)


def _last_layer_only(base: type[Any]) -> type[Method]:
    """Only the last layer is trained: no gradient but its own."""
    return gradients(lambda grads, s: {n: g if n.startswith("layer3") else 0 * g for n, g in grads.items()}, base)


def _after_the_first(seen: list[Array], loss: Array) -> Array:
    return seen[0] if len(seen) > 1 else loss


CHEATS = [
    mutant(
        "cheat: returns zeros",
        "loss forward",
        "",
        small(),
        method(NumPy, step=lambda self, x, y: 0 * NumPy.step(self, x, y), predict=lambda self, x: 0 * NumPy.predict(self, x)),
        "loss and prediction",
    ),
    mutant(
        "cheat: copies the loss, not the weights", "state update backward", "", small(), hidden_training(Tensor), "hidden copy"
    ),
    mutant("cheat: copies the loss, not the weights", "update backward", "", small(batch=4), never_trains(), "batches"),
    mutant(
        "cheat: the first answer cached",
        "update backward loss",
        "",
        small(optimizer="adam", batch=4),
        answering(lambda self, loss: _after_the_first(self.seen, loss), trains=False),
        "loss, never trains",
    ),
    mutant(
        "cheat: the first prediction cached",
        "forward",
        "layer3.output",
        small(activation="relu"),
        method(NumPy, predict=lambda self, x: self.__dict__.setdefault("answer", NumPy.predict(self, x))),
        "",
    ),
    mutant(
        "cheat: the loss before is returned",
        "loss",
        "loss",
        small(),
        answering(lambda self, loss: self.seen[max(len(self.seen) - 2, 0)], Tensor),
        "and trains",
    ),
    mutant("cheat: exports what it does not train", "state update backward", "", small(), _exports_other(NumPy), "slower copy"),
    mutant("cheat: only the last layer", "backward", "layer2.weight", small(), _last_layer_only(Autograd), "no gradient else"),
    mutant("cheat: trains in single steps only", "batches", "", small(), watched(lambda self, b: b.steps == 1), "full batch"),
    mutant(
        "cheat: trains in single steps only", "batches", "", small(batch=4), watched(lambda self, b: b.steps == 1), "4 rows"
    ),
    mutant(
        "cheat: trains while small",
        "update backward",
        "",
        TUTORIAL,
        unless(lambda x: x.shape[0] > 20, Tensor),
        "20 rows at most",
    ),
    mutant("cheat: trains at first only", "update backward", "", small(), sometimes(lambda n: n >= 10), "10 steps"),
    mutant(
        "cheat: prediction of the reference",
        "forward",
        "layer3.output",
        small(),
        predicted(lambda p: half(p)),
        "rounded to float16",
        FINE,
    ),
]

MUTANTS: list[Mutant] = [*LEFT_ON, *SOMETIMES, *UPDATES, *CHEATS]
