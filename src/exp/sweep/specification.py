"""Which runs a sweep has: what its description and what is typed on the command line make together.

Values are texts as one would type them: `1e-6`, `[100,50]`, `'a b'`, `null`.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from exp.errors import MISSING, InputError, listed, nearest, require, require_choice
from exp.expression import Condition, require_readable
from exp.override_text import meaning, value_text

RERUN = ("missing", "failed", "all")
FUSE = ("auto", "off")
SHARED = ("sweep", "task", "runs", "name", "tracker", "hydra")
"""What all runs of a sweep have in common."""

Parsed = Callable[[str, str], list[str]]
"""From a key and several values in one text, such as `1e-7,1e-6` or `glob(*)`, to the text of each."""
Axis = list[dict[str, str]]
"""What the runs of a sweep differ in, once: one key, or several that are taken together."""


@dataclass(kw_only=True)
class Part:
    """Settings that are described together: every combination of `grid` with the rows of `zip`, but for `exclude`."""

    grid: dict[str, Any] = field(default_factory=dict)
    zip: dict[str, Any] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.grid, self.zip = _flat("grid", self.grid), _flat("zip", self.zip)
        for name, described in (("grid", self.grid), ("zip", self.zip)):
            for key, values in described.items():
                require_sweepable(f"{name}.{key}", key)
                if isinstance(values, list | dict) and not values:
                    raise InputError(f"{name}.{key}", values, f"has no values; give some, or leave {key} out")
        _require_apart(self.grid, "grid", self.zip, "zip")
        require(isinstance(self.exclude, list), "exclude", self.exclude, "a list of conditions, such as [seed == 0]")
        for condition in self.exclude:
            require(isinstance(condition, str), "exclude", condition, "a condition, such as seed == 0")
            require_readable("exclude", condition)


@dataclass(kw_only=True)
class Sweep:
    """Which runs a sweep has, beyond what is typed with several values; and how they are run."""

    grid: dict[str, Any] = field(default_factory=dict)
    """Of every key its values, in a list, or in a text as it would be typed: every combination."""
    zip: dict[str, Any] = field(default_factory=dict)
    """Of every key its values, as many as of the others: the first of all, the second of all, …"""
    union: list[Any] = field(default_factory=list)
    """Parts with a grid, zip and exclude of their own, one after the other; each with what stands beside `union`."""
    exclude: list[str] = field(default_factory=list)
    """Conditions; a run for which one holds is left out."""
    repeats: int = 1
    """Each setting with so many seeds: seed, seed+1, …"""
    plan: bool = False
    """Show the plan and stop."""
    rerun: str = "failed"
    """What runs again: missing: what never ended; failed: what failed too; all: everything."""
    fail_fast: bool = False
    """Stop at the first failure."""
    fuse: Any = "auto"
    """Runs that differ in numbers only, as one program: auto: where that pays; off: never; a number: so many at most."""

    def __post_init__(self) -> None:
        require(self.repeats >= 1, "repeats", self.repeats, "a whole number >= 1")
        require_choice("rerun", self.rerun, RERUN)
        given, self.fuse = self.fuse, "off" if self.fuse is False else str(self.fuse)  # YAML's own reading of `off` is false
        at_most = re.fullmatch(r"\d+", self.fuse) and int(self.fuse) >= 2
        require(at_most or self.fuse in FUSE, "fuse", given, "auto, off, or how many runs at most, a whole number >= 2")
        whole = self.whole()
        for number, part in enumerate(self.parts()):
            for name, described in (("grid", part.grid), ("zip", part.zip)):
                _require_apart(described, f"union.{number}.{name}", whole.grid, "grid")
                _require_apart(described, f"union.{number}.{name}", whole.zip, "zip")

    def whole(self) -> Part:
        """What stands outside `union`."""
        return Part(grid=self.grid, zip=self.zip, exclude=self.exclude)

    def parts(self) -> list[Part]:
        """What stands in `union`. Raises `InputError` for what is no part."""
        return [_part(f"union.{number}", described) for number, described in enumerate(self.union)]


@dataclass(frozen=True)
class Setting:
    """What one run has of its own: the text of each value by its key; and the parts of `union` that it is in."""

    values: dict[str, str]
    parts: tuple[int, ...] = ()


def require_sweepable(shown: str, key: str) -> None:
    """Raise `InputError` for a key that all runs of a sweep have in common."""
    bare = key.lstrip("+~")
    if re.match(r"sweep\.(grid|zip)\.", bare):
        raise InputError(shown, MISSING, "takes its values in brackets, such as [1e-7,2e-7]")
    if re.split(r"[./@]", bare)[0] in SHARED:
        problem = "cannot be swept: all runs of a sweep have one folder, tracker, task and description, and are named by it"
        raise InputError(shown, MISSING, f"{problem}; give it one value")


def expand(
    sweep: Sweep, axes: Mapping[str, Sequence[str]], constants: Collection[str], seed: int, parsed: Parsed
) -> list[Setting]:
    """All settings of a sweep, the first axis slowest: grid, zip, a part's own, what else is typed, the seeds.

    `axes` are the keys that were typed with several values, `constants` those typed with one: what is typed takes the
    place of what is described. `seed` is the first of `repeats`. A setting in several parts is there once. Raises
    `InputError` for an axis without values or with one twice, unequal lengths, and seeds that are given twice.
    """
    typed = {key.lstrip("+"): (key, list(values)) for key, values in axes.items()}
    fixed = {key.lstrip("+") for key in constants}
    for key in typed:
        require_sweepable(key, key)
    found: dict[frozenset[tuple[str, str]], Setting] = {}
    parts = sweep.parts()
    for number, part in enumerate(parts or [Part()]):
        described = [
            *_axes("sweep.", sweep.whole(), typed, fixed, parsed),
            *_axes(f"sweep.union.{number}.", part, typed, fixed, parsed),
        ]
        used = {key.lstrip("+") for axis in described for key in axis[0]}
        described += [_axis(key, key, values) for name, (key, values) in typed.items() if name not in used]
        if sweep.repeats > 1:
            if "seed" in used or "seed" in typed:
                problem = "repeats give every setting seeds of their own, and seed has several values too; leave one of them"
                raise InputError("sweep.repeats", sweep.repeats, problem)
            described.append([{"seed": str(seed + repeat)} for repeat in range(sweep.repeats)])
        for combination in product(*described):
            values = {key: value for setting in combination for key, value in setting.items()}
            same = frozenset((key.lstrip("+"), meaning(value)) for key, value in values.items())
            before = found[same].parts if same in found else ()
            found[same] = Setting(values if same not in found else found[same].values, (*before, number) if parts else ())
    return list(found.values())


def excluded(sweep: Sweep, setting: Setting, row: Mapping[str, Any], names: Collection[str] | None = None) -> str | None:
    """The condition that leaves a setting out: one of the sweep, or else one of every part that it is in.

    `row` has the run's resolved values: the names of the choices, and `group.key`; `names` are the columns of all rows
    (default: of this one). Raises `InputError` for a condition about something else.
    """

    def holding(key: str, conditions: list[str]) -> str | None:
        known = row if names is None else names
        return next((text for text in conditions if Condition.parse(key, text, known).holds(row)), None)

    if (condition := holding("sweep.exclude", sweep.exclude)) is not None:
        return condition
    parts = sweep.parts()
    found = [holding(f"sweep.union.{number}.exclude", parts[number].exclude) for number in setting.parts]
    return found[0] if found and None not in found else None


def _part(key: str, described: Any) -> Part:
    require(isinstance(described, dict), key, described, "a part, such as {grid:{method:[numpy,tensor]}}")
    for name in described:
        if name not in (known := ("grid", "zip", "exclude")):
            raise InputError(f"{key}.{name}", MISSING, f"no such key of a part; nearest: {listed(nearest(str(name), known))}")
    for name in ("grid", "zip"):
        inner = described.get(name, {})
        require(isinstance(inner, dict), f"{key}.{name}", inner, "keys with their values, such as {seed:[0,1]}")
    try:
        return Part(**described)
    except InputError as error:
        raise error.under(key) from None


def _flat(name: str, nested: Mapping[Any, Any]) -> dict[str, Any]:
    """`optimizer: {lr: …}` as `optimizer.lr: …`."""

    def leaves(prefix: str, values: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, Mapping) and value:
                yield from leaves(f"{prefix}{key}.", value)
            else:
                yield f"{prefix}{key}", value

    flat: dict[str, Any] = {}
    for key, value in leaves("", nested):
        if key in flat:
            raise InputError(f"{name}.{key}", MISSING, "is given twice; leave one of them")
        flat[key] = value
    return flat


def _require_apart(described: Collection[str], name: str, other: Collection[str], other_name: str) -> None:
    if both := next((key for key in described if key in other), None):
        raise InputError(f"{name}.{both}", MISSING, f"is given in {other_name} too; leave one of them")


def _axes(
    prefix: str, part: Part, typed: Mapping[str, tuple[str, list[str]]], fixed: Collection[str], parsed: Parsed
) -> Iterator[Axis]:
    """The axes that a part describes, with what is typed in the place of what is described."""

    def texts(name: str, key: str, values: Any) -> tuple[str, list[str]]:
        if (bare := key.lstrip("+")) in typed:
            return typed[bare]
        if not isinstance(values, str):
            return key, [value_text(value) for value in (values if isinstance(values, list) else [values])]
        try:
            return key, parsed(key, values)
        except InputError as error:
            raise InputError(f"{prefix}{name}.{key}", error.value, error.problem) from None

    for key, values in part.grid.items():
        if key.lstrip("+") not in fixed:
            shown, (written, found) = f"{prefix}grid.{key}", texts("grid", key, values)
            yield _axis(shown, written, found)
    columns = [(key, *texts("zip", key, values)) for key, values in part.zip.items() if key.lstrip("+") not in fixed]
    if not columns:
        return
    lengths = {key: len(found) for key, _, found in columns}
    first = next(iter(lengths))
    if other := next((key for key in lengths if lengths[key] != lengths[first]), None):
        told = " and ".join(f"{key} has {lengths[key]}{' typed' if key in typed else ''}" for key in (first, other))
        raise InputError(f"{prefix}zip", MISSING, f"{told} values; give both the same number")
    names = [written for _, written, _ in columns]
    yield _distinct(f"{prefix}zip", [dict(zip(names, row, strict=True)) for row in zip(*(c[2] for c in columns), strict=True)])


def _axis(shown: str, key: str, values: Sequence[str]) -> Axis:
    return _distinct(shown, [{key: value} for value in values])


def _distinct(shown: str, axis: Axis) -> Axis:
    """The axis, unless it has no values, or one twice."""
    if not axis:
        raise InputError(shown, "[]", "has no values; give some, or leave it out")
    seen = set()
    for setting in axis:
        if (same := tuple(meaning(value) for value in setting.values())) in seen:
            told = ",".join(setting.values())
            raise InputError(shown, told, "is there twice; give every value once")
        seen.add(same)
    return axis
