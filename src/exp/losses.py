"""Losses of a batch with their gradient. Predictions and targets are (N, outputs), or (K, N, outputs) for K runs.

`value` sums over the last two axes, to one number or (K,); means divide by this batch's own size. `gradient` is the
derivative with respect to the prediction. Both compute in the target's type, whatever the prediction's (a forward pass
under `torch.autocast` gives bfloat16). `torch_name` and `torch_arguments` name the twin in `torch.nn.functional`.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar

from exp.arrays import Array, cast, library, row_maxima, row_sums, total


@dataclass(kw_only=True)
class Loss(abc.ABC):
    """A loss: `needs_classes` says that its targets are class labels, one-hot as floats."""

    needs_classes: ClassVar[bool] = False
    torch_name: ClassVar[str]
    torch_arguments: ClassVar[dict[str, str]]

    @abc.abstractmethod
    def value(self, prediction: Array, target: Array) -> Array: ...

    @abc.abstractmethod
    def gradient(self, prediction: Array, target: Array) -> Array: ...


@dataclass(kw_only=True)
class SquaredError(Loss):
    """L = Σₙⱼ (pₙⱼ − yₙⱼ)²: the tutorial's loss, summed over all entries."""

    torch_name, torch_arguments = "mse_loss", {"reduction": "sum"}

    def value(self, prediction: Array, target: Array) -> Array:
        difference = cast(prediction, like=target) - target
        return total(difference * difference)

    def gradient(self, prediction: Array, target: Array) -> Array:
        return 2 * (cast(prediction, like=target) - target)


@dataclass(kw_only=True)
class MeanSquaredError(Loss):
    """L = Σₙⱼ (pₙⱼ − yₙⱼ)² / (N · outputs): the mean over all entries of the batch."""

    torch_name, torch_arguments = "mse_loss", {"reduction": "mean"}

    def value(self, prediction: Array, target: Array) -> Array:
        difference = cast(prediction, like=target) - target
        return total(difference * difference) / _entries(prediction)

    def gradient(self, prediction: Array, target: Array) -> Array:
        return (cast(prediction, like=target) - target) * (2 / _entries(prediction))


@dataclass(kw_only=True)
class CrossEntropy(Loss):
    """L = −Σₙⱼ yₙⱼ log softmax(pₙ)ⱼ / N: the mean over the batch, the y one-hot (Bishop 2006, eq. 4.108)."""

    needs_classes = True
    torch_name, torch_arguments = "cross_entropy", {"reduction": "mean"}

    def value(self, prediction: Array, target: Array) -> Array:
        return -total(target * _log_softmax(cast(prediction, like=target))) / prediction.shape[-2]

    def gradient(self, prediction: Array, target: Array) -> Array:
        softmax = library(prediction).exp(_log_softmax(cast(prediction, like=target)))
        return (softmax - target) / prediction.shape[-2]


def _entries(prediction: Array) -> int:
    return prediction.shape[-2] * prediction.shape[-1]


def _log_softmax(logits: Array) -> Array:
    """log softmax(z)ⱼ = (zⱼ − max z) − log Σᵢ exp(zᵢ − max z), over the last axis: no exponential overflows."""
    xp = library(logits)
    shifted = logits - row_maxima(logits)
    return shifted - xp.log(row_sums(xp.exp(shifted)))
