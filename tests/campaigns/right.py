"""Right implementations that sum in other orders, and random configurations: what a verdict must not call different."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exp.activations import ACTIVATIONS
from exp.arrays import Array, Place
from exp.losses import CrossEntropy, MeanSquaredError, SquaredError
from exp.methods import ArrayMethod
from exp.network import Network, depth
from exp.optimizers import SGD, Adam, AdamW, Momentum, Optimizer
from exp.state import State
from exp.training import Training
from exp.verification.case import Case, judge_method
from exp.verification.reference import exact
from exp.verification.subject import Subject
from exp.verification.training_run import judge_training
from exp.verification.verdict import Verdict, concluded

Dot = Callable[[np.ndarray, np.ndarray], np.ndarray]


def reversed_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The terms from the last to the first."""
    return np.ascontiguousarray(a[:, ::-1]) @ np.ascontiguousarray(b[::-1])


def split_sum(a: np.ndarray, b: np.ndarray, parts: int = 5) -> np.ndarray:
    """The sum of the products of slices, as a reduction over devices or blocks does."""
    pieces = zip(np.array_split(a, parts, axis=1), np.array_split(b, parts), strict=True)
    return np.add.reduce([left @ right for left, right in pieces])


def transposed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(bᵀ aᵀ)ᵀ."""
    return np.ascontiguousarray(np.ascontiguousarray(b.T) @ np.ascontiguousarray(a.T)).T


def one_by_one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Term after term, the least accurate order."""
    total = np.zeros((a.shape[0], b.shape[1]), dtype=a.dtype)
    for term in range(a.shape[1]):
        total += a[:, term, None] * b[term]
    return total


def kahan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compensated summation (Kahan 1965), the most accurate."""
    total = np.zeros((a.shape[0], b.shape[1]), dtype=a.dtype)
    lost = np.zeros_like(total)
    for term in range(a.shape[1]):
        corrected = a[:, term, None] * b[term] - lost
        summed = total + corrected
        lost = (summed - total) - corrected
        total = summed
    return total


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """float32 rounded to nearest, ties to even, with `bits` bits behind the point: 10 are TF32, 7 bfloat16."""
    drop = 23 - bits
    whole = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    whole = whole + np.uint32((1 << (drop - 1)) - 1) + ((whole >> np.uint32(drop)) & np.uint32(1))
    return (whole & np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))).view(np.float32)


def tf32(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A product as a tensor core makes it: operands in TF32, summed in float32."""
    return rounded(a, 10) @ rounded(b, 10)


