"""Replays of bugs that were reported in public: each is the reported fault in a training step of this package.

Every class says what the bug was and how it is replayed; its source is cited in `REPLAYS`. Most change one part of `Parts`,
the loop that people write around `torch.nn` and `torch.optim`; the others are steps written by hand.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from math import pi, sqrt
from typing import Any

import numpy as np
import torch
from campaigns.faults import Fault
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from exp.arrays import Array, Place, gather, put, stack
from exp.methods import Block, Formulas, Method
from exp.methods.autograd import Autograd
from exp.methods.manual import Tensor
from exp.methods.module import Module
from exp.network import depth, forward
from exp.state import State

ROWS_OF_A_BATCH = 4
"""What the replays of a wrong denominator believe to be the size of every batch, and of every accumulation window."""

LOSS_SCALE = 65536.0
"""The first scale of `torch.amp.GradScaler`."""

MAX_NORM = 150.0
"""A norm that no gradient of these problems reaches: a right clipping would never act."""


class Parts(Module):
    """`Module` with its step in parts: `objective`, `differentiate` and `advance`."""

    def objective(self, prediction: Array, y: Array) -> Array:
        return self.loss(prediction, y, **self.loss_arguments)

    def differentiate(self, loss: Array) -> None:
        self.optimizer.zero_grad()
        loss.backward()

    def advance(self) -> None:
        self.optimizer.step()

    def step(self, x: Array, y: Array) -> Array:
        loss = self.objective(self.model(x), y)
        self.differentiate(loss)
        self.advance()
        self.count += 1
        return loss.detach()

    def gradients(self) -> list[Array]:
        return [parameter.grad for parameter in self.parameters.values()]

    def scale_gradients(self, factor: float) -> None:
        for gradient in self.gradients():
            gradient.mul_(factor)


# Gradient accumulation and data parallelism: the parts of a batch are put together wrongly


class Accumulated(Parts):
    """A step whose gradient is accumulated over micro-batches of `rows_each`, the last of which may be smaller.

    `weight` is the share of a micro-batch in the gradient; of its loss, in what is reported.
    """

    rows_each = 2

    def weight(self, rows: int, total: int, parts: int) -> float:
        return 1 / parts

    def step(self, x: Array, y: Array) -> Array:
        self.optimizer.zero_grad()
        reported = torch.zeros((), dtype=x.dtype, device=x.device)
        parts = list(zip(x.split(self.rows_each), y.split(self.rows_each), strict=True))
        for part_x, part_y in parts:
            self.before_part()
            loss = self.objective(self.model(part_x), part_y)
            (loss * self.weight(len(part_x), len(x), len(parts))).backward()
            reported += self.reported(loss.detach(), len(part_x), len(x), len(parts))
        self.advance()
        self.count += 1
        return reported

    def before_part(self) -> None:
        """What happens before the forward pass of every micro-batch."""

    def reported(self, loss: Array, rows: int, total: int, parts: int) -> Array:
        return loss * self.weight(rows, total, parts)


class MeanOfMeansInGradient(Accumulated):
    """The summed gradients of the micro-batches' means were divided by their number, though the last has fewer rows.

    The loss was already reported weighted by size, so only the gradient is wrong.
    """

    def reported(self, loss: Array, rows: int, total: int, parts: int) -> Array:
        return loss * (rows / total)


class MeanOfMeans(Accumulated):
    """The same in the Trainer of transformers, where the reported loss is the mean of means too."""


class ConfiguredWindow(Accumulated):
    """A partial window is divided by the configured number of micro-batches, not by how many there were."""

    rows_each = 1

    def weight(self, rows: int, total: int, parts: int) -> float:
        return 1 / ROWS_OF_A_BATCH


class ZeroedInEveryMicroBatch(Accumulated):
    """zero_grad stood in the inner loop: only the last micro-batch's gradient is left when the optimizer steps."""

    def weight(self, rows: int, total: int, parts: int) -> float:
        return rows / total

    def before_part(self) -> None:
        self.optimizer.zero_grad()


class BoundaryMicroBatchUnreduced(Parts):
    """The last micro-batch was added after the all-reduce: what the other rank had in it never arrives.

    Two ranks with micro-batches of one row: the batch's last row is the other rank's last micro-batch.
    """

    def step(self, x: Array, y: Array) -> Array:
        with torch.no_grad():
            reported = self.objective(self.model(x), y)
        arrived = max(len(x) - 1, 1)
        loss = self.objective(self.model(x[:arrived]), y[:arrived]) * (arrived / len(x))
        self.differentiate(loss)
        self.advance()
        self.count += 1
        return reported


class DividedByWorldSizeTwice(Parts):
    """The loss was divided by all tokens, and the all-reduce averaged over two ranks once more."""

    def differentiate(self, loss: Array) -> None:
        super().differentiate(loss)
        self.scale_gradients(1 / 2)


class SumsAveragedOverExecutors(Parts):
    """A summed loss was summed on each of two executors, and then averaged over them."""

    def objective(self, prediction: Array, y: Array) -> Array:
        return super().objective(prediction, y) / 2


# Losses


class DividedByConfiguredBatch(Parts):
    """The summed loss was divided by the configured batch size, which the last batch of an epoch does not have."""

    def objective(self, prediction: Array, y: Array) -> Array:
        return functional.mse_loss(prediction, y, reduction="sum") / (ROWS_OF_A_BATCH * y.shape[1])


