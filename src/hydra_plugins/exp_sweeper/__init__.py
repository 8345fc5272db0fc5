"""The sweeper of `python -m exp -m …`: thin, the sweep itself is `exp.sweep`."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ExpSweeper(Sweeper):
    """Compose every combination, then hand all of them to `exp.sweep`."""

    def __init__(self, cores: int | None = None, gpus: int | None = None, workers: int | None = None) -> None:
        """They are there for the launcher's settings to refer to; filled in once the combinations are known."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context

    def sweep(self, arguments: list[str]) -> Any:
        """Raises `SystemExit` with the sweep's exit code, and `InputError` where it could not start."""
        from exp.sweep import Combination, sweep

        assert self.hydra_context and self.config
        loader = self.hydra_context.config_loader
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
        swept = [override.get_key_element() for override in parsed if override.is_sweep_override()]
        combinations = []
        for overrides in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]:
            config = loader.load_sweep_config(self.config, list(overrides))
            combinations.append(Combination(config, dict(config.hydra.runtime.choices), list(overrides)))
        raise SystemExit(sweep(combinations, swept))
