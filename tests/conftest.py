"""A database as MLflow makes it, made once for all tests: making one takes five seconds, and few tests are about that."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import clean

MAKING = "import sys; from mlflow import MlflowClient; MlflowClient(tracking_uri=sys.argv[1]).search_experiments()"


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
