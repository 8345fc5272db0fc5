"""From what was typed to a composed configuration: the command line prepared for Hydra, and Hydra's compose for Python."""

import re
import sys
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from exp import registry
from exp.config_errors import about_interpolation, explained
from exp.errors import MISSING, InputError
from exp.flags import require_sensible
from exp.override_text import in_quotes, value_text

# Said of every file that completes a launcher's own configuration; that Hydra checks its keys and types by it, is meant.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated", UserWarning)


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


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, without Hydra's own node. Raises `InputError` for what leads nowhere."""
    try:
        return {
            str(key): OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else config[key]
            for key, node in config.items_ex(resolve=False)
            if key != "hydra"
        }
    except OmegaConfBaseException as error:
        raise _unresolved(config, str(error).splitlines()[0]) from None


def _unresolved(config: DictConfig, said: str) -> InputError:
    """The error of an interpolation that leads nowhere, with its key and the value as it was typed."""
    raw: Any = OmegaConf.to_container(config, resolve=False)
    nested = [f"{key}.{inner}" for key, node in raw.items() if isinstance(node, dict) for inner in node]
    plain = [key for key, node in raw.items() if not isinstance(node, dict)]
    for key in [*plain, *nested]:
        try:
            OmegaConf.select(config, str(key))
        except OmegaConfBaseException:
            group, _, end = str(key).rpartition(".")
            return InputError(str(key), raw[group][end] if group else raw[end], about_interpolation(said))
    return InputError("configuration", MISSING, said)


LAUNCHER_MODULES = ("hydra_joblib_launcher", "hydra_ray_launcher", "hydra_submitit_launcher")


def spare_hydra_work(words: list[str]) -> bool:
    """Keep Hydra from what costs a start half of its time, and can have no effect on the command line `words`.

    It composes all of the configuration once more, only to read `hydra.mode`, which `prepared` lets nobody set. And it imports
    every launcher, with joblib and Ray: a run that is not launched has none. Returns whether it is such a single run.
    """
    Hydra.get_mode = lambda *_, **__: None
    single = all("=" in word and not word.startswith("-") for word in words)
    for launcher in LAUNCHER_MODULES if single else ():
        sys.modules.setdefault(f"hydra_plugins.{launcher}", None)  # type: ignore[arg-type] # None: not to be imported
    return single


class Composer:
    """Composes the many configurations of a sweep: one Hydra composition for each set of group choices.

    What differs only in values is set in that one, as Hydra does last of all: 2 ms instead of 40.
    """

    def __init__(self, loader: ConfigLoader, base: DictConfig):
        assert isinstance(loader, ConfigLoaderImpl)  # whose own `get_group_options` copies all there is, for every question
        self._loader, self._base = loader, base
        parser = OverridesParser.create(config_loader=loader)
        self._parsed = cache(lambda override: parser.parse_overrides([override])[0])
        self._is_group = cache(lambda key: bool(loader.repository.get_group_options(key)))
        self._whole: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The resolved configuration without Hydra's own node, and the choices of its groups. Raises what Hydra raises."""
        parsed = [self._parsed(override) for override in overrides]
        values = [override for override in parsed if self._is_value(override)]
        chosen = [str(override.input_line) for override in parsed if override not in values]
        # of one set of choices there is one for each set of keys, all of which are set each time: nothing stays behind
        kind = (*chosen, *(str(override.key_or_group) for override in values))
        if kind not in self._whole:
            self._whole[kind] = self._loader.load_sweep_config(self._base, chosen)
        whole = self._whole[kind]
        ConfigLoaderImpl._apply_overrides_to_config(values, whole)
        return resolved(whole), dict(whole.hydra.runtime.choices)

    def _is_value(self, override: Override) -> bool:
        """Whether an override only changes a value that is there."""
        plain = override.type == OverrideType.CHANGE and override.package is None and not isinstance(override.value(), dict)
        return plain and not self._is_group(str(override.key_or_group))


MULTIRUN = ("-m", "--multirun")


def prepared(words: list[str]) -> tuple[list[str], list[str]]:
    """A command line as Hydra will read it, and the overrides in it. Raises `InputError` for a flag that is none.

    `-m` may stand anywhere: Hydra reads no override behind a flag that stands behind one.
    """
    first = next((number for number, word in enumerate(words) if "=" in word and not word.startswith("-")), len(words))
    flags = [word for word in words[first:] if word in MULTIRUN]
    words = [*words[:first], *flags, *(word for word in words[first:] if word not in MULTIRUN)]
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise InputError(" ".join(words), MISSING, f"{message}; flags but -m come before the overrides (see --help)")

    parser.error = refuse
    arguments = parser.parse_args(words)
    require_sensible(arguments)
    if arguments.config_dir:
        add_import_paths(arguments.config_dir)
    for override in arguments.overrides:
        key = override.lstrip("+~").partition("=")[0]
        if re.match(r"hydra[./]", key) and not re.match(r"hydra\.searchpath|hydra[./]launcher\b", key):
            problem = "exp decides how Hydra runs, but for hydra/launcher=… and hydra.launcher.…=…; leave it out"
            raise InputError(override, MISSING, problem)
        if re.match(r"hydra[./]launcher", key) and not arguments.multirun:
            raise about_sweeps(override)
    return names_quoted(words), arguments.overrides


