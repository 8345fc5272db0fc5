"""From what was typed to a plan and a launcher."""

import sys
from functools import partial
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig

from exp.composition import Composer, axis_parser, axis_values
from exp.configuration import described_sweep
from exp.sweep.execution import Order
from exp.sweep.planning import plan
from exp.sweep.specification import expand
from exp.sweep.sweeping import sweep
from hydra_plugins.exp_sweeper._job import Job

HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
"""Hydra's own launcher does one job after the other in this process, and composes each anew: that we do ourselves."""

ELSEWHERE = ("ray", "submitit_slurm")
"""Launchers whose workers may be other machines, with other devices."""


def swept(context: HydraContext, config: DictConfig, arguments: list[str]) -> int:
    """Expand, plan and do the sweep; returns its exit code. Raises `InputError` where it could not start."""
    loader = context.config_loader
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
    axes = {o.get_key_element(): axis_values(o) for o in parsed if o.is_sweep_override()}
    constants = {o.get_key_element(): str(o.input_line) for o in parsed if not o.is_sweep_override()}
    composer = Composer(loader, config)
    base, _ = composer.compose(list(constants.values()))
    chosen = described_sweep(base, arguments)
    settings = expand(chosen, axes, constants, int(base.seed), axis_parser(loader))
    launcher = str(config.hydra.launcher._target_)
    elsewhere = str(config.hydra.runtime.choices["hydra/launcher"]) in ELSEWHERE
    own = [override for key, override in constants.items() if key.split(".")[0] != "sweep"]
    planned = plan(composer.compose, own, settings, chosen, elsewhere=elsewhere)
    launch = None if launcher == HERE else partial(_launch, context, config)
    return sweep(planned, chosen, launch, elsewhere=elsewhere)


def _launch(context: HydraContext, config: DictConfig, order: Order, overrides: list[list[str]]) -> None:
    """Do the runs with these overrides by the chosen launcher; returns when they are over."""
    job = Job(order=order, folder=str(Path.cwd()), import_paths=tuple(sys.path))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=config)
    launcher.launch(overrides, initial_job_idx=0)
