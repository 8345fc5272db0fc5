"""What is written straight into a local database is what MLflow's client writes: every row of every table, and every file."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import clean, done_here, exp, points, tracked

from exp.methods.manual import NumPy
from exp.run_folder import RunFolder, run_folders
from exp.tracking import bulk
from exp.tracking.bulk import Bulk, Unfamiliar
from exp.tracking.record import Store

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(mlflow|sqlalchemy|alembic)")

TINY = ("problem.inputs=5", "problem.samples=8", "network.hidden=[4]", "training.steps=12", "tracker=none")
WRITERS = ("client", "bulk")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Run folders of every kind, none of them uploaded yet."""
    here = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        kinds = {
            "plain": ("method=numpy", *TINY),
            "validated": ("experiment=digits", "method=numpy", "training.epochs=null", "training.steps=4", "tracker=none"),
            "blown up": ("method=numpy", *TINY, "optimizer.lr=1"),
            "verified": ("task=verify", "method=numpy", *TINY),
            "failed": ("method=numpy", *TINY, "runs=failed"),
        }
        for kind, words in kinds.items():
            if kind == "failed":
                patch.setattr(NumPy, "transition", lambda *_: 1 / 0)
            done_here(*words, *(() if kind == "failed" else (f"runs='{kind}'",)))
        assert exp("-m", "method=numpy", "seed=0,1", "sweep.repeats=1", *TINY, "runs=sweep", cwd=here).returncode == 0
    found = {kind: [folder.path for folder in run_folders(here / kind)] for kind in [*kinds, "sweep"]}
    found["sweep"] += [folder.path for folder in run_folders(here / "sweep" / "sweeps")]
    assert [len(folders) for folders in found.values()] == [1] * 5 + [3]
    return found


def by_client(store: Store) -> Store:
    """The store as it is where nothing but the client can be used."""
    store._bulk = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert store.client
    return store