class BroadcastTarget(Parts):
    """A prediction (N, 1) and a target (N,) are broadcast to all N × N pairs."""

    def objective(self, prediction: Array, y: Array) -> Array:
        return ((prediction - y.squeeze(1)) ** 2).mean()


class SoftmaxTwiceInLoss(Parts):
    """The loss takes the softmax of probabilities; the module still returns logits."""

    def objective(self, prediction: Array, y: Array) -> Array:
        return functional.cross_entropy(functional.softmax(prediction, dim=-1), y)


class SoftmaxOverBatch(Parts):
    """log_softmax over dim=0, the rows of the batch, instead of over the classes."""

    def objective(self, prediction: Array, y: Array) -> Array:
        return -(y * functional.log_softmax(prediction, dim=0)).sum() / len(y)


class OverwrittenLosses(Parts):
    """The loss of a replayed graph lies in one buffer; losses kept without a copy all become the last one."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.buffer = torch.zeros((), dtype=getattr(torch, place.dtype), device=place.device)

    def step(self, x: Array, y: Array) -> Array:
        return self.buffer.copy_(super().step(x, y))


class StaleStaticInputs(Parts):
    """A replayed graph reads its static input buffers, and what was not copied into them is stale (there, one input).

    The buffers are filled at capture, the first step of a shape, and here never again.
    """

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.static: dict[tuple[int, ...], tuple[Array, Array]] = {}

    def step(self, x: Array, y: Array) -> Array:
        return super().step(*self.static.setdefault(tuple(x.shape), (x.clone(), y.clone())))


# Forward passes


class SoftmaxInModel(Parts):
    """The model ends in a softmax, and the loss takes logits."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.model.append(torch.nn.Softmax(dim=-1))


class ErrorFunctionGelu(Parts):
    """GELU by the error function, the default of torch, where the tanh form was meant (the default of JAX)."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        for module in self.model:
            if isinstance(module, torch.nn.GELU):
                module.approximate = "none"


class OwnForward(Autograd):
    """`Autograd` with a forward pass of its own."""

    def output(self, params: dict[str, Array], x: Array) -> Array:
        for layer in range(1, depth(params) + 1):
            z = self.linear(x, params[f"layer{layer}.weight"])
            if (bias := params.get(f"layer{layer}.bias")) is not None:
                z = z + bias
            x = self.activated(z) if layer < depth(params) else z
        return x

    def linear(self, a: Array, weight: Array) -> Array:
        return a @ weight

    def activated(self, z: Array) -> Array:
        return self.activation.value(z)

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        params = {name: param.detach().requires_grad_() for name, param in state.params.items()}
        loss = self.loss.value(self.output(params, x), y)
        grads = torch.autograd.grad(loss, list(params.values()))
        with torch.no_grad():
            return loss.detach(), self.update(state, dict(zip(params, grads, strict=True)))

    def predict(self, x: Array) -> Array:
        with torch.no_grad():
            return self.output(self.state.params, x)


class StridesOfWeightIgnored(OwnForward):
    """F.linear on MPS read a weight that is a transposed view as if its memory were in order."""

    def linear(self, a: Array, weight: Array) -> Array:
        return a @ weight.contiguous().view(weight.shape[::-1]).T


# Backward passes


class InlinedCustomFunction(OwnForward):
    """Dynamo inlined the forward of an autograd.Function and differentiated that, dropping the backward beside it.

    The forward of this GELU keeps its tanh out of the graph, because its backward, not shown, computes it again.
    """

    def activated(self, z: Array) -> Array:
        with torch.no_grad():
            tanh = torch.tanh(sqrt(2 / pi) * (z + 0.044715 * z**3))
        return 0.5 * z * (1 + tanh)


class SameTensorTwice(Parts):
    """A compiled autograd.Function that was given the same tensor twice returned the gradient of one place only."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, left: Array, right: Array) -> Array:
            ctx.save_for_backward(left, right)
            return left * right

        @staticmethod
        def backward(ctx: Any, *signals: Array) -> tuple[Array, None]:
            return signals[0] * ctx.saved_tensors[1], None

    def objective(self, prediction: Array, y: Array) -> Array:
        difference = prediction - y
        return self.Product.apply(difference, difference).sum()


class StridesOfSavedTanhIgnored(OwnForward):
    """tanh on MPS is right forward, but its backward reads a permuted output as if its memory were in order."""

    class Tanh(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Array) -> Array:
            a = torch.tanh(z)
            ctx.save_for_backward(a)
            return a

        @staticmethod
        def backward(ctx: Any, *signals: Array) -> Array:
            (a,) = ctx.saved_tensors
            if not a.is_contiguous():
                a = a.T.contiguous().view(a.shape)
            return signals[0] * (1 - a * a)

    def linear(self, a: Array, weight: Array) -> Array:
        return (weight.T @ a.T).T

    def activated(self, z: Array) -> Array:
        return self.Tanh.apply(z)


class CheckpointedFirstLayer(Parts):
    """A reentrant checkpoint of data, which needs no gradient: the first layer gets none and stays as it was."""

    def step(self, x: Array, y: Array) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning that all who reported this had overlooked
            hidden = checkpoint(self.model[:2], x, use_reentrant=True)
        loss = self.objective(self.model[2:](hidden), y)
        self.differentiate(loss)
        self.advance()
        self.count += 1
        return loss.detach()


