"""One run, typed: the chosen parts, whether they can work together, and the method started in its place."""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from exp.activations import ACTIVATIONS
from exp.devices import Auto, Device
from exp.errors import MISSING, InputError, within
from exp.losses import Loss
from exp.methods.base import Method
from exp.network import Network, forward
from exp.optimizers import Optimizer
from exp.precisions import Precision
from exp.problems import Data, Problem
from exp.run_folder import require_writable
from exp.seeds import generator
from exp.state import State
from exp.tracking.settings import Tracker
from exp.training import Training


class Unsupported(InputError):
    """The parts are right but cannot run together here: a sweep skips the combination."""


@dataclass(kw_only=True)
class Experiment:
    """The parts that the configuration chose. `choices` are their names in it, `config` is the resolved whole."""

    method: Method
    device: Device
    precision: Precision
    problem: Problem
    network: Network
    loss: Loss
    optimizer: Optimizer
    training: Training
    tracker: Tracker
    seed: int
    threads: int
    name: str
    runs: str
    choices: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def check(self, data: Data | None = None, *, elsewhere: bool = False) -> Data:
        """Everything that can be known before the first step; returns the data, loaded unless given. Creates nothing.

        `elsewhere`: it will run on another machine; whether its device is there, is that machine's to say.

        Raises `InputError`, or `Unsupported` for a combination that cannot run on this machine. Imports no torch unless
        the device is one that only torch can look for.
        """
        with within("tracker"):
            self.tracker.address()
        require_writable(self.runs)
        reason = self._unsupported(self._first_device(), here=not elsewhere)
        if reason is not None and (elsewhere or self._best_device() is None):
            raise reason
        self._require_representable()
        data = self._loaded() if data is None else data
        self._require_memory(data)
        with within("training"):
            self.training.check(len(data.train.inputs))
        if self.loss.needs_classes and data.classes is None:
            hint = "problem.classes=true if the target holds class labels, else " if hasattr(self.problem, "classes") else ""
            problem = f"needs class labels, and problem={self.choices['problem']} has numbers to predict"
            raise InputError("loss", self.choices["loss"], f"{problem}; use {hint}loss=mean_squared_error")
        return data

    def _loaded(self) -> Data:
        """The problem's data; what is too large to be drawn is bad input too."""
        with within("problem"):
            try:
                data = self.problem.load()
            except (MemoryError, OverflowError, ValueError) as error:
                if isinstance(error, InputError):
                    raise
                smaller = "; fewer samples or inputs would fit" if isinstance(error, MemoryError) else ""
                raise InputError(self.choices["problem"], MISSING, f"cannot be loaded: {error}{smaller}") from None
        return data

    def _require_memory(self, data: Data) -> None:
        """Raise `InputError` for a network whose weights and their updates do not fit into this machine's memory."""
        parameters = self.network.parameters(data.train.inputs.shape[1], data.train.targets.shape[1])
        numbers = parameters * (2 + len(self.optimizer.slot_names))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        gigabytes = f"{8 * numbers / 2**30:.0f} GiB; this machine has {memory / 2**30:.0f} GiB"
        if 8 * numbers > memory:
            raise InputError(
                "network.hidden", self.network.hidden, f"weights and their updates take {gigabytes}; use smaller widths"
            )

    def _require_representable(self) -> None:
        """Raise `InputError` for a setting of the optimizer that is 0 or infinite in this precision."""
        for key, value in vars(self.optimizer).items():
            if not isinstance(value, float) or value == 0:
                continue
            with np.errstate(over="ignore"):
                rounded = np.dtype(self.precision.dtype).type(value)
            if rounded == 0 or not np.isfinite(rounded):
                what, other = ("0", "larger") if rounded == 0 else ("infinite", "smaller")
                problem = f"is {what} in precision={self.precision.name}; use precision=fp64, or a {other} one"
                raise InputError(f"optimizer.{key}", value, problem)

    def resolve_device(self) -> Device:
        """The device itself, or for `auto` the best that is here and that the method supports. Recorded as resolved."""
        if isinstance(self.device, Auto):
            if (chosen := self._best_device()) is None:
                raise self._unsupported(self._first_device()) or AssertionError("a CPU is always here")
            self.device = chosen
            self.choices["device"] = chosen.name
            self.config["device"] = {"_target_": f"{type(chosen).__module__}.{type(chosen).__qualname__}"} | vars(chosen)
        return self.device

    def initial_state(self, data: Data) -> State:
        """The seed's initial weights and empty slots, in float64."""
        inputs, outputs = data.train.inputs.shape[1], data.train.targets.shape[1]
        params = self.network.initial_params(inputs, outputs, lambda layer: generator(self.network.seed, "network", layer))
        return State(params, self.optimizer.slots(params), np.array(0, dtype=np.int64))

    def dead_units(self, params: dict[str, np.ndarray], data: Data) -> dict[str, int]:
        """The hidden ReLU units of each layer that no row of the training split activates: no gradient reaches them."""
        if self.network.activation != "relu":
            return {}
        pre, _ = forward(params, data.train.inputs, ACTIVATIONS["relu"])
        return {f"layer{number}": int((~(z > 0).any(axis=0)).sum()) for number, z in enumerate(pre[:-1], start=1)}

    def _first_device(self) -> Device:
        """The device to ask the method about before torch is there: `auto` ends at the last candidate."""
        return self._candidates()[-1]

    def _best_device(self) -> Device | None:
        """The first candidate that is here and does all that was chosen."""
        return next((device for device in self._candidates() if self._unsupported(device) is None), None)

    def _candidates(self) -> list[Device]:
        return self.device.candidates(self.method.library) if isinstance(self.device, Auto) else [self.device]

    def _unsupported(self, device: Device, *, here: bool = True) -> Unsupported | None:
        """Why the parts cannot run together on `device`: what the method says first, which needs no torch; then whether
        it is `here`."""
        reason = self.method.unsupported(
            device=device.name,
            precision=self.precision.name,
            network=self.network,
            loss=self.loss,
            optimizer=self.optimizer,
        )
        together = f"method={self.choices['method']} device={self.choices['device']} precision"
        if reason is None and here and (absent := device.absent()):
            return Unsupported("device", self.choices["device"], absent)
        if here:
            reason = reason or self.precision.absent(device.torch_name)
        return Unsupported(together, self.precision.name, reason) if reason else None
