"""Where runs are tracked: the choices of the group `tracker`, and which addresses MLflow understands."""

import abc
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from exp.errors import InputError, SecretError, listed, nearest, require

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https")


@dataclass(kw_only=True)
class Tracker(abc.ABC):
    """Where runs are tracked, beside their folders."""

    @abc.abstractmethod
    def address(self) -> dict[str, str] | None:
        """The absolute `uri` of the store and the `experiment` in it; None: nowhere. Raises `InputError`."""


@dataclass(kw_only=True)
class Untracked(Tracker):
    """The run folder alone."""

    def address(self) -> None:
        return None


@dataclass(kw_only=True)
class Mlflow(Tracker):
    """An MLflow store. `uri` null is MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` here, which plain `mlflow ui` opens."""

    uri: str | None = None
    experiment: str = "exp"

    def __post_init__(self) -> None:
        require(bool(self.experiment.strip()), "experiment", repr(self.experiment), "a name that is not empty")

    def address(self) -> dict[str, str]:
        key, uri = "uri", self.uri
        if uri is None and (environment := os.environ.get("MLFLOW_TRACKING_URI")):
            key, uri = "MLFLOW_TRACKING_URI", environment
        absolute = _absolute(key, "sqlite:///mlflow.db" if uri is None else uri)
        return {"uri": absolute, "experiment": self.experiment}


def database_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for every other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _absolute(key: str, uri: str) -> str:
    """`uri` checked; a SQLite file by its absolute path. A password is never shown, and never written anywhere."""
    try:
        parts = urlsplit(uri)
        scheme, host, _ = parts.scheme.partition("+")[0].lower(), parts.hostname, parts.port
    except ValueError as error:
        raise SecretError(key, _shown(uri), f"is no address ({error}); allowed: such as http://127.0.0.1:5000") from None
    if _holds_secret(uri, scheme):
        own = "the database's own, such as PGPASSWORD"
        use = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if scheme in SERVERS else own
        raise SecretError(key, _shown(uri), f"holds a password, which would be stored; put it into the environment ({use})")
    if scheme not in DATABASES + SERVERS:
        choices = [f"{name}:///…" if name == "sqlite" else f"{name}://…" for name in nearest(scheme, DATABASES + SERVERS)]
        problem = f"MLflow keeps runs at {listed(choices)}; sqlite:///mlflow.db is the default"
        raise SecretError(key, _shown(uri), problem)
    if scheme in SERVERS:
        require(bool(host), key, uri, "an address with a host, such as http://127.0.0.1:5000")
        return uri.rstrip("/")
    return f"sqlite:///{_database(key, uri)}" if scheme == "sqlite" else uri


def _database(key: str, uri: str) -> Path:
    """The absolute path of a SQLite file that can be opened or made."""
    name = uri.removeprefix("sqlite:///")
    if not uri.startswith("sqlite:///") or not name:
        raise InputError(
            key, uri, "allowed: sqlite:/// and a file, such as sqlite:///mlflow.db (sqlite:////tmp/m.db is absolute)"
        )
    file = Path(name).absolute()
    if "?" in str(file) or "%" in str(file):
        raise InputError(key, uri, f"{file}: MLflow misreads ? and % in the path of a database; choose another")
    if file.is_dir():
        raise InputError(key, uri, f"{file} is a folder; give a file")
    if file.exists() and not os.access(file, os.R_OK | os.W_OK):
        raise InputError(key, uri, f"{file} cannot be read and written")
    if file.exists():
        with file.open("rb") as content:
            if content.read(16) not in (b"", b"SQLite format 3\0"):
                raise InputError(key, uri, f"{file} is no SQLite database; give another file")
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise InputError(
            key, uri, f"{file.parent}: no such folder, or not writable; give a file in a folder that you can write"
        )
    return file


def _shown(uri: str) -> str:
    """`uri` without what may be a secret."""
    return re.sub(r"^(\w[\w+.-]*://)?.*@", r"\1***@", uri).partition("?")[0]


def _holds_secret(uri: str, scheme: str) -> bool:
    parts = urlsplit(uri)
    in_query = any(re.search("pass|pwd|token|secret", name, re.IGNORECASE) for name in parse_qs(parts.query))
    return parts.password is not None or in_query or (scheme in SERVERS and "@" in uri)
