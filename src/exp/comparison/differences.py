"""What differs between runs apart from the declared factors.

A declared factor may change what depends on it: a seed the data, a device the hardware. So each quantity must be constant
among the runs that agree in the declared factors on which it may depend.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from exp.comparison.trials import Trial
from exp.errors import InputError, listed, nearest
from exp.naming import flat, is_seed

PRESETS = ("experiment", "debug")
"""Groups whose choices change other groups."""

DEPENDS = {
    "data": ("seed", "problem"),
    "weights": ("seed", "problem", "network"),
    "batches": ("seed", "problem", "training"),
    "precision": ("precision",),
    "threads": ("threads",),
    "versions": (),
    "code": (),
    "hardware": ("device",),
    "configuration": (),
}
"""The kinds of differences, and the roots of the factors on which each may depend."""


@dataclass(frozen=True)
class Difference:
    """Something that differs and was not declared. `values`: each value, and the names of the runs that have it."""

    kind: str
    what: str
    values: dict[str, list[str]]

    def __str__(self) -> str:
        parts = [f"{value} in {_some(names)}" for value, names in self.values.items()]
        what = self.kind if self.what == self.kind else f"{self.kind} ({self.what})"
        return f"{what}: {'; '.join(parts[:4])}{f'; and {len(parts) - 4} more' if len(parts) > 4 else ''}"


def differences(trials: Sequence[Trial], declared: Sequence[str], *, planned: bool) -> list[Difference]:
    """The undeclared differences, in the order of `DEPENDS`. `planned`: the runs are one sweep's, whose configurations
    should differ in nothing but its factors."""
    begun = [trial for trial in trials if trial.environment]
    with_sources = bool(begun) and all(trial.environment.get("sources") for trial in begun)
    readings = [dict(_quantities(trial, with_sources=with_sources)) for trial in begun]
    if planned:
        for trial, reading in zip(begun, readings, strict=True):
            reading |= {("configuration", key): value for key, value in _uncovered(trial, declared)}
    found = []
    for kind, what in sorted(
        {key: None for reading in readings for key in reading}, key=lambda key: list(DEPENDS).index(key[0])
    ):
        if kind == "configuration" or not all(_same(reading, readings[0], (kind, what)) for reading in readings):
            relevant = [key for key in declared if key.partition(".")[0] in (*DEPENDS[kind], *PRESETS) or _seeds(key, kind)]
            found += _within_groups(kind, what, relevant, begun, readings)
    return found


def require_kinds(key: str, kinds: Sequence[str]) -> None:
    """Raise `InputError` for the name of a difference that there is not."""
    for name in kinds:
        if name not in DEPENDS:
            raise InputError(
                key, f"[{','.join(kinds)}]", f"{name} is no kind of difference; choose {listed(nearest(name, DEPENDS))}"
            )


def require_allowed(found: Sequence[Difference], allow: Sequence[str]) -> None:
    """Raise `InputError` (key "allow") for a difference of a kind that is not allowed."""
    if refused := [difference for difference in found if difference.kind not in allow]:
        kinds = list(dict.fromkeys([*allow, *(difference.kind for difference in refused)]))
        said = " | ".join(map(str, refused[:3])) + (f" | and {len(refused) - 3} more" if len(refused) > 3 else "")
        problem = f"refused, for the runs differ in more than the declared factors: {said}"
        advice = f"to compare them all the same: compare.allow=[{','.join(kinds)}]"
        raise InputError("allow", f"[{','.join(allow)}]", f"{problem}; {advice}")


def code_of(environment: dict[str, Any], *, with_sources: bool) -> dict[str, str]:
    """The digests of the files that define a run; or, where they were not recorded, the commits of clean checkouts."""
    if with_sources:
        return {name: digest[:12] for name, digest in environment["sources"].items()}
    commits = {name: environment.get(name) or {} for name in ("git_of_exp", "git")}
    return {
        {"git_of_exp": "commit of exp", "git": "commit here"}[
            name
        ]: f"{git['commit'][:12]}{' and changes' * bool(git.get('dirty'))}"
        for name, git in commits.items()
        if git.get("commit")
    }


def _quantities(trial: Trial, *, with_sources: bool) -> Iterator[tuple[tuple[str, str], str]]:
    """What a run has of each quantity: ((kind, what), value). What it has not is not compared."""
    environment, conditions = trial.environment, trial.environment.get("conditions", {})
    digests = trial.status.get("digests", {})
    for kind, name in (("data", "data"), ("weights", "weights"), ("batches", "rows")):
        if digests.get(name) and (name != "rows" or trial.state == "finished"):
            yield (kind, kind), digests[name][:12]
    yield ("precision", "precision"), trial.choices.get("precision", "–")
    for name in ("tf32", "autocast"):
        if name in conditions:
            yield ("precision", name), str(conditions[name]).lower()
    if "threads" in trial.config:
        yield ("threads", "threads"), str(trial.config["threads"])
    if "torch_threads" in conditions:
        yield ("threads", "torch"), str(conditions["torch_threads"])
    pools: dict[str, set[int]] = {}
    for pool in conditions.get("threads", []):
        pools.setdefault(pool["internal_api"], set()).add(pool["num_threads"])
    yield from ((("threads", name), listed(map(str, sorted(counts)))) for name, counts in pools.items())
    for name, version in environment.get("versions", {}).items():
        yield ("versions", name), str(version)
    if environment.get("platform"):
        yield ("versions", "operating system"), environment["platform"]
    for name in ("cpu", "cores"):
        if environment.get(name) is not None:
            yield ("hardware", name), str(environment[name])
    for name, value in (environment.get("gpu") or {}).items():
        yield ("hardware", f"gpu {name}"), str(value)
    yield ("hardware", "device"), trial.choices.get("device", "–")
    yield from ((("code", name), value) for name, value in code_of(environment, with_sources=with_sources).items())


def _uncovered(trial: Trial, declared: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The configuration that no declared factor covers, and no other kind of difference."""
    others = ("name", "runs", "tracker", "task", "threads", "precision", "device", "compare", "repeat", "verify")
    if any(key.partition(".")[0] in PRESETS for key in declared):
        return
    for key, value in flat(trial.config):
        covered = any(key == factor or key.startswith(f"{factor}.") for factor in declared)
        if not covered and key.partition(".")[0] not in others and not is_seed(key):
            yield key, str(value)


def _same(reading: dict[Any, str], other: dict[Any, str], key: Any) -> bool:
    return reading.get(key) == other.get(key)


def _seeds(key: str, kind: str) -> bool:
    """Whether a seed may change this kind: training.seed the batches, not the data."""
    return is_seed(key) and key.partition(".")[0] in DEPENDS[kind]


def _within_groups(
    kind: str, what: str, relevant: Sequence[str], trials: Sequence[Trial], readings: Sequence[dict[Any, str]]
) -> list[Difference]:
    """The difference inside the first group of runs, equal in the `relevant` factors, that has one; empty if none has."""
    groups: dict[str, dict[str, list[str]]] = {}
    for trial, reading in zip(trials, readings, strict=True):
        if (kind, what) in reading:
            group = repr([trial.factors.get(key) for key in relevant])
            groups.setdefault(group, {}).setdefault(reading[kind, what], []).append(trial.name)
    return [Difference(kind, what, values) for values in groups.values() if len(values) > 1][:1]


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
