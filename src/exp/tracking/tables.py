"""The tables of a new database, put in their place as a whole: half of them, left by a kill, could never be opened.

MLflow makes them in three seconds, by dozens of migrations. Where it would end at the one `REVISION` that is known, they
are copied from `schema.sql`: tests hold both equal.
"""

import fcntl
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

REVISION = "dc11669786a5"
"""The last migration of MLflow 3.17.2."""

SCHEMA = Path(__file__).with_name("schema.sql")


@cache
def installed() -> bool:
    """Whether the MLflow that is installed would make the known tables. It is read, not imported."""
    spec = find_spec("mlflow")
    migrations = [Path(at) / "store" / "db_migrations" / "versions" for at in (spec and spec.submodule_search_locations) or ()]
    files = [file.read_text() for folder in migrations for file in folder.glob("*.py")]
    revised = [file for file in files if f'"{REVISION}"' in file]
    return len(revised) == 1 and f'\nrevision = "{REVISION}"' in revised[0]


@contextmanager
def first_open(file: Path, make: Callable[[Path], None]) -> Iterator[None]:
    """One process at a time: tables are made, by `make` in another file, by whoever comes first, and that must not be two."""
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if absent(file):
            unfinished = file.with_name(f".{file.name}.new")
            for left in (unfinished, file.with_name(f"{unfinished.name}-journal")):
                left.unlink(missing_ok=True)
            make(unfinished)
            unfinished.replace(file)
        yield


def absent(file: Path) -> bool:
    """Whether there is no database yet."""
    return not (file.exists() and file.stat().st_size)


def copy(file: Path) -> None:
    """Make the known tables in a new file, with the rows that MLflow begins with."""
    now = int(time.time() * 1000)
    default = (0, "Default", f"{Path.cwd()}/mlruns/0", "active", now, now, "default")
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.executescript(f"BEGIN; {SCHEMA.read_text()}")
        database.execute("INSERT INTO alembic_version VALUES (?)", (REVISION,))
        database.execute("INSERT INTO workspaces (name, description) VALUES ('default', ?)", (WORKSPACE,))
        database.execute("INSERT INTO experiments VALUES (?, ?, ?, ?, ?, ?, ?)", default)
        database.execute("COMMIT")


WORKSPACE = "Default workspace for legacy resources"
