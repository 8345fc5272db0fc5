"""What of a run folder is told: parameters, tags, points, metrics, the data set, files."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exp.naming import flat
from exp.run_folder import RunFolder

Point = tuple[int, int, float]
"""Step, time in milliseconds, value."""

ARTIFACTS = ("config.yaml", "environment.json", "error.txt", "verdict.json", "kit.txt", "benchmark.json")
ARTIFACTS += ("plan.json", "summary.json", "compare.html", "compare.csv", "compare.json", "benchmark.html")
"""The files of a run folder that become artifacts."""


@dataclass(frozen=True)
class Ending:
    """What is known of a run when it is over. `ended` is in milliseconds; `renamed` its new name, where it may have one;
    `left` are tags that it may have lost."""

    status: str
    ended: int
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    dataset: dict[str, str] | None
    files: list[Path]
    renamed: str | None
    left: list[str]


def ending(folder: RunFolder, status: dict[str, Any]) -> Ending:
    """What a run that is over leaves."""
    config, tags, revised = folder.config(), tags_of(folder, status), bool(status.get("revision"))
    return Ending(
        status=status["status"],
        ended=milliseconds(status["ended"]),
        params={key: str(value)[:6000] for key, value in params_of(config, status).items()},
        metrics={key: float(value) for key, value in status.get("metrics", {}).items() if math.isfinite(value)},
        tags=tags,
        dataset=_dataset(folder, config, status) if status.get("digests") else None,
        files=[folder.path / name for name in ARTIFACTS if (folder.path / name).exists()],
        renamed=status["name"] if revised else None,
        left=[key for key in LEFT if revised and key not in tags],
    )


def new_points(curve: dict[str, np.ndarray], sent: dict[str, int]) -> dict[str, tuple[list[Point], int]]:
    """The finite points after the first `sent` of each metric, and how many of it there are now."""
    found = {}
    for name, values in curve.items():
        group, _, what = name.partition("/")
        if what not in ("step", "time"):
            new = slice(sent.get(name, 0), None)
            steps, times = curve.get(f"{group}/step", np.arange(len(values))), curve[f"{group}/time"]
            finite = np.isfinite(values[new])
            columns = (steps.astype(np.int64), (times * 1000).astype(np.int64), values.astype(np.float64))
            found[name] = list(zip(*(column[new][finite].tolist() for column in columns), strict=True)), len(values)
    return found


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _dataset(folder: RunFolder, config: dict[str, Any], status: dict[str, Any]) -> dict[str, str]:
    """The data set by name, digest and shape: not its content."""
    problem = folder.read_json("problem.json")
    shape = {"rows": problem.get("rows"), "inputs": problem.get("inputs"), "outputs": problem.get("outputs")}
    return {
        "name": status["choices"]["problem"],
        "digest": status["digests"]["data"][:36],
        "source": json.dumps(config["problem"]),
        "profile": json.dumps(shape),
    }


def params_of(config: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """The resolved configuration, flattened with dots, and each group's choice by its name."""
    given = {key: value for key, value in flat(config) if key.rpartition(".")[2] != "_target_" and value is not None}
    return given | status["choices"]


def tags_of(folder: RunFolder, status: dict[str, Any]) -> dict[str, str]:
    """The tags of a run; those of a sweep that it left, as an attempt that was replaced, are not among them."""
    environment = folder.read_json("environment.json")
    git = environment.get("git") or {}
    tags = {
        "exp.run": folder.path.name,
        "sweep": None if status.get("superseded") else status.get("sweep"),
        "sweep.superseded": status.get("sweep") if status.get("superseded") else None,
        "mlflow.user": _user(),
        "mlflow.source.name": "exp",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git.get("commit"),
        "git.dirty": str(git["dirty"]).lower() if git else None,
        "git_of_exp.commit": (environment.get("git_of_exp") or {}).get("commit"),
        "mlflow.runColor": status.get("colour"),
        "blew_up_at_step": status.get("blew_up_at_step"),
        "not_finite": status.get("not_finite"),
        "dead_units": ", ".join(f"{layer} {count}" for layer, count in status.get("dead_units", {}).items()) or None,
        "error": status.get("error"),
        "kind": status.get("task"),
        "verdict": status.get("verdict"),
        "verdict.reason": status.get("verdict_reason"),
        "verdict.first_wrong": status.get("first_wrong"),
        "verdict.bluntest": status.get("bluntest"),
        "bound": status.get("benchmark", {}).get("bound"),
        "refused": status.get("benchmark", {}).get("refused"),
    }
    if program := status.get("program"):
        checked = program["checked"]
        tags |= {"program": program["first"], "program.runs": program["runs"], "program.checked": checked["run"]}
        tags |= {"program.difference": f"{checked['largest']:.1e} at step {checked['at_step']}"}
    tags["program.refused"] = status.get("program_refused")
    tags |= {f"sweep.{name}": "member" for name in status.get("sweeps", ())}
    tags |= {f"digest.{name}": value for name, value in status.get("digests", {}).items()}
    conditions = environment.get("conditions", {})
    tags |= {name: conditions.get(name) for name in ("torch_threads", "tf32", "deterministic")}
    return {key: str(value)[:5000] for key, value in tags.items() if value is not None}


LEFT = ("sweep", "error")
"""Tags that a run may lose again."""


def is_complete(known: dict[str, Any], status: dict[str, Any]) -> bool:
    """Whether the store has all that the folder says: `known` is what tracking.json holds."""
    same = known.get("store", status["tracking"]) == status["tracking"]
    return same and bool(known.get("complete")) and known.get("revision", 0) == status.get("revision", 0)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