TEXTS = ("compare.sweep", "compare.baseline", "compare.require", "compare.out", "repeat.run")
LISTS = ("compare.runs", "compare.allow", "benchmark.peers")
CONDITIONS = "sweep.exclude"
DESCRIPTIONS = re.compile(r"sweep\.(grid|zip)\b")
"""Keys whose values are names, paths and conditions, or lists of them: typed without the quotes that Hydra asks for.

What a grid or a zip describes has keys of the user's: they are added, or change what is there.
"""


QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")


def about_sweeps(override: str) -> InputError:
    """The error for what has no effect on a single run."""
    return InputError(override, MISSING, "is about a sweep; put -m before it, or leave it out")


def require_single(overrides: list[str], config: DictConfig, choices: dict[str, Any]) -> None:
    """Raise `InputError` for an override, or an experiment, that describes a sweep."""
    for override in overrides:
        if re.match(r"[+~]*sweep\b", override):
            raise about_sweeps(override)
    if any(config.sweep.get(described) for described in ("grid", "zip", "union")):
        raise about_sweeps(f"experiment={choices.get('experiment')}")


def names_quoted(words: list[str]) -> list[str]:
    """`debug=nan` with nan as a name, where Hydra reads a number; `compare.require=final/loss < 1` as the text that it is."""

    def quoted(word: str) -> str:
        key, _, value = word.partition("=")
        if key in TEXTS and value not in ("", "null"):
            return f"{key}={_text(value)}"
        if key in LISTS and value:
            inner = value[1:-1] if value[0] == "[" and value[-1] == "]" else value
            return f"{key}=[{','.join(_text(each.strip()) for each in inner.split(',') if each.strip())}]"
        if key == CONDITIONS and value and not value.startswith(("['", '["', "[]")):
            return f"{key}=[{_text(value[1:-1] if value[0] == '[' and value[-1] == ']' else value)}]"
        if DESCRIPTIONS.match(key):
            return f"++{word}"
        group, values = key.lstrip("+"), value.split(",")
        names = group in registry.groups() and {*values} <= {*registry.choices(group)}
        if names and not {*values}.isdisjoint(("nan", "inf", "true", "false", "null")):
            return f"{key}={','.join(map(_text, values))}"
        return word

    return [quoted(word) for word in words]


def _text(value: str) -> str:
    """A text in quotes, unless it is already, or is an interpolation."""
    return value if QUOTED.fullmatch(value) or value.startswith("${") else in_quotes(value)


def axis_values(override: Override) -> list[str]:
    """The text of every value that was typed for a key. Raises `InputError` for an interval, which has no values."""
    key, typed = override.get_key_element(), (override.input_line or "").partition("=")[2]
    if not override.is_sweep_override():
        return [value_text(override.value())]
    if not override.is_discrete_sweep():
        raise InputError(key, typed, "allowed: values, such as 1e-7,1e-6 or range(0,5) or glob(*)")
    try:
        return [value_text(Override._convert_value(value)) for value in override.sweep_iterator()]
    except HydraException as error:
        raise InputError(key, typed, f"cannot be read as values: {error}") from None


def axis_parser(loader: ConfigLoader) -> Callable[[str, str], list[str]]:
    """From a key and its values in one text, such as `1e-7,1e-6` or `glob(*)`, to the text of each value.

    What it returns raises `InputError` for a text that cannot be read so.
    """
    parser = OverridesParser.create(config_loader=loader)

    def parsed(key: str, text: str) -> list[str]:
        try:
            return axis_values(parser.parse_overrides([f"{key}={text}"])[0])
        except HydraException:
            problem = "cannot be read as values; such as 1e-7,1e-6 or range(0,5) or glob(*)"
            raise InputError(key, text, problem) from None

    return parsed


def add_import_paths(config_dir: str | Path) -> None:
    """The user's own classes are imported from beside their YAML files, or from the working directory."""
    for file in sorted(Path(config_dir).glob("*/*.yaml")):
        if file.stem in registry.choices(file.parent.name):
            raise InputError("--config-dir", config_dir, f"{file} has the name of a choice that exp ships; rename it")
    for path in (str(Path.cwd()), str(Path(config_dir).absolute())):
        if path not in sys.path:
            sys.path.insert(0, path)
