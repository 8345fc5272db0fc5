"""A recorded run, read back from its folder."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from exp.activations import ACTIVATIONS
from exp.errors import MISSING, InputError
from exp.network import forward
from exp.problems import Scaling
from exp.run_folder import RunFolder


class Run:
    """One recorded run. Everything is read from its folder, when asked for.

    `losses` (steps,) are `train/loss` at step 0, 1, …, each before its update; cut before the step at which it blew up.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder).absolute()
        self._folder = RunFolder(self.folder)
        if not self._folder.status():
            raise InputError(str(folder), MISSING, "is no run folder; they are runs/<time>-<name>-<hex>")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.name!r}, {self.status})"

    @property
    def name(self) -> str:
        return self._folder.status()["name"]

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED."""
        return self._folder.status()["status"]

    @property
    def blew_up_at_step(self) -> int | None:
        """The first step at which the loss was not finite; None for a run that stayed finite."""
        return self._folder.status().get("blew_up_at_step")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return self._folder.config()

    @cached_property
    def curve(self) -> dict[str, np.ndarray]:
        """`train/loss`, `valid/step`, `valid/loss`, …, with times."""
        return self._folder.curve()

    @property
    def losses(self) -> np.ndarray:
        return self.curve.get("train/loss", np.empty(0))

    @property
    def metrics(self) -> dict[str, float]:
        """`final/loss`, `final/valid_accuracy`, `time/step_seconds`, …"""
        return self._folder.status().get("metrics", {})

    @cached_property
    def initial_weights(self) -> dict[str, np.ndarray]:
        """`layer1.weight` (inputs, outputs), … in float64, before the first step."""
        return self._weights("initial")

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """`layer1.weight` (inputs, outputs), … after the last step. Raises `InputError` for a run that left none."""
        return self._weights("final")

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Predictions for rows in the user's units: (N, inputs) to (N, outputs), or to (N,) class labels."""
        values = self.outputs(x)
        problem = self._folder.read_json("problem.json")
        if problem["classes"] is not None:
            return np.array(problem["classes"])[values.argmax(axis=-1)]
        scaling = _scaling(problem["target_scaling"])
        return scaling.invert(values) if scaling else values

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """The network's own outputs, (N, outputs), for rows in the user's units: logits where the targets are classes."""
        problem = self._folder.read_json("problem.json")
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != problem["inputs"]:
            raise InputError("x", MISSING, f"has shape {x.shape}; this run predicts from (N, {problem['inputs']})")
        scaling = _scaling(problem["input_scaling"])
        inputs = scaling.apply(x) if scaling else x
        dtype = next(iter(self.weights.values())).dtype
        _, outputs = forward(self.weights, inputs.astype(dtype), ACTIVATIONS[self.config["network"]["activation"]])
        return outputs[-1].astype(np.float64)

    def _weights(self, name: str) -> dict[str, np.ndarray]:
        if (state := self._folder.state(name)) is None:
            step = self.blew_up_at_step
            reason = f"it blew up at step {step}" if step is not None else f"its status is {self.status}"
            raise InputError(str(self.folder), MISSING, f"has no {name} weights: {reason}")
        return state.params


def _scaling(stored: dict[str, list[float]] | None) -> Scaling | None:
    return Scaling(np.array(stored["shift"]), np.array(stored["scale"])) if stored else None