class ReusedSignalBuffer(Tensor):
    """The scheduler gave the memory of a signal to the next one while a weight's gradient had still to read it."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        params = state.params
        pre, outputs = forward(params, x, self.activation)
        buffer = torch.empty(max(output.numel() for output in outputs), dtype=x.dtype, device=x.device)

        def placed(values: Array) -> Array:
            place = buffer[: values.numel()].view(values.shape)
            place.copy_(values.clone())
            return place

        signal, grads = placed(self.loss.gradient(outputs[-1], y)), {}
        for layer in range(depth(params), 0, -1):
            current = signal
            if layer > 1:
                signal = signal @ params[f"layer{layer}.weight"].T
                signal = placed(self.activation.backward(signal, pre[layer - 2], outputs[layer - 1]))
            grads[f"layer{layer}.weight"] = outputs[layer - 1].T @ current
            if f"layer{layer}.bias" in params:
                grads[f"layer{layer}.bias"] = current.sum(dim=0)
        return self.loss.value(outputs[-1], y), self.update(state, grads)


class ThroughUpdatedWeights(Tensor):
    """Each layer was updated before the signal was taken through it: plain gradient descent."""

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        params = dict(state.params)
        pre, outputs = forward(params, x, self.activation)
        signal = self.loss.gradient(outputs[-1], y)
        for layer in range(depth(params), 0, -1):
            weight, bias = f"layer{layer}.weight", f"layer{layer}.bias"
            params[weight] = params[weight] - self.constants["lr"] * outputs[layer - 1].T @ signal
            params[bias] = params[bias] - self.constants["lr"] * signal.sum(dim=0)
            if layer > 1:
                signal = self.activation.backward(signal @ params[weight].T, pre[layer - 2], outputs[layer - 1])
        return self.loss.value(outputs[-1], y), State(params, {}, state.count + 1)


class ZeroGradForgotten(Parts):
    """Nobody called zero_grad: every gradient is added to those of the steps before."""

    def differentiate(self, loss: Array) -> None:
        loss.backward()


class UnscaledThoughNeverScaled(Parts):
    """Under bfloat16 the step divided by a loss scale that the loss never had, and left zero_grad out.

    The second half hides behind the first: gradients are a sum of all steps, divided anew in each.
    """

    def differentiate(self, loss: Array) -> None:
        loss.backward()
        self.scale_gradients(1 / LOSS_SCALE)


class GradientsInBfloat16(Parts):
    """Gradients were produced and kept in bfloat16, of eight bits."""

    def differentiate(self, loss: Array) -> None:
        super().differentiate(loss)
        for gradient in self.gradients():
            gradient.copy_(gradient.to(torch.bfloat16))


class ClippedBySquaredNorm(Parts):
    """The clipping compared the squared norm, and divided by it: it forgot the root."""

    def differentiate(self, loss: Array) -> None:
        super().differentiate(loss)
        squared = sum((gradient**2).sum().item() for gradient in self.gradients())
        self.scale_gradients(min(1.0, MAX_NORM / squared))


class ClippedBeforeUnscaling(Parts):
    """clip_grad_norm_ saw the gradients of the scaled loss, and the scale was divided out after it."""

    def differentiate(self, loss: Array) -> None:
        self.optimizer.zero_grad()
        (loss * LOSS_SCALE).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.scale_gradients(1 / LOSS_SCALE)


# Updates by an optimizer of torch that was given the wrong things


class StaleParameters(Parts):
    """The optimizer was built before the model's parameters were replaced: it updates the old ones."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        linear = [module for module in self.model if isinstance(module, torch.nn.Linear)]
        for number, module in enumerate(linear, start=1):
            for kind, parameter in list(module.named_parameters()):
                setattr(module, kind, torch.nn.Parameter(parameter.detach().clone()))
                self.parameters[f"layer{number}.{kind}"] = getattr(module, kind)


class ParameterListedTwice(Parts):
    """A shared weight stood in the optimizer's list twice, and is updated twice in every step."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        weights = [parameter for name, parameter in self.parameters.items() if name.endswith("weight")]
        given = self.optimizer.state
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "in future, this will cause an error"
            kind = getattr(torch.optim, formulas.optimizer.torch_name)
            self.optimizer = kind([*self.parameters.values(), weights[-1]], **formulas.optimizer.torch_arguments())
        self.optimizer.state = given


class AdamForAdamW(Parts):
    """AdamW inherited from Adam and lost its own weight decay: the decay goes into the gradient."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        given = self.optimizer.state
        self.optimizer = torch.optim.Adam(self.parameters.values(), **formulas.optimizer.torch_arguments())
        self.optimizer.state = given


class AdamWForAdam(Parts):
    """The fused kernel of Adam decayed the weights themselves, which is the rule of AdamW."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        given = self.optimizer.state
        self.optimizer = torch.optim.AdamW(self.parameters.values(), **formulas.optimizer.torch_arguments())
        self.optimizer.state = given


class DampenedByDefault(Parts):
    """The dampening of SGD was the momentum by default: v ← μv + (1 − μ)g."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.optimizer.param_groups[0]["dampening"] = self.optimizer.param_groups[0]["momentum"]


class MomentumResetInEveryStep(Parts):
    """The buffer was set to zero at the beginning of every step: there is no momentum."""

    def advance(self) -> None:
        for slots in self.optimizer.state.values():
            slots["momentum_buffer"].zero_()
        super().advance()


