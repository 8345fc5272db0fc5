"""The environment of a run in comparable terms: flat, and without the order in which libraries were loaded."""

from collections.abc import Mapping
from typing import Any

from exp.naming import flat

ASIDE = ("sources", "command", "blas", "conditions")
"""What is not part of it, or is told in other words."""


def surroundings(environment: Mapping[str, Any]) -> dict[str, str]:
    """`versions.numpy`, `cpu`, `gpu.name`, `git.commit`, `blas.openblas`, `threads.openblas`, `conditions.tf32`, …"""
    found = {key: told(value) for key, value in flat({key: environment[key] for key in environment if key not in ASIDE})}
    libraries: dict[str, set[str]] = {}
    for pool in environment.get("blas", []):
        said = " ".join(str(pool[key]) for key in ("version", "architecture") if pool.get(key)) or "loaded"
        libraries.setdefault(f"blas.{pool['internal_api']}", set()).add(said)
    conditions = environment.get("conditions", {})
    for pool in conditions.get("threads", []):
        libraries.setdefault(f"threads.{pool['internal_api']}", set()).add(str(pool["num_threads"]))
    found |= {key: " and ".join(sorted(values)) for key, values in libraries.items()}
    return found | {f"conditions.{key}": told(value) for key, value in conditions.items() if key != "threads"}


def told(value: Any) -> str:
    """A value as it is shown: null, true, a float with six digits."""
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
