"""From a composed configuration to typed parts: every key checked, every class allowed, then instantiated.

With `composition`, `config_errors`, `__main__` and the sweeper plugin, the only place that knows Hydra and OmegaConf.
"""

import copy
import importlib
import re
import traceback
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, ValidationError

from exp import registry
from exp.annotations import as_given, in_words, leaf_types, parts_of
from exp.composition import resolved
from exp.config_errors import as_typed, unknown_key
from exp.devices import Device
from exp.errors import MISSING, InputError, listed, nearest, require
from exp.experiment import Experiment
from exp.losses import Loss
from exp.methods.base import Method
from exp.naming import flat, run_name, typed_values
from exp.network import Network
from exp.optimizers import Optimizer
from exp.precisions import Precision
from exp.problems import Problem
from exp.sweep.specification import Sweep
from exp.tasks.base import RecordedConfig, Task
from exp.tracking.settings import Tracker
from exp.training import Training

GROUPS: dict[str, type] = {
    "method": Method,
    "device": Device,
    "precision": Precision,
    "problem": Problem,
    "network": Network,
    "loss": Loss,
    "optimizer": Optimizer,
    "training": Training,
    "tracker": Tracker,
    "task": Task,
    "sweep": Sweep,
}
"""The groups of `conf/` and what each choice's `_target_` must be a kind of."""

MISSING_VALUE = "???"
"""How YAML says that a value must be given."""


@dataclass(kw_only=True)
class TopLevel:
    """The keys outside every group."""

    seed: int
    threads: int
    name: str | None
    runs: str

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "a whole number >= 0")
        require(self.threads >= 1, "threads", self.threads, "a whole number >= 1")
        require(self.name is None or bool(self.name.strip()), "name", repr(self.name), "a name that is not empty, or null")
        require(bool(self.runs.strip()), "runs", repr(self.runs), "a folder")


def instantiate(config: DictConfig | dict[str, Any], choices: dict[str, Any], overrides: list[str]) -> tuple[Experiment, Task]:
    """The experiment and its task. Raises `InputError` for a key, a type, a value or a class that cannot be."""
    plain = resolved(config) if isinstance(config, DictConfig) else config
    with as_typed(overrides):
        return _built(plain, choices, overrides)


def described_sweep(config: dict[str, Any], overrides: list[str]) -> Sweep:
    """The sweep that the configuration describes. Raises `InputError` for a key, a type or a value that cannot be."""
    with as_typed(overrides):
        return _part("sweep", *_checked("sweep", config, "sweep"))


def flat_values(config: dict[str, Any], choices: dict[str, Any]) -> dict[str, Any]:
    """The value of every key, `optimizer.lr`, and the choice of every group by its name, `method`."""
    values = {key: value for key, value in flat(config) if key.rpartition(".")[2] != "_target_"}
    return values | {group: str(choices[group]) for group in GROUPS if group in choices}


def _built(plain: dict[str, Any], choices: dict[str, Any], overrides: list[str]) -> tuple[Experiment, Task]:
    own = str(choices.get("task"))  # task=verify has its keys under verify
    unknown = next((key for key in plain if key not in (*GROUPS, *_names(TopLevel), own)), None)
    if unknown is not None:
        raise unknown_key(str(unknown), typed_values(overrides).get(str(unknown)))
    for group in GROUPS:
        if not isinstance(choices.get(group), str):
            raise InputError(group, choices.get(group), f"choose {listed(registry.choices(group))}")
    top = _typed("", TopLevel, {name: plain.get(name) for name in _names(TopLevel)})
    TopLevel(**top)
    prefixes = {group: own if group == "task" and own in plain else group for group in GROUPS}
    kinds, values = {}, {}
    for group, prefix in prefixes.items():
        kinds[group], values[group] = _checked(group, plain, prefix)
    parts: dict[str, Any] = {group: _part(prefixes[group], kinds[group], values[group]) for group in GROUPS} | top
    parts["name"] = top["name"] or run_name(choices["method"], overrides)
    task, _ = parts.pop("task"), parts.pop("sweep")
    if (stored := task.recorded(top["runs"])) is not None:
        tracker = {"_target_": plain["tracker"]["_target_"], **values["tracker"]}
        return _repeated(stored, {**top, "tracker": parts["tracker"]}, tracker, choices, overrides), task
    named = {group: str(choices[group]) for group in GROUPS if group not in ("task", "sweep")}
    whole = {prefixes[group]: {"_target_": plain[group]["_target_"], **values[group]} for group in GROUPS if group != "sweep"}
    return Experiment(**parts, choices=named, config=whole | top), task


