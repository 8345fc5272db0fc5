"""Which runs are trained as one program, and how many at once.

Together go runs that differ in numbers only: seeds, initial weights, the optimizer's numbers, and hidden widths, for units
that are padded with zeros stay zero under every update: f(0) = 0 lets nothing out of them, zero weights let no gradient in.

Stacked, K runs cost each operation's overhead once, but their numbers pass through the cache in every step. Measured on a
CPU: a gain as long as they stay in it, a loss beyond (docs/sweeps.md). So `auto` takes as many as fit into CACHE_BYTES
there, none where not even LEAST do; on a GPU as many as fit into half of its free memory, at most MOST.
"""

import json
import resource
from collections.abc import Hashable, Sequence
from itertools import pairwise

import numpy as np

from exp.activations import ACTIVATIONS
from exp.experiment import Experiment
from exp.memory import free_bytes
from exp.methods.base import Wrapper
from exp.problems import Data
from exp.tasks.base import Group

CACHE_BYTES = 4 * 2**20
LEAST = 8
MOST = 1024
NUMBERS = ("lr", "weight_decay", "momentum", "betas", "eps")
"""The shipped optimizers' numbers, all of which are among their `constants`."""
OFF, AUTO = "off", "auto"


def groups(runs: Sequence[tuple[Experiment, Data]], fuse: str, *, elsewhere: bool = False, workers: int = 1) -> list[Group]:
    """Every run in one group, in the order of their first. `fuse` is "auto", "off" or how many at most.

    `elsewhere`: they are trained on machines whose memory is not known here; `workers`: so many groups at once, if there
    are as many.
    """
    kinds: dict[Hashable, list[int]] = {}
    alone: list[Group] = []
    for number, (experiment, data) in enumerate(runs):
        reason = "sweep.fuse=off" if fuse == OFF else unfused(experiment)
        if reason:
            alone.append(Group([number], reason))
        else:
            kinds.setdefault(_kind(experiment, data), []).append(number)
    found = [
        group for members in kinds.values() for group in _split(runs, members, fuse, elsewhere, -(-len(members) // workers))
    ]
    return sorted([*alone, *found], key=lambda group: group.runs[0])


def unfused(experiment: Experiment) -> str | None:
    """Why a run cannot be a part of a program; None where it can."""
    if not experiment.method.stacks:
        return f"method={experiment.choices['method']} trains one run at a time"
    method = experiment.method
    while isinstance(method, Wrapper):
        method = method.inner
    parts = {"method": method, "loss": experiment.loss}
    for group, part in (parts | {"optimizer": experiment.optimizer}).items():
        if not type(part).__module__.startswith("exp.") and not vars(type(part)).get("leading_axes"):
            return f"{group}={experiment.choices[group]} does not say leading_axes = True, that it knows stacks"
    return None


def member_bytes(experiment: Experiment, data: Data, *, own_data: bool) -> int:
    """What a step of a run goes through: weights, their gradients and temporaries, slots; activations and their gradients;
    and its batch, where that is its own."""
    rows, inputs = data.train.inputs.shape
    batch = experiment.training.batch_size or rows
    widths = experiment.network.widths(inputs, data.train.targets.shape[1])
    weights = sum((rows + experiment.network.bias) * columns for rows, columns in pairwise(widths))
    numbers = weights * (3 + len(experiment.optimizer.slot_names)) + batch * 2 * sum(widths[1:])
    return (numbers + own_data * batch * (widths[0] + widths[-1])) * np.dtype(experiment.precision.dtype).itemsize


def _kind(experiment: Experiment, data: Data) -> Hashable:
    """What runs of one program have in common."""
    config, optimizer = experiment.config, experiment.optimizer
    training = {key: value for key, value in config["training"].items() if key != "seed"}
    rule = {key: repr(value) for key, value in vars(optimizer).items() if key not in NUMBERS}
    network = experiment.network
    pads = not np.any(ACTIVATIONS[network.activation].value(np.zeros(1)))
    shape = [len(network.hidden)] if pads else network.hidden
    splits = [data.train, *([data.valid] if data.valid else [])]
    return json.dumps(
        [
            [config[part] for part in ("method", "device", "precision", "loss", "threads")],
            [type(optimizer).__qualname__, rule, training],
            [type(network).__qualname__, network.activation, network.bias, shape],
            [[split.inputs.shape, split.targets.shape] for split in splits],
            [data.metric, config["runs"]],
        ],
        sort_keys=True,
    )


def _split(runs: Sequence[tuple[Experiment, Data]], members: list[int], fuse: str, elsewhere: bool, share: int) -> list[Group]:
    """Runs of one kind in groups of a `share` at most, the widest networks first, so that little is padded."""
    own_data = len({id(runs[number][1]) for number in members}) > 1
    sizes = {number: member_bytes(*runs[number], own_data=own_data) for number in members}
    data_size = own_data * _data_bytes(*runs[members[0]])
    left = sorted(members, key=lambda number: (-sizes[number], runs[number][0].network.hidden, number))
    found = []
    while left:
        most, rule = _most(runs[left[0]][0], sizes[left[0]], data_size, fuse, elsewhere=elsewhere)
        chosen, left = sorted(left[: min(most, share)]), left[min(most, share) :]
        if len(chosen) == 1 and most > 1:
            rule = "as many at once as there are" if share == 1 and len(members) > 1 else "no other is like it, or left"
        found.append(Group(chosen, rule))
    return found


def _data_bytes(experiment: Experiment, data: Data) -> int:
    """All rows of a run's own data set, and the predictions of its validation split."""
    splits = [data.train, *([data.valid] if data.valid else [])]
    numbers = sum(split.inputs.size + 2 * split.targets.size for split in splits)
    numbers += len(splits[-1].inputs) * sum(experiment.network.hidden)
    return numbers * np.dtype(experiment.precision.dtype).itemsize


def _most(experiment: Experiment, size: int, data_size: int, fuse: str, *, elsewhere: bool) -> tuple[int, str]:
    """How many runs of a size go together, and why."""
    on_cpu = experiment.device.name in ("cpu", "auto") or experiment.method.library == "numpy"
    free = None if elsewhere else free_bytes(experiment.device.torch_name)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2  # of every run of a program one is open
    fitting = max(1, min(MOST, files, MOST if free is None else int(free / 2 / (size + data_size))))
    if fuse != AUTO:
        return min(int(fuse), fitting), f"at most {fuse}: sweep.fuse={fuse}"
    if not on_cpu:
        return fitting, f"at most {MOST}" + (", as many as half of the free memory holds" if free else "")
    in_cache = CACHE_BYTES // size
    if in_cache < LEAST:
        return 1, f"not even {LEAST} fit into {CACHE_BYTES >> 20} MiB of cache, stacked they would be slower"
    return min(in_cache, fitting), f"as many as {CACHE_BYTES >> 20} MiB of cache hold"
