"""From a composed configuration to typed parts: every key checked, every class allowed, then instantiated.

With `composition`, `config_errors`, `__main__` and the sweeper plugin, the only place that knows Hydra and OmegaConf.
"""

import importlib
import re
import traceback
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from exp import registry
from exp.config_errors import as_typed, unknown_key
from exp.devices import Device
from exp.errors import MISSING, InputError, listed, require
from exp.experiment import Experiment
from exp.losses import Loss
from exp.methods.base import Method
from exp.naming import run_name, typed_values
from exp.network import Network
from exp.optimizers import Optimizer
from exp.precisions import Precision
from exp.problems import Problem
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
}
"""The groups of `conf/` and what each choice's `_target_` must be a kind of."""


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


def instantiate(config: DictConfig, choices: dict[str, Any], overrides: list[str]) -> tuple[Experiment, Task]:
    """The experiment and its task. Raises `InputError` for a key, a type, a value or a class that cannot be."""
    try:
        with as_typed(overrides):
            return _built(config, choices, overrides)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        raise InputError(_unresolved(config) or "configuration", MISSING, str(error).splitlines()[0]) from None


def _unresolved(config: DictConfig) -> str | None:
    """The key whose interpolation leads nowhere."""
    nodes = {str(key): node for key, node in config.items_ex(resolve=False)}
    nested = [f"{key}.{inner}" for key, node in nodes.items() if isinstance(node, DictConfig) for inner in node]
    for key in [*nested, *nodes]:
        try:
            OmegaConf.select(config, str(key))
        except OmegaConfBaseException:
            return str(key)
    return None


def _built(config: DictConfig, choices: dict[str, Any], overrides: list[str]) -> tuple[Experiment, Task]:
    config = OmegaConf.create({key: node for key, node in config.items_ex(resolve=False) if key != "hydra"})
    own = str(choices.get("task"))  # task=verify has its keys under verify
    unknown = next((key for key in config if key not in (*GROUPS, *_names(TopLevel), own)), None)
    if unknown is not None:
        raise unknown_key(str(unknown), typed_values(overrides).get(str(unknown)))
    for group in GROUPS:
        if not isinstance(choices.get(group), str):
            raise InputError(group, choices.get(group), f"choose {listed(registry.choices(group))}")
    OmegaConf.resolve(config)
    top = _typed("", TopLevel, OmegaConf.create({name: config.get(name) for name in _names(TopLevel)}))
    TopLevel(**top)
    prefixes = {group: own if group == "task" and own in config else group for group in GROUPS}
    checked = {group: _checked(group, config, prefixes[group]) for group in GROUPS}
    parts: dict[str, Any] = {group: _part(prefixes[group], node) for group, node in checked.items()} | top
    parts["name"] = top["name"] or run_name(choices["method"], overrides)
    task = parts.pop("task")
    if (stored := task.recorded(top["runs"])) is not None:
        here = {**top, "tracker": parts["tracker"], "config": OmegaConf.to_container(checked["tracker"])}
        return _repeated(stored, here, choices, overrides), task
    named = {group: str(choices[group]) for group in GROUPS if group != "task"}
    plain = {prefixes[group]: OmegaConf.to_container(node) for group, node in checked.items()}
    return Experiment(**parts, choices=named, config=plain | top), task


def _repeated(stored: RecordedConfig, here: dict[str, Any], choices: dict[str, str], overrides: list[str]) -> Experiment:
    """The experiment of a recorded run. `here` are the name, the folder of runs and the tracker of this command."""
    own = f"task={choices['task']}"
    for key, value in typed_values(overrides).items():
        if re.split(r"[./]", key)[0] not in (choices["task"], "task", "tracker", "runs", "name"):
            raise InputError(key, value, f"{own} takes it from the recorded run; leave it out, or leave {own} out")
    groups = [group for group in GROUPS if group not in ("task", "tracker")]
    config = OmegaConf.create({key: stored.config[key] for key in (*groups, *_names(TopLevel)) if key in stored.config})
    top = _typed("", TopLevel, OmegaConf.create({key: config.get(key) for key in _names(TopLevel)})) | {
        key: here[key] for key in ("name", "runs")
    }
    TopLevel(**top)
    checked = {group: _checked(group, config, group) for group in groups}
    parts: dict[str, Any] = {group: _part(group, node) for group, node in checked.items()}
    plain = {group: OmegaConf.to_container(node) for group, node in checked.items()} | {"tracker": here["config"]}
    task = {"task": stored.config["task"]} if "task" in stored.config else {}
    parts |= top | {"tracker": here["tracker"], "name": here["name"] or stored.name}
    return Experiment(**parts, choices={**stored.choices, "tracker": choices["tracker"]}, config=plain | task | top)


