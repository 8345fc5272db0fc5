"""One job in a launcher's worker: what Hydra composed there becomes a run of the sweep, with those that go with it."""

import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from exp.composition import resolved  # it also silences what Hydra warns of when a launcher's worker composes
from exp.problems import Data
from exp.sweep.execution import Order
from exp.tasks.base import Ready


@dataclass(frozen=True)
class Job:
    """The task function that a launcher is given: plain values, so that it can be sent to any process.

    `folder` is the sweeper's working directory, `sweeper` its process. It never raises, for there are exceptions that kill a
    launcher: the run's folder says what became of it.
    """

    order: Order
    folder: str
    import_paths: tuple[str, ...]
    sweeper: int
    gpus: tuple[str, ...]

    def __call__(self, config: DictConfig) -> dict[str, Any]:
        """Do the run, and those that go with it; returns its overrides and what kept them from being done."""
        from exp.configuration import instantiate
        from exp.report import Silence
        from exp.sweep.execution import checked, execute
        from exp.sweep_folder import ordered

        hydra = HydraConfig.get()
        overrides, choices = list(hydra.overrides.task), dict(hydra.runtime.choices)
        try:
            self._enter(config)
            groups = ordered(self.order.sweep, self.order.invocation, overrides)
            loaded: dict[str, Data] = {}

            def ready(entry: dict[str, Any]) -> Ready:
                if "config" in entry:
                    whole, chosen = {**resolved(config), **entry["config"]}, choices | entry["choices"]
                    experiment, task = instantiate(whole, chosen, entry["overrides"])
                else:
                    experiment, task = instantiate(config, choices, overrides)
                return checked(self.order, entry, experiment, task, loaded)  # type: ignore[arg-type]

            for planned in groups:
                execute(self.order, planned, ready, Silence(), uploads=False)
        except BaseException as error:
            return {"run": overrides, "error": f"{type(error).__name__}: {error}"}
        return {"run": overrides, "error": None}

    def _enter(self, config: DictConfig) -> None:
        """Make this process a worker of the sweep: its folder, its imports, its signals, its GPU."""
        from exp.gpus import assign_gpu
        from exp.interruption import end_by_sigterm_alone

        os.chdir(self.folder)
        sys.path += [path for path in self.import_paths if path not in sys.path and Path(path).is_dir()]
        if threading.current_thread() is threading.main_thread():
            end_by_sigterm_alone()
        if self.gpus and not config.device.get("index", 0):
            os.environ["CUDA_VISIBLE_DEVICES"] = assign_gpu(Path(self.order.sweep).parents[1] / ".gpus", list(self.gpus)) or ""
        _end_with(self.sweeper)


def _end_with(sweeper: int) -> None:
    """Let an idle worker end when the sweeper that started it is gone: joblib's would wait for minutes."""
    global _watched
    if _watched or os.getppid() != sweeper:
        return
    _watched = True

    def watch() -> None:
        while os.getppid() == sweeper:
            time.sleep(0.5)
        from exp.claims import at_work

        while at_work():
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


_watched = False
