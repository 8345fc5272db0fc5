"""Who may import whom, who opens files, and that the folders of `conf/` and the constructors agree.

Each rule is a function of a module's name and source that lists its faults. It is run on every module of `src`, where it
must find none, and on a planted violation, where it must find one.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hydra.utils import get_class

from exp import registry
from exp.composition import compose
from exp.configuration import GROUPS, TopLevel, instantiate

SRC = Path(__file__).parents[1] / "src"
CONF = registry.conf_folder()
LONGEST_FILE = 260


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(file): file.read_text() for file in sorted(SRC.rglob("*.py"))}
METHODS = sorted(name for name in SOURCES if name.startswith("exp.methods.") and name != "exp.methods.base")


class Import(NamedTuple):
    module: str
    line: int
    in_function: bool


def imports(module: str, source: str) -> Iterator[Import]:
    """Every import; `from exp import registry` is one of exp.registry. What only a type checker reads is left out."""

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: -node.level] if node.level else []
            name = ".".join([*parent, node.module] if node.module else parent)
            inner = [f"{name}.{alias.name}" for alias in node.names]
            yield from (Import(full if full in SOURCES else name, node.lineno, in_function) for full in inner)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    yield from visit(ast.parse(source), False)


def is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def importing(module: str, source: str, *packages: str) -> list[str]:
    """The imports of any of these packages."""
    return [
        f"{module}:{found.line} imports {found.module}" for found in imports(module, source) if is_in(found.module, *packages)
    ]


FORMULAS = ("exp.activations", "exp.losses", "exp.optimizers", "exp.network")


def formulas_know_arrays_only(module: str, source: str) -> list[str]:
    if module not in FORMULAS:
        return []
    allowed = ("exp.arrays", "exp.errors", "exp.state", "exp.activations", *sys.stdlib_module_names)
    return [
        f"{module}:{found.line} imports {found.module}"
        for found in imports(module, source)
        if not is_in(found.module, *allowed)
    ]


def hydra_only_at_the_entry(module: str, source: str) -> list[str]:
    entry = is_in(module, "exp.__main__", "exp.composition", "exp.configuration", "exp.config_errors", "hydra_plugins")
    return [] if entry else importing(module, source, "hydra", "omegaconf")


def mlflow_only_in_tracking(module: str, source: str) -> list[str]:
    return [] if is_in(module, "exp.tracking") else importing(module, source, "mlflow")


HEAVY = ("torch", "pandas", "plotly", "scipy", "sklearn")


def heavy_only_in_functions(module: str, source: str) -> list[str]:
    found = (found for found in imports(module, source) if is_in(found.module, *HEAVY) and not found.in_function)
    return [f"{module}:{line} imports {name} at module level" for name, line, _ in found]


LOOP = ("exp.training", "exp.loop", "exp.feed", "exp.clock")
ABOVE_THE_LOOP = ("exp.tracking", "exp.tasks", "exp.experiment", "exp.run_folder", "exp.report", "exp.sweep")
KNOWS_NOT = {
    "exp.methods": (
        "exp.training",
        "exp.loop",
        "exp.feed",
        "exp.tracking",
        "exp.tasks",
        "exp.experiment",
        "exp.run_folder",
        "exp.report",
        "exp.sweep",
    ),
    **dict.fromkeys(LOOP, (*METHODS, *ABOVE_THE_LOOP)),
    "exp.verification": FORMULAS,
    "exp.experiment": (*METHODS, "exp.tasks", "exp.report", "exp.sweep"),
    "exp.comparison": (*METHODS, "exp.training", "exp.tasks", "exp.sweep", "exp.tracking", "exp.configuration"),
    "exp.tasks": (*METHODS, "exp.sweep", "exp.configuration"),
    "exp": ("hydra_plugins", "exp.__main__"),
}


def lower_knows_no_upper(module: str, source: str) -> list[str]:
    return [
        fault for lower, uppers in KNOWS_NOT.items() if is_in(module, lower) for fault in importing(module, source, *uppers)
    ]


def methods_know_not_each_other(module: str, source: str) -> list[str]:
    others = [other for other in METHODS if other != module] if module in METHODS else []
    return importing(module, source, *others)


def training_names_no_method(module: str, source: str) -> list[str]:
    """Neither by its class nor by its choice (numpy is also the library's name)."""
    if module not in LOOP:
        return []
    trees = [ast.parse(SOURCES[method]) for method in METHODS]
    classes = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    names = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(ast.parse(source))}
    values = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    return [f"{module} names {name}" for name in classes & names | set(registry.choices("method")) & values]


MAY_OPEN = ("exp.problems", "exp.tables", "exp.run_folder", "exp.environment", "exp.registry", "exp.tracking")
MAY_OPEN += ("exp.sources", "exp.claims", "exp.sweep_folder", "exp.gpus", "exp.memory", "exp.comparison.files")
MAY_OPEN += ("exp.benchmark.machine",)
OPENS = {
    "open",
    "read_text",
    "write_text",
    "read_bytes",
    "write_bytes",
    "mkdir",
    "touch",
    "unlink",
    "rmdir",
    "rename",
    "rmtree",
}
OPENS |= {"savez", "savez_compressed", "savetxt", "loadtxt", "genfromtxt", "memmap", "tofile", "fromfile", "mkdtemp", "mkstemp"}