def bf16(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A product under `torch.autocast`: operands and result in bfloat16, summed in float32."""
    return rounded(rounded(a, 7) @ rounded(b, 7), 7)


ORDERS: dict[str, Dot] = {
    "plain": np.matmul,
    "reversed": reversed_sum,
    "split": split_sum,
    "transposed": transposed,
    "one by one": one_by_one,
    "kahan": kahan,
}


@dataclass(kw_only=True)
class Ordered(ArrayMethod):
    """The step by hand with a product of its own."""

    library = "numpy"
    dot: Any = field(default=np.matmul)

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        layers = depth(state.params)
        pre, outputs = self._forward(state, x)
        loss, signal = self.loss.value(outputs[-1], y), self.loss.gradient(outputs[-1], y)
        grads = {}
        for layer in range(layers, 0, -1):
            weight, bias = f"layer{layer}.weight", f"layer{layer}.bias"
            grads[weight] = self.dot(np.ascontiguousarray(outputs[layer - 1].T), signal)
            if bias in state.params:
                grads[bias] = self.dot(np.ones((1, len(signal)), dtype=signal.dtype), signal)[0]
            if layer > 1:
                signal = self.dot(signal, np.ascontiguousarray(state.params[weight].T))
                signal = self.activation.backward(signal, pre[layer - 2], outputs[layer - 1])
        return loss, self.update(state, {name: grads[name] for name in state.params})

    def predict(self, x: Array) -> Array:
        return self._forward(self.state, x)[1][-1]

    def _forward(self, state: State, x: Array) -> tuple[list[Array], list[Array]]:
        layers, pre, outputs = depth(state.params), [], [x]
        for layer in range(1, layers + 1):
            z = self.dot(outputs[-1], state.params[f"layer{layer}.weight"])
            if (bias := state.params.get(f"layer{layer}.bias")) is not None:
                z = z + bias
            pre.append(z)
            outputs.append(self.activation.value(z) if layer < layers else z)
        return pre, outputs


DTYPES = {"fp64": "float64", "fp32": "float32", "tf32": "float32", "bf16": "float32"}


@dataclass(frozen=True)
class Configuration:
    """One random configuration: parts, data and the start of a training."""

    network: Network
    loss: Any
    optimizer: Optimizer
    training: Training
    x: np.ndarray
    y: np.ndarray
    state: State
    seed: int

    def case(self, method: Any, precision: str, device: str = "cpu") -> Case:
        place = Place(method.library, device, DTYPES[precision])
        subject = Subject(method, self.network, self.loss, self.optimizer, place)
        widths = tuple(self.network.widths(self.x.shape[1], self.y.shape[1]))
        readers = (SGD(lr=1.0), Momentum(lr=1.0, momentum=0.5))
        classes, size = self.loss.needs_classes, self.training.batch_size
        lengths = self.training.lengths(len(self.x))
        return Case(subject, precision, widths, classes, size, len(self.x), self.seed, readers, lengths)

    def verdict(self, method: Any, precision: str, device: str = "cpu", *, training: bool = True) -> Verdict:
        """The verdict on a method; the caller sets threads and precision."""
        case = self.case(method, precision, device)
        judge = case.judge(np.random.default_rng([self.seed, 99]))
        judge_method(case, judge)
        if training:
            judge_training(case, judge, self.training, self.x, self.y, self.state)
        return concluded(case, judge)


def tutorial(seed: int, *, inputs: int = 1000, hidden: int = 100, outputs: int = 10) -> Configuration:
    """The tutorial's own: 64 × 1000 → 100 → 10, standard normal, ReLU, no biases; or its shape in other widths."""
    random = np.random.default_rng(seed)
    return _configuration(
        Network(hidden=[hidden], seed=seed),
        SquaredError(),
        SGD(lr=1e-6),
        Training(steps=500),
        random,
        rows=64,
        inputs=inputs,
        outputs=outputs,
    )


def anything(seed: int) -> Configuration:
    """A network of 1 to 6 layers, any activation, loss and optimizer, any batches."""
    random = np.random.default_rng([seed, 7])

    def one_of(*choices: Any) -> Any:
        return choices[random.integers(len(choices))]

    hidden = [int(random.integers(1, 25)) for _ in range(random.integers(0, 6))]
    network = Network(
        hidden=hidden,
        activation=one_of(*ACTIVATIONS),
        bias=bool(random.integers(2)),
        initial=one_of("standard_normal", "he", "glorot"),
        seed=seed,
    )
    loss = one_of(SquaredError, MeanSquaredError, CrossEntropy)()
    decay = float(one_of(0.0, 0.01, 0.1))
    rate = float(10 ** random.uniform(-6, -1))
    beta = [float(one_of(0.0, 0.5, 0.9, 0.99)), float(one_of(0.0, 0.9, 0.999, 0.9999))]
    eps = float(one_of(1e-8, 1e-6, 1e-3))
    optimizer = one_of(
        SGD(lr=rate, weight_decay=decay),
        Momentum(lr=rate, weight_decay=decay, momentum=float(one_of(0.1, 0.9, 0.99)), nesterov=bool(random.integers(2))),
        Adam(lr=rate, weight_decay=decay, betas=beta, eps=eps),
        AdamW(lr=rate, weight_decay=decay, betas=beta, eps=eps),
    )
    rows, inputs = int(random.integers(1, 60)), int(random.integers(1, 60))
    outputs = int(random.integers(2 if loss.needs_classes else 1, 9))
    size = None if random.integers(2) else int(random.integers(1, rows + 1))
    return _configuration(
        network,
        loss,
        optimizer,
        Training(steps=30, batch_size=size, seed=seed),
        random,
        rows=rows,
        inputs=inputs,
        outputs=outputs,
    )


def _configuration(
    network: Network,
    loss: Any,
    optimizer: Optimizer,
    training: Training,
    random: np.random.Generator,
    *,
    rows: int,
    inputs: int,
    outputs: int,
) -> Configuration:
    x = random.standard_normal((rows, inputs))
    y = random.standard_normal((rows, outputs))
    if loss.needs_classes:
        y = np.eye(outputs)[random.integers(outputs, size=rows)]
    params = network.initial_params(inputs, outputs, lambda layer: np.random.default_rng([network.seed, layer]))
    state = State(params, optimizer.slots(params), np.array(0, dtype=np.int64))
    return Configuration(network, loss, optimizer, training, x, y, state, network.seed)


__all__ = ["ORDERS", "Configuration", "Ordered", "anything", "bf16", "exact", "tf32", "tutorial"]