class DecayWithMomentumOnly(Parts):
    """Without momentum the update returned before it came to the weight decay."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.optimizer.param_groups[0]["weight_decay"] = 0.0


class NonContiguousUpdate(Parts):
    """addcdiv_ on MPS wrote into a contiguous copy of its output, and did not copy that back.

    Weights that are transposed views keep their values; biases are updated.
    """

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        for parameter in self.parameters.values():
            if parameter.ndim == 2:
                parameter.data = parameter.data.T.contiguous().T

    def advance(self) -> None:
        group = self.optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        for parameter in self.parameters.values():
            slots, gradient = self.optimizer.state[parameter], parameter.grad
            slots["step"] += 1
            count = slots["step"].item()
            slots["exp_avg"].lerp_(gradient, 1 - beta1)
            slots["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            denominator = (slots["exp_avg_sq"].sqrt() / sqrt(1 - beta2**count)).add_(group["eps"])
            output = parameter.detach().contiguous()
            output.addcdiv_(slots["exp_avg"], denominator, value=-group["lr"] / (1 - beta1**count))


# Updates written by hand


class OwnRule(Tensor):
    """`Tensor` with an update of its own: `rule` gives the new parameter and its new slots."""

    def rule(self, p: Array, g: Array, slots: dict[str, Array], count: float) -> tuple[Array, dict[str, Array]]:
        raise NotImplementedError

    def update(self, state: State, grads: dict[str, Array]) -> State:
        params: dict[str, Array] = {}
        slots: dict[str, dict[str, Array]] = {slot: {} for slot in state.slots}
        for name, param in state.params.items():
            old = {slot: state.slots[slot][name] for slot in state.slots}
            params[name], new = self.rule(param, grads[name], old, float(state.count + 1))
            for slot, value in new.items():
                slots[slot][name] = value
        return State(params, slots, state.count + 1)


class BakedLearningRate(OwnRule):
    """The learning rate was baked into the velocity: v ← μv + lr · g; p ← p − v. So v is not what a state calls v."""

    def rule(self, p: Array, g: Array, slots: dict[str, Array], count: float) -> tuple[Array, dict[str, Array]]:
        velocity = self.constants["momentum"] * slots["momentum_buffer"] + self.constants["lr"] * g
        return p - velocity, {"momentum_buffer": velocity}


class NesterovAsProposed(OwnRule):
    """A "fix" of Nesterov momentum that was refuted in review: p ← p − lr (1 + μ) v, with v for the gradient in it."""

    def rule(self, p: Array, g: Array, slots: dict[str, Array], count: float) -> tuple[Array, dict[str, Array]]:
        momentum = self.constants["momentum"]
        velocity = momentum * slots["momentum_buffer"] + g
        return p - self.constants["lr"] * (1 + momentum) * velocity, {"momentum_buffer": velocity}


class OwnAdam(OwnRule):
    """Adam by hand; `step_of` is what is subtracted, before lr."""

    def rule(self, p: Array, g: Array, slots: dict[str, Array], count: float) -> tuple[Array, dict[str, Array]]:
        c = self.constants
        m = c["beta1"] * slots["exp_avg"] + (1 - c["beta1"]) * g
        v = c["beta2"] * slots["exp_avg_sq"] + (1 - c["beta2"]) * g * g
        return self.decayed(p) - c["lr"] * self.step_of(m, v, count), {"exp_avg": m, "exp_avg_sq": v}

    def decayed(self, p: Array) -> Array:
        return p

    def step_of(self, m: Array, v: Array, count: float) -> Array:
        c = self.constants
        return m / (1 - c["beta1"] ** count) / (torch.sqrt(v / (1 - c["beta2"] ** count)) + c["eps"])


class NoBiasCorrection(OwnAdam):
    """The optimizer of BERT used m and v as they are."""

    def step_of(self, m: Array, v: Array, count: float) -> Array:
        return m / (torch.sqrt(v) + self.constants["eps"])


class MultipliedBiasCorrection(OwnAdam):
    """m and v were multiplied by 1 − βᵗ instead of divided by it."""

    def step_of(self, m: Array, v: Array, count: float) -> Array:
        c = self.constants
        return m * (1 - c["beta1"] ** count) / (torch.sqrt(v * (1 - c["beta2"] ** count)) + c["eps"])


class EpsilonHat(OwnAdam):
    """ε was added before the bias correction of the denominator, which so scales ε too."""

    def step_of(self, m: Array, v: Array, count: float) -> Array:
        c = self.constants
        return m / (1 - c["beta1"] ** count) * sqrt(1 - c["beta2"] ** count) / (torch.sqrt(v) + c["eps"])


class DecayNotTimesParameter(OwnAdam):
    """The decay was subtracted as the number lr · λ, not multiplied with the parameter."""

    def decayed(self, p: Array) -> Array:
        return p - self.constants["lr"] * self.constants["weight_decay"]


class CountedPerParameter(OwnAdam):
    """The step count grew with every parameter of a step, so that each is corrected for another count."""

    def update(self, state: State, grads: dict[str, Array]) -> State:
        self.counted = float(state.count) * len(state.params)
        return super().update(state, grads)

    def step_of(self, m: Array, v: Array, count: float) -> Array:
        self.counted += 1
        return super().step_of(m, v, self.counted)


class CountNeverIncremented(OwnAdam):
    """The step count was read but never written: every step is corrected as the first, and exported as none."""

    def update(self, state: State, grads: dict[str, Array]) -> State:
        return super().update(state, grads)._replace(count=state.count)


class UpdateRoundedToBfloat16(Tensor):
    """The new weight was written in bfloat16: an update below half of its last bit vanishes."""

    def update(self, state: State, grads: dict[str, Array]) -> State:
        new = super().update(state, grads)
        return new._replace(params={name: _in_bfloat16(param) for name, param in new.params.items()})


class ParametersInBfloat16(UpdateRoundedToBfloat16):
    """The whole model was cast to bfloat16: already the weights that it starts from are others."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        params = {name: _in_bfloat16(param) for name, param in self.state.params.items()}
        self.state = self.state._replace(params=params)


