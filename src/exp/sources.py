"""The source files that define what a class computes: its own and, followed through their imports, those beside them."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
"""The folder that holds the package `exp`: of what lies there only `exp` is ours."""


def sources(modules: Iterable[str], *, alone: Iterable[str] = ()) -> dict[str, str]:
    """SHA-256 of every file that these modules are made of, by its name below the folder it is imported from.

    Of those in `alone` nothing is followed.

    Imports are followed within the package, and for a module of the user's to all that is no installed package, whose
    versions are another matter. Read from the files, not from what happens to be imported: every process finds the same.
    """
    pending = [file for module in modules if (file := _file(module)) is not None]
    named: dict[str, str] = {}
    seen: set[Path] = set()
    for file, folder in (file for module in alone if (file := _file(module)) is not None):
        _, name, named[name] = _read(file, folder, file.stat().st_mtime_ns)
    while pending:
        file, folder = pending.pop()
        if file not in seen:
            seen.add(file)
            imported, name, named[name] = _read(file, folder, file.stat().st_mtime_ns)
            pending += imported
    return dict(sorted(named.items()))


def modules_of(kinds: Iterable[type]) -> list[str]:
    """The modules in which these classes and their parents are defined."""
    parents = {parent.__module__ for kind in kinds for parent in kind.__mro__}
    return sorted(parents - {"builtins", "abc", "typing"})


def kinds_of(part: Any) -> Iterator[type]:
    """The class of a part and those of the parts that it was made with."""
    yield type(part)
    for field in fields(part):
        if is_dataclass(inner := getattr(part, field.name)):
            yield from kinds_of(inner)


def _file(module: str) -> tuple[Path, Path] | None:
    """The file of a module and the folder it is imported from; None for what has no source."""
    known = getattr(sys.modules.get(module), "__file__", None)
    if known is None:
        spec = importlib.util.find_spec(module)
        known = spec.origin if spec else None
    if known is None or not known.endswith(".py"):
        return None
    return _located(known, module.count("."))


@cache
def _located(name: str, dots: int) -> tuple[Path, Path]:
    file = Path(name)
    return file, file.parents[dots + (file.name == "__init__.py")]


@cache
def _read(file: Path, folder: Path, changed: int) -> tuple[list[tuple[Path, Path]], str, str]:
    """What a file imports from below `folder` (and of `exp`), its name there, its SHA-256; read again when it has `changed`."""
    content = file.read_bytes()
    found = []
    for name in _names(ast.parse(content), file, folder):
        parts = name.split(".")
        for root in _roots(folder, parts[0]):
            before = len(found)
            for length in range(1, len(parts) + 1):  # importing a.b.c runs a and a.b first
                path = root.joinpath(*parts[:length])
                if (source := path.with_suffix(".py")).is_file() or (source := path / "__init__.py").is_file():
                    found.append((source, root))
            if len(found) > before:
                break
    own = [(source, root) for source, root in found if source != _ROOT / "exp" / "__init__.py"]  # which does nothing itself
    return own, str(file.relative_to(folder)), hashlib.sha256(content).hexdigest()


def _roots(folder: Path, package: str) -> list[Path]:
    """Where a module in `folder` may import a package of ours or of the user's from."""
    if package == "exp":
        return [_ROOT]
    if folder == _ROOT:
        return []
    installed = (sys.prefix, sys.base_prefix)
    others = [Path(path).absolute() for path in sys.path]
    ours = [path for path in others if path != _ROOT and "site-packages" not in path.parts]
    return [folder, *(path for path in ours if not any(path.is_relative_to(prefix) for prefix in installed))]


def _names(tree: ast.Module, file: Path, folder: Path) -> Iterator[str]:
    """The dotted names that a module imports; of `from a import b` it is `a.b`, for b may be a module."""
    pending: list[ast.AST] = [tree]
    while pending:  # statements alone: an expression imports nothing, and has most of the nodes
        node = pending.pop()
        for block in ("body", "orelse", "handlers", "finalbody", "cases"):
            pending += getattr(node, block, ())
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = file.relative_to(folder).parts[: -node.level] if node.level else ()
            parent = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{parent}.{alias.name}" if parent else alias.name for alias in node.names)
