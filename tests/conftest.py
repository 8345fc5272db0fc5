"""The order of the tests; and a database as MLflow makes it, made once for all of them, for making one takes five seconds."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from commands import clean

MAKING = "import sys; from mlflow import MlflowClient; MlflowClient(tracking_uri=sys.argv[1]).search_experiments()"


LONG = ("methods", "readme", "sweep_launchers", "launchers_of_hydra", "sweep_in_mlflow", "sweep_interrupted", "tracking")
LONG += ("interruption", "campaign_right", "campaign_faults", "browser", "compare_page", "python_use", "install", "in_stack")
LONG += ("judge", "compiling_methods", "programs_of_sweeps", "sweep_command", "verify_command", "repeat", "results")
"""Files that take a minute or more: they come first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order in which the workers take them: the long ones, then those of many tests."""
    counts = Counter(item.path.stem for item in items)
    long = [f"test_{name}" for name in LONG]
    items.sort(key=lambda item: (item.path.stem not in long, -counts[item.path.stem], item.path.stem))


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, in a folder that all workers share."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made, unfinished = folder / "mlflow.db", folder / "unfinished.db"
    with (folder / ".mlflow.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            command = [sys.executable, "-c", MAKING, f"sqlite:///{unfinished}"]
            subprocess.run(command, cwd=folder, env=clean(), check=True, capture_output=True)
            unfinished.replace(made)
    return made


@pytest.fixture
def used_folder(tmp_path: Path, new_database: Path) -> Path:
    """The test's folder, in which runs were tracked before."""
    shutil.copy(new_database, tmp_path / "mlflow.db")
    return tmp_path