class Place:
    """A database in a folder of its own, and copies of run folders to be told to it."""

    def __init__(self, folder: Path, new_database: Path):
        folder.mkdir()
        self.folder, self.file = folder, folder / "mlflow.db"
        shutil.copyfile(new_database, self.file)
        self.uri = f"sqlite:///{self.file}"

    def copy(self, path: Path, name: str | None = None) -> RunFolder:
        copied = RunFolder(self.folder / "runs" / (name or path.name))
        shutil.copytree(path, copied.path)
        copied.update_status(tracking={"uri": self.uri, "experiment": "exp é/1"})
        return copied

    def store(self, writer: str) -> Store:
        store = Store(self.uri)
        return by_client(store) if writer == "client" else store

    def record(self, writer: str, *folders: RunFolder) -> None:
        """By the writer of this name, and by no other."""
        store = self.store(writer)
        answers = store.record_together(folders) if writer == "bulk" else [store.record_together([each])[0] for each in folders]
        assert ("client" in vars(store)) is (writer == "client")
        assert all(answer.keys() == {"experiment", "run"} for answer in answers)

    def content(self) -> dict[str, Any]:
        """All rows of all tables and all artifacts, without what is drawn by lot or read from the clock: ids are replaced
        by what they stand for, the time at which the experiment was made is left out."""
        with closing(sqlite3.connect(self.file)) as database:

            def rows(sql: str) -> list[tuple[Any, ...]]:
                return database.execute(sql).fetchall()

            ids = {run: f"run {name}" for run, name in rows("SELECT run_uuid, value FROM tags WHERE key = 'exp.run'")}
            ids |= {uuid: f"data {name}" for uuid, name in rows("SELECT dataset_uuid, name || digest FROM datasets")}
            ids |= {uuid: f"input {ids[run]}" for uuid, run in rows("SELECT input_uuid, destination_id FROM inputs")}
            ids[str(self.folder)] = "here"

            def told(value: Any) -> Any:
                for uuid, name in ids.items() if isinstance(value, str) else ():
                    value = value.replace(uuid, name)
                return value

            tables = [name for (name,) in rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found = {}
            for table in tables:
                columns = [name for _, name, *_ in rows(f"PRAGMA table_info({table})")]
                kept = [name for name in columns if table != "experiments" or name not in ("creation_time", "last_update_time")]
                found[table] = sorted(
                    [tuple(map(told, row)) for row in rows(f"SELECT {', '.join(kept)} FROM {table}")], key=repr
                )
            for file in (self.folder / "mlartifacts").rglob("*"):
                name, stat = told(str(file.relative_to(self.folder))), file.stat()
                found[name] = (file.read_bytes(), stat.st_mode, stat.st_mtime) if file.is_file() else None
            return found


def same(
    tmp_path: Path, new_database: Path, tell: Callable[[Place, Sequence[str]], None], *orders: Sequence[str]
) -> dict[str, Any]:
    """Tell the same by the client alone, and by writers in these orders; returns what is then in the store."""
    contents = []
    for number, order in enumerate([["client"] * 3, *orders]):
        place = Place(tmp_path / str(number), new_database)
        tell(place, order)
        contents.append(place.content())
    for content in contents[1:]:
        assert content.keys() == contents[0].keys()
        for name, rows in contents[0].items():
            assert content[name] == rows, name
    return contents[0]


BULK = ["bulk"] * 3


@pytest.mark.parametrize("kind", ["plain", "validated", "blown up", "verified", "failed", "sweep"])
def test_a_run_is_in_every_table_as_the_client_leaves_it(
    tmp_path: Path, new_database: Path, recorded: dict[str, list[Path]], kind: str
) -> None:
    def tell(place: Place, order: Sequence[str]) -> None:
        place.record(order[0], *[place.copy(path) for path in recorded[kind]])

    content = same(tmp_path, new_database, tell, BULK)
    assert len(content["runs"]) == len(recorded[kind])
    if kind == "validated":
        assert {"valid/loss", "valid/accuracy"} <= {row[0] for row in content["metrics"]}
    assert {row[6] for row in content["runs"]} == {"FAILED" if kind == "failed" else "FINISHED"}
    assert any(name.endswith("config.yaml") for name in content)


def grow(folder: RunFolder, steps: int, status: str, values: np.ndarray) -> RunFolder:
    times = np.repeat(1e9 + np.arange(steps), 2)[:steps]  # two steps in a millisecond
    folder.write_curve({"train/loss": values[:steps], "train/time": times, "valid/loss": values[:steps:10],
                        "valid/step": np.arange(0, steps, 10), "valid/time": times[::10]})  # fmt: skip
    folder.update_status(status=status, ended=2e9 if status != "RUNNING" else None)
    return folder


@pytest.mark.parametrize("order", [BULK, ["client", "bulk", "client"], ["bulk", "client", "bulk"]], ids="-".join)
def test_a_run_that_grows(tmp_path: Path, new_database: Path, recorded: dict[str, list[Path]], order: list[str]) -> None:
    """More than a thousand points, some not finite, told in three parts, by one writer or in turn."""
    values = np.arange(2500.0)
    values[[3, 1100, 2400]] = np.nan, np.inf, -np.inf

    def tell(place: Place, order: Sequence[str]) -> None:
        folder = place.copy(recorded["plain"][0])
        for writer, steps, status in zip(order, (40, 1200, 2500), ("RUNNING", "RUNNING", "FINISHED"), strict=True):
            place.record(writer, grow(folder, steps, status, values))

    content = same(tmp_path, new_database, tell, order)
    assert len([row for row in content["metrics"] if row[0] == "train/loss"]) == 2497


@pytest.mark.parametrize("order", [BULK, ["client", "bulk", "client"], ["bulk", "client", "bulk"]], ids="-".join)
def test_told_again_and_told_of_changes(
    tmp_path: Path, new_database: Path, recorded: dict[str, list[Path]], order: list[str]
) -> None:
    """As if nothing were known of the first time; then it has another name and other metrics, and has left its sweep."""

    def tell(place: Place, order: Sequence[str]) -> None:
        folder = place.copy(recorded["plain"][0])
        folder.update_status(sweep="s-1", error="none", metrics={"final/loss": 1.0, "time/step_seconds": 3.0})
        place.record(order[0], folder)
        (folder.path / "tracking.json").unlink()
        place.record(order[1], folder)
        folder.revise(name="another's", superseded=True, error=None, metrics={"final/loss": 1, "time/step_seconds": 2.5})
        place.record(order[2], folder)
        folder.revise(status="RUNNING")
        place.record(order[2], folder)

    content = same(tmp_path, new_database, tell, order)
    tags = {row[0]: row[1] for row in content["tags"]}
    assert tags["mlflow.runName"] == "another's" and tags["sweep.superseded"] == "s-1" and not {"sweep", "error"} & {*tags}


ODD = '\'; DROP TABLE runs; -- "q" `b` % ? é 漢字 \U0001f600\nnew line\ttab \\ '


def test_what_is_unusual(tmp_path: Path, new_database: Path, recorded: dict[str, list[Path]]) -> None:
    """Names and values with quotes, line breaks and other alphabets, too long, empty; metrics at the ends of the doubles."""

    def tell(place: Place, order: Sequence[str]) -> None:
        folder = place.copy(recorded["plain"][0])
        config = folder.config() | {"odd": ODD, "empty": "", "long": "é" * 7000, "π/r.2 - b:c": [1, {"a": None}], "x": 1e-300}
        folder.write_config(config | {"many": {f"key{number}": number for number in range(250)}})
        metrics = {"final/loss": 5e-324, "time/x": 1.7976931348623157e308, "memory/y": -0.0, "final/z": float("nan"), "n": 3}
        folder.update_status(name=ODD, error="e" * 9000, metrics=metrics, dead_units={"layer1": 3})
        os.utime(folder.path / "config.yaml", (1e9, 1e9))  # it was written just now
        place.record(order[0], folder)

    content = same(tmp_path, new_database, tell, BULK)
    params = {row[0]: row[1] for row in content["params"]}
    assert params["odd"] == ODD and len(params["long"]) == 6000 and params["many.key249"] == "249"


def test_many_at_once(tmp_path: Path, new_database: Path, recorded: dict[str, list[Path]]) -> None:
    def tell(place: Place, order: Sequence[str]) -> None:
        folders = [place.copy(recorded["plain"][0], f"run {index}") for index in range(9)]
        place.record(order[0], *folders, folders[0])

    assert len(same(tmp_path, new_database, tell, BULK)["runs"]) == 9


@pytest.mark.parametrize("kind", ["a name that MLflow refuses", "a parameter that changed", "a run that was deleted"])
def test_what_the_client_refuses_is_left_to_it(
    tmp_path: Path, new_database: Path, recorded: dict[str, list[Path]], kind: str
) -> None:
    said = []
    for writer in WRITERS:
        place = Place(tmp_path / writer, new_database)
        folder = place.copy(recorded["plain"][0])
        if kind == "a name that MLflow refuses":
            folder.write_config(folder.config() | {"a[0]": 1})
        else:
            place.record(writer, folder)
            run = folder.read_json("tracking.json")["run"]
            if kind == "a run that was deleted":
                place.store("client").client._client.delete_run(run)  # pyright: ignore[reportAttributeAccessIssue]
            folder.write_config(folder.config() | {"seed": 77})
            folder.revise()
        with pytest.raises(Exception) as error:
            place.store(writer).record_together([folder])
        uuid = folder.read_json("tracking.json").get("run", "")
        said.append((type(error.value).__name__, str(error.value).replace(uuid, "run")))
    assert said[0] == said[1]


def test_another_schema_is_left_to_the_client(
    tmp_path: Path, new_database: Path, recorded: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "other", new_database)
    folder = place.copy(recorded["plain"][0])
    assert Bulk(place.file).familiar
    monkeypatch.setattr(bulk, "REVISION", "of another time")
    assert not Bulk(place.file).familiar
    before = place.content()
    with pytest.raises(Unfamiliar), Bulk(place.file).transaction():
        pass
    assert place.content() == before
    store = place.store("bulk")
    store.record_together([folder])
    assert "client" in vars(store)
    assert tracked(place.uri)[folder.path.name].info.status == "FINISHED"


KILLED = """
import os, signal, sys
from pathlib import Path
from exp.run_folder import RunFolder
from exp.tracking import bulk
from exp.tracking.record import Store

bulk._copy = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # the last thing before the end of the transaction
folder = RunFolder(sys.argv[1])
Store(folder.status()["tracking"]["uri"]).record_together([folder])
"""


def test_a_kill_in_the_middle_leaves_nothing_and_the_next_does_it(
    tmp_path: Path, new_database: Path, recorded: dict[str, list[Path]]
) -> None:
    def tell(place: Place, order: Sequence[str]) -> None:
        folder = place.copy(recorded["plain"][0])
        if order[0] == "bulk":
            before = place.content()
            done = subprocess.run([sys.executable, "-c", KILLED, str(folder.path)], env=clean(), capture_output=True, text=True)
            assert done.returncode == -signal.SIGKILL, done.stderr
            assert place.content() == before and folder.read_json("tracking.json") == {}
        place.record(order[0], folder)

    same(tmp_path, new_database, tell, BULK)


def test_another_writer_is_waited_for(tmp_path: Path, new_database: Path, recorded: dict[str, list[Path]]) -> None:
    place = Place(tmp_path / "locked", new_database)
    folder = place.copy(recorded["plain"][0])
    seen = SimpleNamespace(runs=None)
    locked = threading.Event()

    def hold() -> None:
        with closing(sqlite3.connect(place.file, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            locked.set()
            time.sleep(0.5)
            seen.runs = database.execute("SELECT count(*) FROM runs").fetchone()
            database.execute("COMMIT")

    other = threading.Thread(target=hold)
    other.start()
    locked.wait()
    place.record("bulk", folder)
    other.join()
    assert seen.runs == (0,) and len(place.content()["runs"]) == 1


def test_a_run_imports_no_mlflow(tmp_path: Path, new_database: Path) -> None:
    """But for the first in a folder, whose database it makes. Shown by an MLflow that cannot be imported.

    Nor does it import anything else that is slow and that it does not need: that costs a start most.
    """
    shutil.copyfile(new_database, tmp_path / "mlflow.db")
    broken = tmp_path / "broken" / "mlflow"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not needed')\n")
    words = [word for word in TINY if word != "tracker=none"]
    env = {"PYTHONPATH": str(broken.parent), "PYTHONPROFILEIMPORTTIME": "1"}
    done = exp("method=numpy", *words, cwd=tmp_path, env=env)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"numpy", "hydra", "exp.tasks.recording"} <= imported
    slow = ("mlflow", "torch", "joblib", "ray", "pandas", "sklearn", "scipy", "rich", "exp.verification")
    assert not {name for name in imported if name in slow or name.startswith(tuple(f"{each}." for each in slow))}
    assert done.returncode == 0 and "see the curve" in done.stdout, done.stdout + done.stderr
    (folder,) = run_folders(tmp_path / "runs")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert len(points(uri, tracked(uri)[folder.path.name], "train/loss")) == 12
