"""The launchers of `conf/hydra/launcher` pass Hydra's own suite, and leave threads and bits as the configuration says."""

import hashlib
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, LauncherTestSuite
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from threadpoolctl import threadpool_limits

from exp.registry import conf_folder

pytestmark = [
    # Hydra 1.3 merges a file with the plugin's own configuration of that name, and says so. It is what we want.
    pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/\w+' is validated against ConfigStore schema:UserWarning"),
]

needs_ray = pytest.mark.skipif(not importlib.util.find_spec("hydra_plugins.hydra_ray_launcher"), reason="needs exp[ray]")
needs_submitit = pytest.mark.skipif(
    not importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher"), reason="needs exp[submitit]"
)
SHIPPED = [f"hydra.searchpath=[file://{conf_folder()}]", "hydra.job.chdir=true"]  # the suite looks into the working directory
JOBLIB = [*SHIPPED, "hydra.launcher.n_jobs=2"]
SUBMITIT = [*SHIPPED, "hydra.launcher.cpus_per_task=1", "hydra.launcher.gpus_per_node=0"]
RAY = [*SHIPPED, "hydra.launcher.ray.remote.num_cpus=1", "hydra.launcher.ray.remote.num_gpus=0"]


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One cluster for all tests that use Ray, ended after them: it takes ten seconds to start."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    import ray

    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)  # Ray puts its own in this process


@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", SHIPPED), ("joblib", JOBLIB)])
class TestTheWholeSuite(LauncherTestSuite):
    """Of Hydra, whose sweeper it uses."""


@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [
        ("joblib", [*JOBLIB, "hydra.sweeper.max_batch_size=2"]),
    ],
)
class TestLaunchesOneAfterTheOther(BatchedSweeperTestSuite):
    """A launcher that is used again, as for the runs that a dead worker left behind."""


class Some(LauncherTestSuite):
    """The tests in which two jobs differ, or need something of this process; the others repeat them, or launch nothing."""

    test_sweep_1_job: Any = None
    test_sweep_1_job_strict: Any = None
    test_sweep_1_job_strict_and_bad_key: Any = None
    test_not_sweeping_hydra_overrides: Any = None
    test_sweep_over_unspecified_mandatory_default: Any = None
    test_sweep_2_optimizers: Any = None


@needs_submitit
@pytest.mark.parametrize(("launcher_name", "overrides"), [("submitit_local", SUBMITIT)])
class TestSomeOfTheSuiteWithSubmitit(Some):
    pass


@needs_ray
@pytest.mark.usefixtures("one_ray")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("ray", RAY)])
class TestSomeOfTheSuiteWithRay(Some):
    test_sweep_and_override: Any = None  # a cluster takes ten seconds to start, each time
    test_sweep_with_custom_resolver: Any = None


@pytest.fixture
def composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function from overrides to a launcher as a sweep of exp makes it, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    before = Singleton.get_state()

    def made(task: TaskFunction, *overrides: str) -> tuple[Launcher, DictConfig]:
        search_path = create_automatic_config_search_path(None, None, str(conf_folder()))
        hydra = Hydra.create_main_hydra2(task_name="exp", config_search_path=search_path)
        config = hydra.compose_config("config", list(overrides), run_mode=RunMode.MULTIRUN)
        HydraConfig.instance().set_config(config)
        with read_write(config.hydra), open_dict(config.hydra.sweeper):
            config.hydra.sweeper.update({"cores": config.threads, "gpus": 0, "workers": 2})
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        return Plugins.instance().instantiate_launcher(context, task, config), config

    yield made
    GlobalHydra.instance().clear()
    Singleton.set_state(before)


def products(config: DictConfig) -> dict[str, Any]:
    """SHA-256 of products whose bits depend on the number of threads, computed as a run computes."""
    import torch

    threads_before = torch.get_num_threads()
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((777, 1031)), generator.standard_normal((1031, 513))
    with threadpool_limits(config.threads):
        torch.set_num_threads(config.threads)
        digest = hashlib.sha256()
        for x, y in [(a, b), (a.astype("float32"), b.astype("float32"))]:
            digest.update((x @ y).tobytes() + (torch.from_numpy(x) @ torch.from_numpy(y)).numpy().tobytes())
        torch.set_num_threads(threads_before)
    return {"process": os.getpid(), "digest": digest.hexdigest()}


@pytest.mark.parametrize(
    "launcher",
    [
        "joblib",  # of whole runs, with every launcher: test_sweep_launchers
    ],
)
def test_workers_compute_the_bits_of_this_process_with_as_many_threads(
    launcher: str, composed: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if launcher == "ray":
        request.getfixturevalue("one_ray")
    made, _ = composed(products, f"hydra/launcher={launcher}")
    jobs = made.launch([["threads=1"], ["threads=2"]], 0)
    here = [products(OmegaConf.create({"threads": threads}))["digest"] for threads in (1, 2)]
    assert [job.return_value["digest"] for job in jobs] == here
    assert os.getpid() not in {job.return_value["process"] for job in jobs}
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}, "no folder of Hydra's own appears"
    assert [path for path in tmp_path.rglob("*") if "%" in path.name] == []


@pytest.mark.parametrize(
    ("launcher", "settings"),
    [
        ("joblib", {"n_jobs": 2}),
        pytest.param("submitit_local", {"cpus_per_task": 3, "gpus_per_node": 0}, marks=needs_submitit),
        pytest.param("submitit_slurm", {"cpus_per_task": 3, "gpus_per_node": 0}, marks=needs_submitit),
        pytest.param("ray", {"ray.remote.num_cpus": 3, "ray.remote.num_gpus": 0}, marks=needs_ray),
    ],
)
def test_a_launcher_is_told_what_a_run_takes(launcher: str, settings: dict[str, int], composed: Any) -> None:
    _, config = composed(print, f"hydra/launcher={launcher}", "threads=3")
    assert {key: OmegaConf.select(config.hydra.launcher, key) for key in settings} == settings


def test_what_is_typed_is_taken(composed: Any) -> None:
    made, _ = composed(print, "hydra/launcher=joblib", "hydra.launcher.n_jobs=5")
    assert made.joblib["n_jobs"] == 5