def only_the_edges_open_files(module: str, source: str) -> list[str]:
    """Tasks write through a `RunFolder`, and open an uploader, not a file."""
    if is_in(module, *MAY_OPEN):
        return []
    faults = importing(module, source, "safetensors", "shutil", "tempfile")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        owner, _, name = called.rpartition(".")
        through = is_in(module, "exp.tasks", "exp.sweep") and owner in ("folder", "shared_uploader()")
        if (name in OPENS and not through) or called in (
            "np.load",
            "np.save",
            "numpy.load",
            "numpy.save",
            "torch.load",
            "torch.save",
        ):
            faults.append(f"{module}:{node.lineno} calls {called}")
    return faults


def random_only_in_seeds(module: str, source: str) -> list[str]:
    if module == "exp.seeds":
        return []
    faults = importing(module, source, "random", "numpy.random", "exp.numpy.random")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and (
            ast.unparse(node) in ("np.random", "numpy.random")
            or node.attr in ("manual_seed", "randn", "randperm", "default_rng")
        ):
            faults.append(f"{module}:{node.lineno} uses {ast.unparse(node)}")
    return faults


def names_say_what(module: str, source: str) -> list[str]:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    return [f"{module} is called {part}" for part in module.split(".") if part in vague]


def files_are_short(module: str, source: str) -> list[str]:
    lines = source.count("\n")
    return [f"{module} has {lines} lines"] if lines > LONGEST_FILE else []


Rule = Callable[[str, str], list[str]]
PLANTED: list[tuple[Rule, str, str]] = [
    (formulas_know_arrays_only, "exp.losses", "import numpy as np"),
    (formulas_know_arrays_only, "exp.optimizers", "def f():\n    import torch.nn"),
    (formulas_know_arrays_only, "exp.activations", "from exp.problems import Data"),
    (formulas_know_arrays_only, "exp.network", "from exp import seeds"),
    (hydra_only_at_the_entry, "exp.sweep.running", "from omegaconf import DictConfig"),
    (hydra_only_at_the_entry, "exp.tasks.train", "def f():\n    import hydra.utils"),
    (mlflow_only_in_tracking, "exp.tasks.ui", "def f():\n    from mlflow import MlflowClient"),
    (heavy_only_in_functions, "exp.methods.module", "import torch"),
    (heavy_only_in_functions, "exp.arrays", "try:\n    from torch import nn\nexcept ImportError:\n    nn = None"),
    (heavy_only_in_functions, "exp.comparison.frame", "import pandas as pd"),
    (heavy_only_in_functions, "exp.comparison.page", "from plotly.offline import get_plotlyjs"),
    (heavy_only_in_functions, "exp.methods.module", "class Net:\n    from torch import nn"),
    (lower_knows_no_upper, "exp.methods.manual", "from exp.loop import train"),
    (lower_knows_no_upper, "exp.methods.base", "from exp import experiment"),
    (lower_knows_no_upper, "exp.methods.module", "def f():\n    import exp.tracking.uploader"),
    (lower_knows_no_upper, "exp.training", "from exp.methods.manual import NumPy"),
    (lower_knows_no_upper, "exp.loop", "from exp.run_folder import RunFolder"),
    (lower_knows_no_upper, "exp.verification.reference", "from exp.losses import SquaredError"),
    (lower_knows_no_upper, "exp.verification.rules", "def f():\n    from exp.optimizers import Adam"),
    (lower_knows_no_upper, "exp.verification.probes", "from exp import activations"),
    (lower_knows_no_upper, "exp.verification.kit", "import exp.network"),
    (lower_knows_no_upper, "exp.experiment", "from exp.tasks.train import Train"),
    (lower_knows_no_upper, "exp.tasks.base", "from exp import sweep"),
    (lower_knows_no_upper, "exp.comparison.table", "from exp.tasks.train import Train"),
    (lower_knows_no_upper, "exp.comparison.watch", "def f():\n    import exp.sweep.running"),
    (lower_knows_no_upper, "exp.python", "from exp.__main__ import main"),
    (methods_know_not_each_other, "exp.methods.autograd", "from exp.methods.manual import backward"),
    (methods_know_not_each_other, "exp.methods.autograd", "from . import manual"),
    (training_names_no_method, "exp.training", "def f(method):\n    return isinstance(method, Autograd)"),
    (training_names_no_method, "exp.loop", "def f(choice):\n    return choice == 'tensor'"),
    (only_the_edges_open_files, "exp.report", "print(open('x').read())"),
    (only_the_edges_open_files, "exp.sweep.running", "from pathlib import Path\nPath('x').write_text('y')"),
    (only_the_edges_open_files, "exp.tasks.train", "def f(path):\n    path.write_text('y')"),
    (only_the_edges_open_files, "exp.training", "import numpy as np\nnp.save('x', np.ones(3))"),
    (only_the_edges_open_files, "exp.comparison.report", "def f(path):\n    path.write_text('y')"),
    (only_the_edges_open_files, "exp.recorded", "from safetensors.numpy import load_file"),
    (random_only_in_seeds, "exp.problems", "import numpy as np\nx = np.random.default_rng(0)"),
    (random_only_in_seeds, "exp.network", "from numpy.random import default_rng"),
    (random_only_in_seeds, "exp.methods.module", "def f(torch):\n    torch.manual_seed(0)"),
    (random_only_in_seeds, "exp.training", "import random"),
    (names_say_what, "exp.tracking.utils", ""),
    (names_say_what, "exp.helpers.shapes", ""),
    (files_are_short, "exp.training", "x = 1\n" * (LONGEST_FILE + 1)),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in PLANTED))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_sources_keep_the_rule(rule: Rule) -> None:
    assert [fault for module, source in SOURCES.items() for fault in rule(module, source)] == []


