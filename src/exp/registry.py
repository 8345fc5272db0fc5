"""What can be chosen: a folder of `conf/` is a group, a file in it a choice, its keys the choice's keys."""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ASIDE = ("hydra",)
"""Folders of `conf/` that are not ours to choose from."""


def conf_folder() -> Path:
    """`conf/` inside the installed package, or at the top of the checkout."""
    installed = Path(__file__).parent / "conf"
    return installed if (installed / "config.yaml").is_file() else Path(__file__).parents[2] / "conf"


def content_of(group: str, choice: str) -> dict[str, Any] | None:
    """What the file of a choice says; the user's own too: --config-dir is on the import path of every process."""
    files = (folder / group / f"{choice}.yaml" for folder in (conf_folder(), *map(Path, sys.path)))
    return next((yaml.safe_load(file.read_text()) for file in files if file.is_file()), None)


@cache
def groups() -> list[str]:
    return sorted(path.name for path in conf_folder().iterdir() if path.is_dir() and path.name not in ASIDE)


@cache
def choices(group: str) -> dict[str, list[str]]:
    """The choices of a group, each with its keys; empty for what is no group."""
    files = sorted((conf_folder() / group).glob("*.yaml")) if group in groups() else []
    return {file.stem: _keys(file) for file in files}


def top_level_keys() -> list[str]:
    return [key for key in _keys(conf_folder() / "config.yaml") if key not in ASIDE]


def all_keys() -> list[str]:
    """Every group, every key outside a group, and every `group.key` that some choice has."""
    typed = [group for group in groups() if not _preset(group)]
    nested = {
        f"{prefix(group, choice)}.{key}": None for group in typed for choice, keys in choices(group).items() for key in keys
    }
    return [*groups(), *top_level_keys(), *nested]


def prefix(group: str, choice: str) -> str:
    """What stands before the keys of a choice: its group, or its own name, as in task=verify verify.kit=full."""
    return choice if _own_node(conf_folder() / group / f"{choice}.yaml") else group


def _preset(group: str) -> bool:
    """Whether the choices of a group only change other groups' keys."""
    return all("@package _global_" in file.read_text() for file in (conf_folder() / group).glob("*.yaml"))


def _own_node(file: Path) -> dict[str, Any] | None:
    """The keys that a choice has under its own name rather than its group's."""
    content = yaml.safe_load(file.read_text()) if file.exists() else None
    if not isinstance(content, dict) or file.parent.name not in content:
        return None
    own = content.get(file.stem)
    return own if isinstance(own, dict) else None


def _keys(file: Path) -> list[str]:
    found = _own_node(file) or yaml.safe_load(file.read_text()) or {}
    return [key for key in found if key not in ("_target_", "defaults")]
