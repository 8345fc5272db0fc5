"""One job in a launcher's worker: what Hydra composed there becomes a run of the sweep."""

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from exp.sweep.execution import Order, Ready


@dataclass(frozen=True)
class Job:
    """The task function that a launcher is given: plain values, so that it can be sent to any process.

    It never raises, for there are exceptions that kill a launcher: the run's folder says what became of it.
    """

    order: Order
    folder: str
    import_paths: tuple[str, ...]

    def __call__(self, config: DictConfig) -> dict[str, Any]:
        """Do the run; returns its key and whether it was interrupted."""
        from exp.configuration import instantiate
        from exp.interruption import interrupted, raise_on_sigterm
        from exp.report import Silence
        from exp.run_folder import RunFolder
        from exp.sweep.execution import checked, execute

        os.chdir(self.folder)
        sys.path += [path for path in self.import_paths if path not in sys.path and Path(path).is_dir()]
        with contextlib.suppress(ValueError):  # raised where this is not the main thread
            raise_on_sigterm()
        hydra = HydraConfig.get()
        overrides, choices = list(hydra.overrides.task), dict(hydra.runtime.choices)
        runs = RunFolder(self.order.sweep).read_json("plan.json")["runs"]
        planned = next(run for run in runs if run["overrides"] == overrides)

        def ready() -> Ready:
            experiment, task = instantiate(config, choices, overrides)
            return checked(self.order, planned, experiment, task)  # type: ignore[arg-type]

        try:
            execute(self.order, planned, ready, Silence(), uploads=False)
        except BaseException as error:
            if not interrupted(error):
                return {"key": planned["key"], "error": f"{type(error).__name__}: {error}"}
            return {"key": planned["key"], "error": "interrupted"}
        return {"key": planned["key"], "error": None}
