"""What of a run folder becomes parameters and tags of an MLflow run."""

from typing import Any

from exp.run_folder import RunFolder


def params_of(folder: RunFolder, status: dict[str, Any]) -> dict[str, Any]:
    """The resolved configuration, flattened with dots, and each group's choice by its name."""
    flat: dict[str, Any] = {}

    def flatten(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key != "_target_":
                    flatten(f"{prefix}.{key}" if prefix else key, value)
        elif node is not None:
            flat[prefix] = node

    flatten("", folder.config())
    return flat | status["choices"]


def tags_of(folder: RunFolder, status: dict[str, Any]) -> dict[str, str]:
    """The tags of a run; those of a sweep that it left, as an attempt that was replaced, are not among them."""
    environment = folder.read_json("environment.json")
    git = environment.get("git") or {}
    tags = {
        "exp.run": folder.path.name,
        "sweep": None if status.get("superseded") else status.get("sweep"),
        "sweep.superseded": status.get("sweep") if status.get("superseded") else None,
        "identity": status.get("identity"),
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
