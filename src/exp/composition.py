"""From what was typed to a composed configuration: the command line prepared for Hydra, and Hydra's compose for Python."""

import re
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import DictConfig

from exp import registry
from exp.config_errors import explained
from exp.errors import MISSING, InputError


def compose(overrides: list[str], config_dir: str | Path | None = None) -> tuple[DictConfig, dict[str, Any], list[str]]:
    """The configuration, the choices of its groups, and the overrides, composed outside `hydra.main`."""
    extra = []
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise InputError("config_dir", config_dir, "no such folder")
        add_import_paths(config_dir)
        quoted = str(Path(config_dir).absolute()).replace("\\", r"\\").replace("'", r"\'")
        extra = [f"hydra.searchpath=['file://{quoted}']"]
    with _composing:  # Hydra's state belongs to the whole process: one thread at a time, and left as it was
        before = Singleton.get_state()
        GlobalHydra.instance().clear()
        try:
            hydra.initialize_config_dir(str(registry.conf_folder()), version_base="1.3", job_name="exp")
            with explained(overrides):
                whole = hydra.compose("config", [*names_quoted(overrides), *extra], return_hydra_config=True)
            return whole, dict(whole.hydra.runtime.choices), overrides
        finally:
            Singleton.set_state(before)


_composing = threading.Lock()


def prepared(words: list[str]) -> tuple[list[str], list[str]]:
    """A command line as Hydra will read it, and the overrides in it. Raises `InputError` for a flag that is none."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise InputError(" ".join(words), MISSING, f"{message}; flags such as -m come before the overrides (see --help)")

    parser.error = refuse
    arguments = parser.parse_args(words)
    if arguments.config_dir:
        add_import_paths(arguments.config_dir)
    for override in arguments.overrides:
        if re.match(r"[+~]*hydra[./]", override) and not override.lstrip("+").startswith("hydra.searchpath"):
            problem = "exp decides how Hydra runs; leave it out (a sweep runs in this process, one run after the other)"
            raise InputError(override, MISSING, problem)
    return names_quoted(words), arguments.overrides


TEXTS = ("compare.sweep", "compare.baseline", "compare.require", "compare.out", "repeat.run")
LISTS = ("compare.runs", "compare.allow")
"""Keys whose values are names, paths and conditions, or lists of them: typed without the quotes that Hydra asks for."""


QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")


def names_quoted(words: list[str]) -> list[str]:
    """`debug=nan` with nan as a name, where Hydra reads a number; `compare.require=final/loss < 1` as the text that it is."""

    def quoted(word: str) -> str:
        key, _, value = word.partition("=")
        if key in TEXTS and value not in ("", "null"):
            return f"{key}={_text(value)}"
        if key in LISTS and value:
            inner = value[1:-1] if value[0] == "[" and value[-1] == "]" else value
            return f"{key}=[{','.join(_text(each.strip()) for each in inner.split(',') if each.strip())}]"
        is_name = key.lstrip("+") in registry.groups() and value in registry.choices(key.lstrip("+"))
        return f"{key}='{value}'" if is_name and value in ("nan", "inf", "true", "false", "null") else word

    return [quoted(word) for word in words]


def _text(value: str) -> str:
    """A text in quotes, unless it is already, or is an interpolation."""
    if QUOTED.fullmatch(value) or value.startswith("${"):
        return value
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def add_import_paths(config_dir: str | Path) -> None:
    """The user's own classes are imported from beside their YAML files, or from the working directory."""
    for file in sorted(Path(config_dir).glob("*/*.yaml")):
        if file.stem in registry.choices(file.parent.name):
            raise InputError("--config-dir", config_dir, f"{file} has the name of a choice that exp ships; rename it")
    for path in (str(Path.cwd()), str(Path(config_dir).absolute())):
        if path not in sys.path:
            sys.path.insert(0, path)
