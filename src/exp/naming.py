"""Names of runs, made of what differs: `numpy lr=1e-6`; and of their settings, by dotted keys."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

HOW = ("task", "benchmark", "sweep", "tracker", "runs", "name", "hydra", "debug", "threads")
"""What says how a run is done, not what it is."""


def run_name(method: str, overrides: list[str]) -> str:
    """The name of a single run: its method and what was typed."""
    return " ".join([method, *labels([override for override in overrides if not override.startswith("method=")])])


def labels(overrides: list[str], swept: Collection[str] = ()) -> list[str]:
    """`optimizer.lr=1e-06` as `lr=1e-6`, `problem=digits` as `digits`; the whole key where its end is ambiguous.

    What only says how a run is done is left out, unless it was `swept`.
    """
    typed = typed_values(overrides)  # of a key that was typed twice, the last counts
    told = {key: value for key, value in typed.items() if key in swept or re.split(r"[./]", key)[0] not in HOW}
    ends = Counter(key.rpartition(".")[2] for key in told)
    return [_label(key, value, ambiguous=ends[key.rpartition(".")[2]] > 1) for key, value in told.items()]


def setting_name(factors: Mapping[str, Any]) -> str:
    """What a run of a sweep is apart from its seeds: the labels of its other factors; empty where there are none."""
    return " ".join(labels([f"{key}={_typed(value)}" for key, value in factors.items() if not is_seed(key)], list(factors)))


def is_seed(key: str) -> bool:
    """Whether a dotted key is that of a seed."""
    return key.rpartition(".")[2] == "seed"


def typed_values(overrides: list[str]) -> dict[str, str]:
    """The value of each key as it was typed."""
    pairs = (override.lstrip("+").partition("=") for override in overrides if not override.startswith("~"))
    return {key: value for key, equals, value in pairs if equals}


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries by dotted keys: {"a": {"b": 1}} gives ("a.b", 1)."""
    for key, value in node.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from flat(value, name)
        else:
            yield name, value


def short(value: float, form: str = "g") -> str:
    """1e-6 rather than 1e-06."""
    return re.sub(r"e([+-])0*(\d)", lambda exponent: f"e{exponent[1].replace('+', '')}{exponent[2]}", format(value, form))


def _typed(value: Any) -> str:
    """A value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return short(value) if isinstance(value, float) and float(short(value)) == value else str(value)


def _label(key: str, value: str, *, ambiguous: bool) -> str:
    if re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value):
        value = short(float(value))
    value = re.sub(r"([,:\[{]) +", r"\1", value)
    if "." not in key and key not in ("seed", "threads", "name"):
        return value
    return f"{key if ambiguous else key.rpartition('.')[2]}={value}"