def _in_bfloat16(array: Array) -> Array:
    return array.to(torch.bfloat16).to(array.dtype)


# Data


class NormalizedInPlace(Parts):
    """The normalisation of a batch worked in place on an alias of the data set, which it changes step by step."""

    def step(self, x: Array, y: Array) -> Array:
        x.sub_(0.5).div_(1.5)
        return super().step(x, y)


class TargetsClampedInPlace(Parts):
    """The model clamped the targets that it was given in place, so the caller's are rewritten."""

    def objective(self, prediction: Array, y: Array) -> Array:
        return super().objective(prediction, y.clamp_(-0.5, 0.5))


class Replanned(Module):
    """`Module` with another plan of mini-batches: `planned` changes the rows, (steps, B), of x and of y."""

    def planned(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _both(rows)

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        if block.rows is None:
            return super().steps(x, y, block, place)
        return stack([self.step(gather(x, ours), gather(y, theirs)) for ours, theirs in self.batches(block.rows, place)])

    def batches(self, rows: np.ndarray, place: Place) -> Iterator[tuple[Array, Array]]:
        yield from zip(*(put(planned, place) for planned in self.planned(rows)), strict=True)


class FirstBatchAgain(Replanned):
    """iter(loader) stood inside the loop: every step of it trains on the first batch."""

    def planned(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _both(np.repeat(rows[:1], len(rows), axis=0))


class WorkersWithOneSeed(Replanned):
    """Two workers draw from copies of one NumPy generator: each batch is trained on twice, every other one never."""

    def planned(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _both(rows[np.arange(len(rows)) // 2 * 2])


class PaddedWithDuplicates(Replanned):
    """The sampler padded an odd batch with its own first row, to share it among two ranks."""

    def planned(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _both(np.concatenate([rows, rows[:, : rows.shape[1] % 2]], axis=1))


class TailDropped(Replanned):
    """The sampler shared only a multiple of two rows among two ranks: the last of an odd batch is never trained on."""

    def planned(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _both(rows[:, : max(rows.shape[1] // 2 * 2, 1)])


class ShuffledSeparately(Replanned):
    """Inputs and targets were put into different orders."""

    def planned(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rows, np.roll(rows, 1, axis=1)


def _both(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows, rows


# The list


def planted(kind: type[Method]) -> Callable[[], AbstractContextManager[Method]]:
    """A context in which nothing else is changed: the fault is the method itself."""
    return lambda: nullcontext(kind())


def words(loss: str, optimizer: str, *more: str, batch_size: int | None = ROWS_OF_A_BATCH, outputs: int = 3) -> tuple[str, ...]:
    """A small problem whose sizes all differ; its eleven rows make a ragged last batch of any size."""
    batches = () if batch_size is None else (f"training.batch_size={batch_size}",)
    network = ("network=mlp", "network.hidden=[6,5]", "problem.inputs=7", f"problem.outputs={outputs}", "problem.samples=11")
    return (*network, f"loss={loss}", f"optimizer={optimizer}", f"optimizer.lr={RATES[optimizer]}", *batches, *STEPS, *more)


STEPS = ("training.steps=9", "training.log_every=9", "training.evaluate_every=9")
"""Few steps, in blocks as long as their batches are of one size."""
RATES = {"sgd": 0.003, "momentum": 0.003, "adam": 0.01, "adamw": 0.01}
"""Rates at which a few steps move the weights by a few per cent."""

DIGITS = (
    *("problem=digits", "loss=cross_entropy", "network=mlp", "network.hidden=[6,5]"),
    *("training.batch_size=16", *STEPS, "optimizer=momentum", "optimizer.lr=0.03"),
)

BACKWARD_OR_UPDATE = ("backward", "update")
"""A gradient is only seen in what the update makes of it: some faults of the one are faults of the other as well."""

UPDATE_OR_BACKWARD = ("update", "backward")


def replay(
    family: str,
    kind: type[Method],
    beats: tuple[str, ...],
    overrides: tuple[str, ...],
    source: str,
    tensors: tuple[str, ...] = (),
) -> Fault:
    return Fault(family, beats, tensors, overrides, planted(kind), source=source)


ACCUMULATION = [
    replay(
        "mean of means in the gradient",
        MeanOfMeansInGradient,
        ("backward",),
        words("mean_squared_error", "momentum", batch_size=5),
        "Fix gradient accumulation to weight micro-batches by token count, https://github.com/ml-explore/mlx-lm/pull/1413",
    ),
    replay(
        "mean of means",
        MeanOfMeans,
        ("loss",),
        words("mean_squared_error", "adam", batch_size=5),
        "Gradient accumulation, https://github.com/huggingface/blog/pull/2414",
        ("loss",),
    ),
    replay(
        "partial window divided by the configured one",
        ConfiguredWindow,
        ("loss",),
        words("mean_squared_error", "momentum"),
        "fix(trainer): normalize partial gradient accumulation windows, https://github.com/modelscope/ms-swift/pull/10084",
        ("loss",),
    ),
    replay(
        "zero_grad in every micro-batch",
        ZeroedInEveryMicroBatch,
        ("backward",),
        words("mean_squared_error", "adam"),
        "train.py: zero_grad is called per microbatch, breaking gradient accumulation, "
        "https://github.com/bytetriper/RAE/issues/67",
    ),
    replay(
        "boundary micro-batch not reduced",
        BoundaryMicroBatchUnreduced,
        ("backward",),
        words("mean_squared_error", "adam"),
        "Fix BF16_Optimizer last-microbatch grad leak under ZeRO-1, https://github.com/deepspeedai/DeepSpeed/pull/7985",
    ),
    replay(
        "divided by the world size twice",
        DividedByWorldSizeTwice,
        ("backward",),
        words("mean_squared_error", "momentum"),
        "Fix gradient scaling to account for world_size normalization, https://github.com/meta-pytorch/torchtune/pull/2172",
    ),
    replay(
        "sums averaged over executors",
        SumsAveragedOverExecutors,
        ("loss",),
        words("squared_error", "momentum"),
        "Loss and gradient is not correct when criterion's sizeAverage is set to false, "
        "https://github.com/intel/ipex-llm/issues/2079",
        ("loss",),
    ),
]

LOSSES = [
    replay(
        "divided by the configured batch size",
        DividedByConfiguredBatch,
        ("loss",),
        words("mean_squared_error", "adam"),
        "Incorrect loss calculation for the last batch in TFTrainer if dataloader_drop_last is False, "
        "https://github.com/huggingface/transformers/issues/6969",
        ("loss",),
    ),
    replay(
        "target broadcast to all pairs",
        BroadcastTarget,
        ("loss",),
        words("mean_squared_error", "sgd", outputs=1),
        "Bug: fail to throw error when computing loss between tensors with shapes [n, 1] and [n], "
        "https://github.com/pytorch/pytorch/issues/16045",
        ("loss",),
    ),
    replay(
        "softmax twice in the loss",
        SoftmaxTwiceInLoss,
        ("loss",),
        DIGITS,
        "Softmax applied twice when computing loss in LogisticRegression, "
        "https://github.com/Lightning-Universe/lightning-bolts/issues/654",
        ("loss",),
    ),
    replay(
        "softmax over the batch",
        SoftmaxOverBatch,
        ("loss",),
        DIGITS,
        "Code Error, softmax should take the last dimension not the first dimension [in this case], "
        "https://github.com/MicrosoftDocs/pytorchfundamentals/pull/21",
        ("loss",),
    ),
    replay(
        "losses in one buffer",
        OverwrittenLosses,
        ("loss", "batches"),
        words("mean_squared_error", "adam", batch_size=3),
        "In-place loss accumulation, https://github.com/pytorch/torchtitan/pull/4146",
        ("loss",),
    ),
    replay(
        "stale static inputs",
        StaleStaticInputs,
        ("loss", "batches"),
        words("mean_squared_error", "adam"),
        "[TRTLLM-15262][feat] Test CUDA graph input buffers status before replay, "
        "https://github.com/NVIDIA/TensorRT-LLM/pull/18207",
    ),
]

FORWARD = [
    replay(
        "softmax in the model",
        SoftmaxInModel,
        ("forward",),
        DIGITS,
        "[Unet/tensorflow2] loss function with softmax output, https://github.com/NVIDIA/DeepLearningExamples/issues/468",
        ("layer3.output",),
    ),
    replay(
        "GELU by the error function",
        ErrorFunctionGelu,
        ("forward",),
        words("mean_squared_error", "adam", "network.activation=gelu"),
        "Decide: GELU erf (torch) vs tanh (JAX) in the CI transformer MLP, https://github.com/goodfire-ai/spd/issues/624",
        ("layer1.output", "layer3.output"),
    ),
    replay(
        "strides of a weight ignored",
        StridesOfWeightIgnored,
        ("forward",),
        words("mean_squared_error", "adam"),
        "fix(mps): Handle non-contiguous tensors in linear op for v2.8.0, https://github.com/pytorch/pytorch/pull/162779",
        ("layer1.output", "layer3.output"),
    ),
]

BACKWARD = [
    replay(
        "custom backward dropped",
        InlinedCustomFunction,
        ("backward",),
        words("mean_squared_error", "adam", "network.activation=gelu"),
        "Dynamo silently drops custom `backward` of `autograd.Function` under `torch.func.grad`, producing wrong gradients, "
        "https://github.com/pytorch/pytorch/issues/193279",
        ("layer2.weight", "layer2.bias"),
    ),
    replay(
        "same tensor twice",
        SameTensorTwice,
        ("backward",),
        words("squared_error", "momentum"),
        "torch.compile produces wrong gradient for custom autograd.Function when the same tensor is passed twice, "
        "https://github.com/pytorch/pytorch/issues/183604",
        ("layer3.weight", "layer3.bias"),
    ),
    replay(
        "strides of a saved tanh ignored",
        StridesOfSavedTanhIgnored,
        ("backward",),
        words("mean_squared_error", "adam", "network.activation=tanh"),
        "[MPS] tanh/sigmoid/silu backward produces wrong gradients on permuted tensors, "
        "https://github.com/pytorch/pytorch/issues/175188",
        ("layer2.weight", "layer2.bias"),
    ),
    replay(
        "first layer behind a checkpoint",
        CheckpointedFirstLayer,
        BACKWARD_OR_UPDATE,
        words("mean_squared_error", "adam"),
        "Make gradient checkpointing differentiable in the conditional SFNO, https://github.com/ai2cm/ace/pull/1493",
        ("layer1.weight", "layer1.bias", "exp_avg/layer1.weight", "exp_avg/layer1.bias"),
    ),
    replay(
        "signal buffer reused",
        ReusedSignalBuffer,
        ("backward",),
        words("mean_squared_error", "adam"),
        "ggml-cpu sched aliases intermediate grad-chain tensors in long backward graphs (CUDA correct), "
        "https://github.com/ggml-org/ggml/issues/1501",
        ("layer3.weight", "layer3.bias"),
    ),
    replay(
        "signal through updated weights",
        ThroughUpdatedWeights,
        ("backward",),
        words("squared_error", "sgd"),
        "Gradient is being updated after upgradation of weights, https://github.com/VikParuchuri/zero_to_gpt/issues/12",
        ("layer2.weight", "layer2.bias"),
    ),
    replay(
        "zero_grad forgotten",
        ZeroGradForgotten,
        ("backward",),
        words("mean_squared_error", "momentum"),
        "[Trainer] Fix Bug Where Zero Grad was Left Out, https://github.com/tenstorrent/tt-blacksmith/pull/711",
    ),
    replay(
        "unscaled though never scaled",
        UnscaledThoughNeverScaled,
        ("backward",),
        words("mean_squared_error", "adam"),
        "Fix bf16 gradient norm divergence with ZeRO stage 0, https://github.com/deepspeedai/DeepSpeed/pull/7839",
    ),
    replay(
        "gradients in bfloat16",
        GradientsInBfloat16,
        ("backward",),
        words("mean_squared_error", "momentum"),
        "Create FP32 master copy of weights for mixed-precision training, https://github.com/workofart/ml-by-hand/pull/85",
    ),
    replay(
        "clipped by the squared norm",
        ClippedBySquaredNorm,
        BACKWARD_OR_UPDATE,
        words("squared_error", "momentum"),
        "CRITICAL: gradient clipping uses ||g||⁴ instead of ||g|| — root cause of 2.7x convergence gap, "
        "https://github.com/paiml/entrenar/issues/311",
    ),
    replay(
        "clipped before unscaling",
        ClippedBeforeUnscaling,
        BACKWARD_OR_UPDATE,
        words("mean_squared_error", "momentum"),
        "Gradients are clipped before the unscaling, https://github.com/milesial/Pytorch-UNet/issues/468",
    ),
]

UPDATES = [
    replay(
        "optimizer of old parameters",
        StaleParameters,
        UPDATE_OR_BACKWARD,
        words("squared_error", "sgd"),
        "The parameters are not updated when the pruned model is finetuned, https://github.com/microsoft/nni/issues/4521",
    ),
    replay(
        "parameter listed twice",
        ParameterListedTwice,
        UPDATE_OR_BACKWARD,
        words("mean_squared_error", "momentum"),
        "Inconsistent behaviour when parameter appears multiple times in parameter list, "
        "https://github.com/pytorch/pytorch/issues/40967",
        ("layer3.weight", "momentum_buffer/layer3.weight"),
    ),
    replay(
        "Adam for AdamW",
        AdamForAdamW,
        UPDATE_OR_BACKWARD,
        words("mean_squared_error", "adamw", "optimizer.weight_decay=0.1"),
        "AdamW is no longer correctly implemented as per the cited paper, https://github.com/keras-team/keras/issues/19051",
    ),
    replay(
        "AdamW for Adam",
        AdamWForAdam,
        UPDATE_OR_BACKWARD,
        words("mean_squared_error", "adam", "optimizer.weight_decay=0.1"),
        "_fused_adam: weight decay uses the AdamW rule, wrong results and wrong optimizer state for weight_decay != 0, "
        "https://github.com/flagos-ai/FlagGems/issues/4988",
    ),
    replay(
        "dampened by default",
        DampenedByDefault,
        UPDATE_OR_BACKWARD,
        words("mean_squared_error", "momentum"),
        "Changing SGD dampening default to 0 as it did in pytorch?, https://github.com/intel/analytics-zoo/issues/1038",
    ),
    replay(
        "momentum reset in every step",
        MomentumResetInEveryStep,
        UPDATE_OR_BACKWARD,
        words("mean_squared_error", "momentum"),
        "[Fix] Keep `SignSGD` momentum buffer across steps, https://github.com/kozistr/pytorch_optimizer/pull/516",
    ),
    replay(
        "no decay without momentum",
        DecayWithMomentumOnly,
        UPDATE_OR_BACKWARD,
        words("mean_squared_error", "sgd", "optimizer.weight_decay=0.1"),
        "[BUG] Zero momentum will disable weight decay in SGD optimizer implementation, "
        "https://github.com/ml-explore/mlx/issues/440",
    ),
    replay(
        "update of a non-contiguous weight lost",
        NonContiguousUpdate,
        ("update",),
        words("mean_squared_error", "adam"),
        "addcdiv computes incorrect results on MPS with noncontiguous tensors, "
        "https://github.com/pytorch/pytorch/issues/118115",
        ("layer1.weight", "layer2.weight", "layer3.weight"),
    ),
    replay(
        "learning rate inside the velocity",
        BakedLearningRate,
        UPDATE_OR_BACKWARD,
        words("mean_squared_error", "momentum"),
        "fix(optim): SGD momentum applies lr fresh per step (PyTorch parity under lr schedule) — F-SGD-MOMENTUM-LRSCHED-001 "
        "(PMAT-898), "
        "https://github.com/paiml/aprender/pull/2190",
    ),
    replay(
        "Nesterov without the gradient",
        NesterovAsProposed,
        ("update",),
        words("mean_squared_error", "momentum", "optimizer.nesterov=true"),
        "fix Nesterov Momentum Bug, https://github.com/pytorch/pytorch/pull/5920",
    ),
    replay(
        "no bias correction",
        NoBiasCorrection,
        ("update",),
        words("mean_squared_error", "adam"),
        "Question about the used optimizer AdamWeightDecayOptimizer, https://github.com/google-research/bert/issues/153",
    ),
    replay(
        "bias correction multiplied",
        MultipliedBiasCorrection,
        ("update",),
        words("mean_squared_error", "adam"),
        "Fixed bias correction error in adam optimizer, https://github.com/karpathy/convnetjs/pull/107",
    ),
    replay(
        "epsilon before the bias correction",
        EpsilonHat,
        ("update",),
        words("mean_squared_error", "adam", "optimizer.eps=1e-3"),
        "Adam implementation differs from paper (applies bias B_2 correction to \\epsilon), "
        "https://github.com/tensorflow/tensorflow/issues/35102",
    ),
    replay(
        "decay not times the parameter",
        DecayNotTimesParameter,
        ("update",),
        words("mean_squared_error", "adamw", "optimizer.weight_decay=0.1"),
        "Fix AdamW, https://github.com/e-sensing/torchopt/pull/14",
    ),
    replay(
        "counted per parameter",
        CountedPerParameter,
        ("update",),
        words("mean_squared_error", "adam"),
        "Is this a mistake in AdamOptimizer?, https://github.com/flashlight/flashlight/issues/143",
    ),
    replay(
        "count never incremented",
        CountNeverIncremented,
        ("update",),
        words("mean_squared_error", "adamw"),
        "Add config option for to enable/disable the step-increment bugfix., https://github.com/allenai/OLMo-core/pull/317",
    ),
    replay(
        "update rounded to bfloat16",
        UpdateRoundedToBfloat16,
        ("update",),
        words("mean_squared_error", "adam", "optimizer.lr=1e-4"),
        "Add BF16 stochastic rounding option for optimizers, https://github.com/pytorch/ao/pull/1124",
    ),
]

DATA_AND_STATE = [
    replay(
        "parameters in bfloat16",
        ParametersInBfloat16,
        ("state",),
        words("mean_squared_error", "sgd"),
        "training use bf16, https://github.com/tianweiy/CausVid/issues/19",
        ("layer1.weight",),
    ),
    replay(
        "inputs normalised in place",
        NormalizedInPlace,
        ("inputs",),
        words("mean_squared_error", "sgd", batch_size=None),
        "ToTensor aliases input data and operations like Normalize work in-place, https://github.com/pytorch/vision/issues/680",
        ("x",),
    ),
    replay(
        "targets clamped in place",
        TargetsClampedInPlace,
        ("inputs",),
        words("mean_squared_error", "sgd", batch_size=None),
        "Several models modify caller-provided tensors in place during forward, "
        "https://github.com/huggingface/transformers/issues/47741",
        ("y",),
    ),
    replay(
        "first batch again",
        FirstBatchAgain,
        ("batches",),
        words("mean_squared_error", "adam", batch_size=3),
        "fix iter bug, https://github.com/ZhaoJ9014/face.evoLVe/pull/39",
    ),
    replay(
        "workers with one seed",
        WorkersWithOneSeed,
        ("batches",),
        words("mean_squared_error", "adam", batch_size=3),
        "np.random generates the same random numbers for each data batch, https://github.com/pytorch/pytorch/issues/5059",
    ),
    replay(
        "padded with duplicates",
        PaddedWithDuplicates,
        ("batches",),
        words("mean_squared_error", "adam"),
        "Incorrect Validation Accuracy Due to Distributed Sampler, https://github.com/pytorch/pytorch/issues/25162",
    ),
    replay(
        "tail dropped",
        TailDropped,
        ("batches",),
        words("mean_squared_error", "adam"),
        "Fix BatchSamplerShard tail sampling, https://github.com/modelscope/ms-swift/pull/9907",
    ),
    replay(
        "inputs and targets shuffled separately",
        ShuffledSeparately,
        ("batches",),
        words("mean_squared_error", "adam"),
        "Made train batches order same as gt, https://github.com/mlcommons/GaNDLF/pull/870",
    ),
]

REPLAYS: list[Fault] = [*ACCUMULATION, *LOSSES, *FORWARD, *BACKWARD, *UPDATES, *DATA_AND_STATE]
