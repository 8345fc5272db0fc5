"""The sweeper of `python -m exp -m …`: thin, the sweep itself is `exp.sweep`."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ExpSweeper(Sweeper):
    """Plan every run of the sweep, then do them, here or by the chosen launcher."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context

    def sweep(self, arguments: list[str]) -> Any:
        """Raises `SystemExit` with the sweep's exit code, and `InputError` where it could not start."""
        from hydra_plugins.exp_sweeper._sweep import swept

        assert self.hydra_context and self.config
        raise SystemExit(swept(self.hydra_context, self.config, arguments))