def _repeated(
    stored: RecordedConfig, here: dict[str, Any], tracker: dict[str, Any], choices: dict[str, str], overrides: list[str]
) -> Experiment:
    """The experiment of a recorded run; its name, tracker and folder of runs are `here`, those of this command."""
    own = f"task={choices['task']}"
    for key, value in typed_values(overrides).items():
        if re.split(r"[./]", key)[0] not in (choices["task"], "task", "tracker", "runs", "name"):
            raise InputError(key, value, f"{own} takes it from the recorded run; leave it out, or leave {own} out")
    top = _typed("", TopLevel, {key: stored.config.get(key) for key in _names(TopLevel)})
    top |= {key: here[key] for key in ("name", "runs")}
    TopLevel(**top)
    parts, config = {"tracker": here["tracker"], **top, "name": here["name"] or stored.name}, {"tracker": tracker, **top}
    for group in GROUPS:
        if group not in ("task", "tracker", "sweep"):
            kind, values = _checked(group, stored.config, group)
            parts[group] = _part(group, kind, values)
            config[group] = {"_target_": stored.config[group]["_target_"], **values}
    config["task"] = stored.config.get("task")
    return Experiment(**parts, choices={**stored.choices, "tracker": choices["tracker"]}, config=config)


def _names(schema: type) -> list[str]:
    return [field.name for field in fields(schema)]


def _named_part(key: str, group: str, choice: str) -> Any:
    """The part that a choice of a group describes, as its file has it."""
    if (node := registry.content_of(group, choice)) is None:
        raise InputError(key, choice, f"no such choice; choose {listed(nearest(choice, list(registry.choices(group))))}")
    return _part(group, *_checked(group, {group: node}, group))


def _checked(group: str, config: dict[Any, Any], prefix: str) -> tuple[type, dict[str, Any]]:
    """The class that a group's `_target_` names, and its arguments by the types of its constructor, from under `prefix`."""
    node, kind = config.get(group), GROUPS[group]
    if not isinstance(node, dict):
        raise InputError(group, node, f"choose {listed(registry.choices(group))}")
    if not isinstance(target := node.get("_target_"), str):
        raise InputError(f"{group}._target_", MISSING, f"is missing; it names the class, a kind of {kind.__name__}")
    values = {key: value for key, value in node.items() if key != "_target_"}
    if prefix != group:
        values |= config[prefix]
    located = _located(group, target, kind)
    return located, _typed(prefix, located, values)


def _located(group: str, target: str, kind: type) -> type:
    """The class of this dotted name; only a kind of `kind` is ever called."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        where = f"cannot be imported ({error}); classes of your own lie in the folder of --config-dir"
        raise InputError(f"{group}._target_", target, where) from None
    except Exception as error:  # the module itself is at fault
        last = traceback.extract_tb(error.__traceback__)[-1]
        file, line = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (last.filename, last.lineno)
        where = f"its module raises {type(error).__name__}: {error} ({Path(str(file)).name} line {line})"
        raise InputError(f"{group}._target_", target, where) from None
    if not (isinstance(found, type) and issubclass(found, kind) and hasattr(found, "__dataclass_fields__")):
        raise InputError(
            f"{group}._target_", target, f"allowed: a dataclass that is a kind of {kind.__module__}.{kind.__name__}"
        )
    return found


def _typed(group: str, schema: type, values: dict[Any, Any]) -> dict[str, Any]:
    """`values` by the types of the constructor; missing keys by its defaults. What a sweep asks again is remembered."""
    asked = (group, schema, repr(values))
    if asked not in _known:
        _known[asked] = _typed_anew(group, schema, values)
    return copy.deepcopy(_known[asked])


_known: dict[tuple[str, type, str], dict[str, Any]] = {}


def _typed_anew(group: str, schema: type, values: dict[Any, Any]) -> dict[str, Any]:
    prefix = f"{group}." if group else ""
    schema = as_given(schema, parts_of(schema, GROUPS))
    typed = OmegaConf.structured(schema)
    for key, value in values.items():
        if value == MISSING_VALUE:
            continue
        if key not in _names(schema):
            raise unknown_key(f"{prefix}{key}", value)
        if isinstance(value, bool) and not {bool, Any} & set(leaf_types(schema, str(key))):
            raise InputError(f"{prefix}{key}", str(value).lower(), f"allowed: {in_words(schema, str(key))}")
        try:
            typed[key] = value
        except (ValidationError, ConfigKeyError):
            whole = isinstance(value, float) and value.is_integer() and int in set(leaf_types(schema, str(key)))
            write = f"; write {int(value)}" if whole else ""
            raise InputError(f"{prefix}{key}", value, f"allowed: {in_words(schema, str(key))}{write}") from None
        nested = isinstance(value, list) and any(isinstance(element, dict | list) for element in value)
        if nested and Any not in set(leaf_types(schema, str(key))):
            raise InputError(f"{prefix}{key}", value, f"allowed: {in_words(schema, str(key))}")
    if missing := sorted(OmegaConf.missing_keys(typed)):
        key = f"{prefix}{missing[0]}"
        raise InputError(key, MISSING, f"is missing; give {key}=… ({in_words(schema, missing[0])})")
    plain = OmegaConf.to_container(typed)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _part(group: str, kind: type, values: dict[str, Any]) -> Any:
    """The part itself; what its constructor raises is bad input."""
    parts = {key: _named_part(f"{group}.{key}", inner, values[key]) for key, inner in parts_of(kind, GROUPS).items()}
    try:
        return kind(**{**values, **parts})
    except InputError as error:
        raise error.under(group) from None
    except Exception as error:
        target = f"{kind.__module__}.{kind.__qualname__}"
        raise InputError(f"{group}._target_", target, f"{type(error).__name__}: {error}") from None
