"""Hydra's errors as one line: the key as typed, what is allowed, what to do."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from exp import registry
from exp.errors import MISSING, InputError, SecretError, listed, nearest
from exp.naming import typed_values

ALIKE = 0.6
"""Two words are alike from this ratio of difflib's on."""


HOW_TO_QUOTE = "no blanks around =; a value with , = { } ( ) ~ or letters beyond ASCII in quotes within quotes: '\"a=b\"'"


@contextmanager
def as_typed(overrides: list[str]) -> Iterator[None]:
    """Errors raised inside show the value as it was typed (1e3, not 1000.0)."""
    try:
        yield
    except InputError as error:
        typed = typed_values(overrides)
        if error.value is MISSING or error.key not in typed or isinstance(error, SecretError):
            raise
        raise type(error)(error.key, typed[error.key], error.problem) from None


@contextmanager
def explained(overrides: list[str]) -> Iterator[None]:
    """Turn what Hydra, OmegaConf and YAML raise while composing into `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        raise explain(error, overrides) from None
    except ValueError as error:
        if "group override must be a string" not in str(error):
            raise
        raise explain(error, overrides) from None


def explain(error: BaseException, overrides: list[str]) -> InputError:
    """The one line for an error raised while composing `overrides`."""
    if isinstance(error, InputError):
        return error
    for cause in _chain(error):
        if isinstance(cause, yaml.YAMLError):
            return _bad_yaml(cause)
        if isinstance(cause, OverrideParseException):
            return _unreadable(cause.override)
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            return _missing_choice(cause)
    text = " ".join(str(error).split())
    if ambiguous := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return InputError(ambiguous[1], MISSING, "several values are a sweep: python -m exp -m …")
    if folder := re.search(r"Additional config directory '([^']*)' not found", text):
        return InputError("--config-dir", os.path.relpath(folder[1]), "no such folder")
    for override in overrides:
        if (found := _about(override, text)) is not None:
            return found
    return InputError("configuration", MISSING, text)


def _unreadable(override: str) -> InputError:
    """The error for a word that is no override."""
    if override.startswith("-"):
        return InputError(override, MISSING, "is a flag; it belongs on the command line, before the overrides")
    if override in registry.all_keys() or override in registry.groups():
        return InputError(override, MISSING, f"has no value; type {override}=…")
    if re.search(r"\w=\S*\s+\S+=", override):
        return InputError(override, MISSING, "cannot be read as key=value; every override is a word, or text, of its own")
    return InputError(override, MISSING, f"cannot be read as key=value; {HOW_TO_QUOTE}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _bad_yaml(error: yaml.YAMLError) -> InputError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    name, where = "a configuration file", "somewhere"
    if mark:
        name, where = mark.name, f"line {mark.line + 1}, column {mark.column + 1}"
        name = os.path.relpath(name) if Path(name).exists() else name
    return InputError(name, MISSING, f"is not valid YAML at {where}: {getattr(error, 'problem', None) or error}")


def _missing_choice(error: MissingConfigException) -> InputError:
    group, _, choice = str(error.missing_cfg_file).removeprefix("/").rpartition("/")
    if options := error.options or list(registry.choices(group)):
        return InputError(group, choice, f"no such choice; choose {listed(nearest(choice, options))}")
    return _no_such_key(group, choice) if group else InputError(choice, MISSING, "no such configuration file")


def _about(override: str, text: str) -> InputError | None:
    """The line for an error that is about this override: of a key that does not exist, or a choice that is no name."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return None
    key = parsed.key_or_group.lstrip("+~")
    if "must be a string" in text and not isinstance(parsed.value(), str):
        if choices := registry.choices(key):
            return InputError(key, override.partition("=")[2], f"choose {listed(choices)}")
        return InputError(override, MISSING, "cannot be read as key=value") if not key else None
    about = rf"override '{re.escape(key)}'|Key '{re.escape(key)}'|'{re.escape(key)}[=@]|for {re.escape(key)}\b"
    if not re.search(rf"{about}|delete from config.*'{re.escape(key)}'", text):
        if text.removeprefix("Error merging override ").lstrip("+") != override.lstrip("+"):
            return None
        return InputError(key, override.partition("=")[2], "is of another kind than what is there; --cfg job shows it")
    if parsed.is_add():
        return InputError(override, MISSING, f"is there already; leave the + out: {override.lstrip('+')}")
    if parsed.is_delete():
        return InputError(override, MISSING, "there is nothing of that name to remove")
    return _no_such_key(key, override.partition("=")[2])


def _no_such_key(key: str, value: str) -> InputError:
    """The nearest keys, and what to type; a key of another choice of the same group is said to be that."""
    group, _, end = key.rpartition(".")
    if key.startswith("hydra.launcher."):
        problem = "is no key of the chosen launcher; hydra/launcher=joblib has n_jobs, for others see docs/sweeps.md"
        return InputError(key, value or MISSING, problem)
    if group in registry.choices("task") and end in registry.choices("task")[group]:
        if (own := registry.prefix("task", group)) != group:
            return InputError(key, value or MISSING, f"no such key; task={group} has {own}.{end}")
        return InputError(key, value or MISSING, f"is a key of task={group}; add task={group}")
    if having := [f"{group}={choice}" for choice, keys in registry.choices(group).items() if end in keys]:
        return InputError(key, value or MISSING, f"the chosen {group} has no {end}; {listed(having)} has")

    def rank(known: str) -> bool:
        known_group, _, known_end = known.rpartition(".")
        return known_group != group if group else known_end != end

    ordered = sorted(nearest(key, registry.all_keys()), key=rank)
    best = ordered[0]
    best_group, _, best_end = best.rpartition(".")
    pair = (end.lower(), best_end) if best_group == group else (key.lower(), best)
    alike = best_end == end.lower() or ((best_group or not group) and SequenceMatcher(None, *pair).ratio() >= ALIKE)
    use = f"use {best}={value}" if value and alike else "--help lists the groups, --cfg job the keys"
    return InputError(key, value or MISSING, f"no such key; nearest: {listed(ordered[:3])}; {use}")


def unknown_key(key: str, value: object) -> InputError:
    """A key that was added with + or in a file, and that no constructor takes."""
    return _no_such_key(key, "" if value is None or isinstance(value, dict | list) else str(value))


def about_interpolation(said: str) -> str:
    """What there is instead of what an interpolation names, by what OmegaConf `said`."""
    if absent := re.search(r"Interpolation key '([^']*)' not found", said):
        return f"there is no {absent[1]}; nearest: {listed(nearest(absent[1], registry.all_keys())[:3])}"
    if absent := re.search(r"Environment variable '([^']*)' not found", said):
        return f"the environment has no {absent[1]}; set it, or give a value after a comma: ${{oc.env:{absent[1]},value}}"
    return "takes its value from itself" if "Recursive interpolation" in said else said
