"""Names of runs, made of what differs: `numpy lr=1e-6`."""

import re
from collections import Counter

ASIDE = ("task", "tracker", "runs", "name", "hydra", "debug", "threads")
"""What says how a run is done, not what it is."""


def run_name(method: str, overrides: list[str]) -> str:
    """The name of a single run: its method and what was typed."""
    return " ".join([method, *labels([override for override in overrides if not override.startswith("method=")])])


def labels(overrides: list[str]) -> list[str]:
    """`optimizer.lr=1e-06` as `lr=1e-6`, `problem=digits` as `digits`; the whole key where its end is ambiguous."""
    pairs = [override.lstrip("+").split("=", 1) for override in overrides if "=" in override and not override.startswith("~")]
    pairs = [(key, value) for key, value in pairs if key.partition(".")[0].partition("/")[0] not in ASIDE]
    ends = Counter(key.rpartition(".")[2] for key, _ in pairs)
    return [label(key, value, short=ends[key.rpartition(".")[2]] == 1) for key, value in pairs]


def label(key: str, value: str, *, short: bool = True) -> str:
    """One override, shortened."""
    value = re.sub(r"(?<=\d)e([+-]?)0+(?=\d)", r"e\1", value).replace(" ", "")
    if "." not in key and key != "seed":
        return value
    return f"{key.rpartition('.')[2] if short else key}={value}"
