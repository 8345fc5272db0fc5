"""From what was typed to a plan and a launcher."""

import importlib.util
import os
import sys
from functools import partial
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from exp.composition import Composer, axis_parser, axis_values, resolved
from exp.config_errors import explained
from exp.configuration import described_sweep
from exp.environment import cores as available
from exp.errors import InputError, require, require_choice
from exp.gpus import visible_gpus
from exp.sweep.execution import Order
from exp.sweep.planning import Plan, plan
from exp.sweep.running import Launch
from exp.sweep.specification import expand
from exp.sweep.sweeping import sweep
from hydra_plugins.exp_sweeper._job import Job

EXTRAS = {"joblib": ("joblib", "joblib"), "ray": ("ray", "ray"), "submitit": ("submitit", "submitit")}
"""Of a launcher's name up to the underscore: the package that it needs, and our extra that installs it."""


JOBS_A_WORKER = 8
"""Of joblib's: a job costs a quarter of a second of Hydra's time, and the last ones should end at about the same time."""


def swept(context: HydraContext, config: DictConfig, arguments: list[str]) -> int:
    """Expand, plan and do the sweep; returns its exit code. Raises `InputError` where it could not start."""
    loader, name = context.config_loader, str(config.hydra.runtime.choices["hydra/launcher"])
    _require_installed(name)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
    axes = {o.get_key_element(): axis_values(o) for o in parsed if o.is_sweep_override()}
    constants = {o.get_key_element(): str(o.input_line) for o in parsed if not o.is_sweep_override()}
    composer, base = Composer(loader, config), resolved(config)
    chosen = described_sweep(base, arguments)
    settings = expand(chosen, axes, constants, int(base["seed"]), axis_parser(loader))
    first = [f"{key}={value}" for key, value in settings[0].values.items()]
    own = [override for key, override in constants.items() if key.split(".")[0] != "sweep"]
    if not chosen.plan:
        with explained(arguments):  # what is wrong with all, is said of what was typed
            composer.compose([*own, *first])
    local = name in ("basic", "joblib", "submitit_local") or (
        name == "ray" and config.hydra.launcher.ray.init.address == "local"
    )
    elsewhere = not local
    planned = plan(composer.compose, own, settings, chosen, elsewhere=elsewhere)
    return sweep(planned, chosen, _launch(context, config, name, planned), elsewhere=elsewhere)


LAUNCHERS = ("basic", "joblib", "ray", "submitit_local", "submitit_slurm")
"""Those of Hydra's that exp can tell what to do; others, such as ray_aws, start machines first."""


def _require_installed(name: str) -> None:
    require_choice("hydra/launcher", name, LAUNCHERS)
    package, extra = EXTRAS.get(name.partition("_")[0], ("hydra", ""))
    plugin = f"hydra_plugins.hydra_{package}_launcher"
    if name.partition("_")[0] in EXTRAS and not (importlib.util.find_spec(plugin) and importlib.util.find_spec(package)):
        raise InputError("hydra/launcher", name, f"needs what is not installed; pip install 'exp[{extra}]'")


def _launch(context: HydraContext, config: DictConfig, name: str, planned: Plan) -> Launch | None:
    """How runs are launched; None for in this process, one after the other, composed once.

    Hydra's basic launcher does that too, but composes each anew; and with a single worker joblib does.
    """
    ready = [entry.ready.experiment for entry in planned.runs if entry.ready]
    cores = max((experiment.threads for experiment in ready), default=1)
    gpus = visible_gpus() if any(experiment.device.name == "cuda" for experiment in ready) else []
    workers = max(1, min(available() // cores, len(gpus) or sys.maxsize))
    with read_write(config.hydra), open_dict(config.hydra.sweeper):
        config.hydra.sweeper.update({"cores": cores, "gpus": int(bool(gpus)), "workers": workers})
    if name == "joblib":
        require(config.hydra.launcher.n_jobs != 0, "hydra.launcher.n_jobs", 0, "a whole number >= 1, or -1 for all cores")
    if name == "basic" or (name == "joblib" and config.hydra.launcher.n_jobs == 1):
        return None
    if any(entry.ready.task.undisturbed for entry in planned.runs if entry.ready):
        raise InputError("hydra/launcher", name, "this task takes the whole machine, one run at a time; leave it out")
    at_once = workers if name == "submitit_local" else sys.maxsize  # it has no bound of its own
    start = partial(_launched, context, config, at_once, tuple(gpus) if name == "joblib" else ())
    if name != "joblib":
        return Launch(start, workers)
    workers = config.hydra.launcher.n_jobs if config.hydra.launcher.n_jobs > 0 else workers
    return Launch(start, workers, jobs=JOBS_A_WORKER * workers)


def _launched(
    context: HydraContext,
    config: DictConfig,
    at_once: int,
    gpus: tuple[str, ...],
    order: Order,
    overrides: list[list[str]],
) -> None:
    """Do the runs with these overrides by the chosen launcher, so many at once; returns when they are over."""
    job = Job(order=order, folder=str(Path.cwd()), import_paths=tuple(sys.path), sweeper=os.getpid(), gpus=gpus)
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=config)
    try:
        for first in range(0, len(overrides), at_once):
            launcher.launch(overrides[first : first + at_once], initial_job_idx=first)
    finally:
        if "joblib" in sys.modules:  # its workers would wait for more, and are not missed
            sys.modules["joblib.externals.loky"].get_reusable_executor().shutdown(wait=True, kill_workers=True)