@pytest.mark.parametrize(("rule", "module", "source"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_violation_is_seen(rule: Rule, module: str, source: str) -> None:
    assert rule(module, source)


def test_every_rule_is_asked_of_modules_that_exist() -> None:
    """A module that is renamed takes its rule along."""
    named = {*FORMULAS, *KNOWS_NOT, *MAY_OPEN, *(package for uppers in KNOWS_NOT.values() for package in uppers)}
    later = {"hydra_plugins"}
    assert {name for name in named if not any(is_in(module, name) for module in SOURCES)} <= later
    assert len(METHODS) >= 3


def test_importing_the_package_imports_nothing_heavy() -> None:
    """Of exp/__init__.py, which every `python -m exp` reads first."""
    assert {found.module for found in imports("exp", SOURCES["exp"]) if not found.in_function} <= {"pathlib", "typing"}


CHOICES = [(group, choice) for group in GROUPS for choice in registry.choices(group)]
PRESETS = [(group, choice) for group in registry.groups() if group not in GROUPS for choice in registry.choices(group)]
MANDATORY = {("problem", "table"): ["problem.path=x.csv", "problem.target=y"]}
"""What has no default must be given."""


def disagreements(node: dict[str, object]) -> set[str]:
    """The keys of a choice's YAML that its class does not take, and the class's that are not in the YAML."""
    return set(node) - {"_target_"} ^ {field.name for field in fields(get_class(str(node["_target_"])))}


def loaded(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_key_of_a_choice_is_a_field_and_every_field_a_key(group: str, choice: str) -> None:
    content = loaded(CONF / group / f"{choice}.yaml")
    node = {**content[group], **content.get(choice, {})} if group in content else content  # task=verify verify.kit=full
    node = {**loaded(CONF / "sweep" / "typed.yaml"), **node} if group == "sweep" else node  # conf/config.yaml does so
    assert disagreements(node) == set()
    assert issubclass(get_class(str(node["_target_"])), GROUPS[group])


@pytest.mark.parametrize("change", [{"lr": 1, "weight_decay": 0, "foo": 1}, {"lr": 1}, {}])
def test_a_planted_disagreement_is_seen(change: dict[str, object]) -> None:
    assert disagreements({"_target_": "exp.optimizers.SGD", **change})


@pytest.mark.parametrize(("group", "choice"), [*CHOICES, *PRESETS])
def test_every_choice_composes_and_instantiates(group: str, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exp.tasks.repeat.Repeat.recorded", lambda task, runs: None)  # there is no run to repeat
    experiment, task = instantiate(*compose([f"{group}={choice}", *MANDATORY.get((group, choice), [])]))
    if group in GROUPS and group != "sweep":
        assert isinstance(task if group == "task" else getattr(experiment, group), GROUPS[group])
        assert group == "task" or experiment.choices[group] == choice


def test_the_groups_are_the_folders() -> None:
    presets = {group for group, _ in PRESETS}
    assert {*GROUPS} | presets == {*registry.groups()}
    assert all(registry.choices(group) for group in registry.groups())
    assert all("@package _global_" in (CONF / group / f"{choice}.yaml").read_text() for group, choice in PRESETS)


def test_the_keys_outside_every_group_are_the_fields_of_their_class() -> None:
    keys = {*loaded(CONF / "config.yaml")} - {"defaults", "hydra"}
    assert keys == {field.name for field in fields(TopLevel)} == {*registry.top_level_keys()}


def test_no_key_is_in_two_groups_by_accident() -> None:
    """One name for one thing: what two groups call alike is the seed."""
    owners: dict[str, set[str]] = {}
    for group, choice in CHOICES:
        for key in registry.choices(group)[choice]:
            owners.setdefault(key, set()).add(group)
    assert {key for key, groups in owners.items() if len(groups) > 1} == {"seed"}