def _names(schema: type) -> list[str]:
    return [field.name for field in fields(schema)]


def _checked(group: str, config: DictConfig, prefix: str) -> DictConfig:
    """The node of a group, typed by the constructor that its `_target_` names. Its keys are those of `prefix`."""
    node, kind = config.get(group), GROUPS[group]
    if not OmegaConf.is_dict(node):
        raise InputError(group, node, f"choose {listed(registry.choices(group))}")
    if not isinstance(target := node.get("_target_"), str):
        raise InputError(f"{group}._target_", MISSING, f"is missing; it names the class, a kind of {kind.__name__}")
    values = OmegaConf.create({key: value for key, value in node.items_ex(resolve=False) if key != "_target_"})
    if prefix != group:
        values = OmegaConf.merge(values, config[prefix])
        assert isinstance(values, DictConfig)
    typed = _typed(prefix, _located(group, target, kind), values)
    return OmegaConf.create({"_target_": target, **typed})


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


def _typed(group: str, schema: type, values: DictConfig) -> dict[str, Any]:
    """`values` by the types of the constructor; missing keys by its defaults."""
    prefix = f"{group}." if group else ""
    typed = OmegaConf.structured(schema)
    for key, value in values.items_ex(resolve=False):
        if OmegaConf.is_missing(values, key):
            continue
        if key not in _names(schema):
            raise unknown_key(f"{prefix}{key}", OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
        value = values[key]
        if isinstance(value, bool) and bool not in set(_leaf_types(schema, str(key))):
            raise InputError(f"{prefix}{key}", str(value).lower(), f"allowed: {_allowed(schema, str(key))}")
        try:
            typed[key] = value
        except (ValidationError, ConfigKeyError):
            raise InputError(f"{prefix}{key}", value, f"allowed: {_allowed(schema, str(key))}") from None
        if isinstance(value, ListConfig) and any(OmegaConf.is_config(element) for element in value):
            raise InputError(f"{prefix}{key}", value, f"allowed: {_allowed(schema, str(key))}")
    if missing := sorted(OmegaConf.missing_keys(typed)):
        key = f"{prefix}{missing[0]}"
        raise InputError(key, MISSING, f"is missing; give {key}=… ({_allowed(schema, missing[0])})")
    plain = OmegaConf.to_container(typed)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _part(group: str, node: DictConfig) -> Any:
    try:
        return hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__.under(group) from None
        reason = error.__cause__ or error
        raise InputError(f"{group}._target_", node._target_, f"{type(reason).__name__}: {reason}") from None


def _leaf_types(schema: type, key: str) -> Iterator[type]:
    """The types in an annotation such as `list[int] | None`."""
    pending = [typing.get_type_hints(schema)[key]]
    while pending:
        hint = pending.pop()
        pending += typing.get_args(hint)
        yield hint


def _allowed(schema: type, key: str) -> str:
    """An annotation in words."""
    hint = typing.get_type_hints(schema)[key]
    optional = type(None) in typing.get_args(hint) and isinstance(hint, types.UnionType)
    hint = next(part for part in typing.get_args(hint) if part is not type(None)) if optional else hint
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        list[int]: "a list of whole numbers, such as [64,32]",
        list[float]: "a list of numbers, such as [0.9,0.999]",
        list[str]: "a list of names, such as [age,bmi]",
    }
    return words.get(hint, str(hint)) + (" or null" if optional else "")
