"""Metrics of predictions on the validation split; predictions and targets are (N, outputs), on the host."""

import numpy as np


def accuracy(prediction: np.ndarray, target: np.ndarray) -> float:
    """The share of rows whose largest output is that of the target."""
    return float(np.mean(prediction.argmax(axis=-1) == target.argmax(axis=-1)))


def r2(prediction: np.ndarray, target: np.ndarray) -> float:
    """1 − Σ(p − y)² / Σ(y − ȳ)², the mean over the outputs (coefficient of determination).

    NaN where a target is constant, as in a split of one row: there is nothing to explain.
    """
    residual = ((prediction - target) ** 2).sum(axis=0)
    total = ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    constant = total <= 1e-24 * len(target) * np.abs(target).max(axis=0) ** 2  # of a constant, rounding may leave dust
    return float("nan") if constant.any() else float(np.mean(1 - residual / total))


METRICS = {"accuracy": accuracy, "r2": r2}
