"""Hydra's errors as one line: the key as typed, what is allowed, what to do."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from exp.errors import MISSING, InputError, listed, nearest


@contextmanager
def explained(overrides: list[str]) -> Iterator[None]:
    """Turn what Hydra, OmegaConf and YAML raise while composing into `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise explain(error, overrides) from None


def explain(error: BaseException, overrides: list[str]) -> InputError:
    """The one line for an error raised while composing `overrides`."""
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, yaml.MarkedYAMLError):
            return _bad_yaml(cause)
        if isinstance(cause, OverrideParseException):
            return InputError(cause.override, MISSING, "cannot be read as key=value; put values with , = { } or spaces in quotes")
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            return _missing_choice(cause)
    text = " ".join(str(error).split())
    if ambiguous := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return InputError(ambiguous[1], MISSING, "several values are a sweep; put -m before them")
    for override in overrides:
        if (unknown := _unknown(override, text)) is not None:
            return unknown
    return InputError("configuration", MISSING, text)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _bad_yaml(error: yaml.MarkedYAMLError) -> InputError:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
    name = os.path.relpath(mark.name) if mark and Path(mark.name).exists() else (mark.name if mark else "a configuration file")
    return InputError(name, MISSING, f"is not valid YAML at {where}: {error.problem}")


def _missing_choice(error: MissingConfigException) -> InputError:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    group = group.removeprefix("/")
    if not group:
        return InputError(choice, MISSING, "no such configuration file")
    if error.options:
        return InputError(group, choice, f"no such choice; choose {listed(nearest(choice, error.options))}")
    return _no_such_key(group, choice)


def _unknown(override: str, text: str) -> InputError | None:
    """The override of a key that does not exist, if the error is about it."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return None
    key = parsed.get_key_element().lstrip("+~")
    if re.search(rf"override '{re.escape(key)}'|Key '{re.escape(key)}'|group '?{re.escape(key)}'?\b|'{re.escape(key)}='", text):
        if parsed.is_add():
            return InputError(override, MISSING, f"is there already; without + : {override.lstrip('+')}")
        if parsed.is_delete():
            return InputError(override, MISSING, "there is nothing of that name to remove")
        return _no_such_key(key, override.partition("=")[2])
    return None


def _no_such_key(key: str, value: str) -> InputError:
    near = nearest_keys(key)
    use = f"{near[0]}={value}" if value else near[0]
    return InputError(key, value or MISSING, f"no such key; nearest: {listed(near[:3])}; use {use}")


def nearest_keys(key: str) -> list[str]:
    """All keys of the default configuration and all groups, nearest first: one that ends alike before one that looks alike."""
    GlobalHydra.instance().clear()
    from exp.configuration import GROUPS, PRESETS, conf_folder

    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        default: Any = OmegaConf.to_container(hydra.compose("config"))
    known = list(GROUPS) + list(PRESETS)
    for name, node in default.items():
        known += [f"{name}.{key}" for key in node if key != "_target_"] if isinstance(node, dict) else [name]
    group, _, end = key.rpartition(".")

    def rank(candidate: str) -> tuple[bool, bool]:
        candidate_group, _, candidate_end = candidate.rpartition(".")
        near_end = nearest(end, {other.rpartition(".")[2] for other in known})[0]
        return candidate_group != group or not group, candidate_end not in (end, near_end)

    ordered = nearest(key, known)
    if group:
        return sorted(ordered, key=rank)
    return sorted(ordered, key=lambda candidate: candidate.rpartition(".")[2] != end)
