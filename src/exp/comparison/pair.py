"""Everything that differs between two runs: configuration, code, environment, metrics, curves."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from exp.comparison.differences import code_of
from exp.comparison.surroundings import surroundings, told
from exp.comparison.trials import Trial
from exp.naming import flat

Line = tuple[str, str, str, str]
"""Where, what, and the values of both; "–" where one has none."""


def pair(first: Trial, second: Trial, *, metrics: bool = True) -> list[Line]:
    """What differs, in the order configuration, data, code, environment, metrics."""
    found = list(_differing("configuration", dict(flat(first.config)), dict(flat(second.config))))
    found += _differing("data", *(_short(trial.status.get("digests", {})) for trial in (first, second)))
    found += _differing("code", *codes(first, second))
    found += _differing("environment", *(_without_commits(surroundings(trial.environment)) for trial in (first, second)))
    if metrics:
        found += _differing("metrics", *({"state": trial.state, **trial.metrics} for trial in (first, second)))
        if len(first.losses) and len(second.losses):
            found.append(("metrics", "loss curves", curves_differ(first.losses, second.losses), ""))
    return found


def codes(first: Trial, second: Trial) -> tuple[dict[str, str], dict[str, str]]:
    """What is recorded of the code of both, in the same terms: digests of files, or commits."""
    with_sources = bool(first.environment.get("sources") and second.environment.get("sources"))
    both = (code_of(first.environment, with_sources=with_sources), code_of(second.environment, with_sources=with_sources))
    return both if first.environment and second.environment else ({}, {})


def curves_differ(first: np.ndarray, second: np.ndarray) -> str:
    """How far two loss curves, (steps,), are apart, in words."""
    steps = min(len(first), len(second))
    longer = "" if len(first) == len(second) else f" ({len(first)} and {len(second)} steps: the first {steps} are compared)"
    if np.array_equal(first[:steps], second[:steps]):
        return f"equal bit for bit{longer}"
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.abs(second[:steps] - first[:steps]) / np.abs(first[:steps])
    at = int(np.nanargmax(relative)) if np.isfinite(relative).any() else 0
    return f"differ by at most {relative[at]:.2g} relative, at step {at}{longer}"


def _differing(where: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Line]:
    for key in [*first, *(key for key in second if key not in first)]:
        if first.get(key) != second.get(key):
            left, right = (told(values[key]) if key in values else "–" for values in (first, second))
            yield where, key, left, right


def _short(digests: Mapping[str, str]) -> dict[str, str]:
    """As long as they are shown elsewhere."""
    return {name: digest[:12] for name, digest in digests.items()}


def _without_commits(found: Mapping[str, str]) -> dict[str, str]:
    """They are told as code."""
    return {key: value for key, value in found.items() if key.partition(".")[0] not in ("git", "git_of_exp")}
