"""What can be chosen: a folder of `conf/` is a group, a file in it a choice, its keys the choice's keys."""

from functools import cache
from pathlib import Path

import yaml

ASIDE = ("hydra",)
"""Folders of `conf/` that are not ours to choose from."""


def conf_folder() -> Path:
    """`conf/` inside the installed package, or at the top of the checkout."""
    installed = Path(__file__).parent / "conf"
    return installed if (installed / "config.yaml").is_file() else Path(__file__).parents[2] / "conf"


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
    nested = {
        f"{group}.{key}": None for group in groups() if not _preset(group) for keys in choices(group).values() for key in keys
    }
    return [*groups(), *top_level_keys(), *nested]


def _preset(group: str) -> bool:
    """Whether the choices of a group only change other groups' keys."""
    return any("@package _global_" in file.read_text() for file in (conf_folder() / group).glob("*.yaml"))


def _keys(file: Path) -> list[str]:
    return [key for key in yaml.safe_load(file.read_text()) or {} if key not in ("_target_", "defaults")]
