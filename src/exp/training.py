"""How long a run is trained and in which batches: its steps, in blocks."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import ceil

import numpy as np

from exp.errors import InputError, require
from exp.methods.base import Block
from exp.seeds import generator

LONGEST_BLOCK = 100
"""Steps between two looks at the losses, at most: what a run that blew up still computes in vain."""


@dataclass(kw_only=True)
class Training:
    """How long and in which batches. Give `steps` or `epochs`. Cadences are in steps; null: ten evaluations, five logs.

    `batch_size` null is the whole training split in every step. `watch_finite` looks at the loss and the state after
    every step, to name the first that is not finite. `verify` adds the verdict on the method to the run.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    evaluate_every: int | None = None
    log_every: int | None = None
    watch_finite: bool = False
    verify: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("steps", "epochs", "batch_size", "evaluate_every", "log_every"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "a whole number >= 1, or null")
        if self.steps is None and self.epochs is None:
            raise InputError("steps", None, "training.epochs is null too; give one of them, such as training.steps=500")
        if self.steps is not None and self.epochs is not None:
            advice = "both are set; add training.steps=null to train by epochs, or training.epochs=null by steps"
            raise InputError("epochs", self.epochs, f"training.steps={self.steps}: {advice}")
        require(self.seed >= 0, "seed", self.seed, "a whole number >= 0")

    def check(self, samples: int) -> None:
        """Raise `InputError` for a batch larger than the training split of `samples` rows."""
        allowed = f"1 to {samples}, the training split; null for all of it"
        require(self.batch_size is None or self.batch_size <= samples, "batch_size", self.batch_size, allowed)

    def total_steps(self, samples: int) -> int:
        """Steps in all, for a training split of `samples` rows."""
        return self.steps or (self.epochs or 0) * ceil(samples / (self.batch_size or samples))

    def log_cadence(self, samples: int) -> int:
        return self.log_every or ceil(self.total_steps(samples) / 5)

    def evaluation_cadence(self, samples: int) -> int:
        return self.evaluate_every or ceil(self.total_steps(samples) / 10)

    def batches(self, samples: int) -> Iterator[np.ndarray | None]:
        """The rows of each step, (B,); None for all. Each epoch is a new permutation, its last batch may be ragged."""
        epoch = 0
        while True:
            if self.batch_size is None:
                yield None
                continue
            order = generator(self.seed, "training", epoch).permutation(samples)
            yield from np.split(order, range(self.batch_size, samples, self.batch_size))
            epoch += 1

    def blocks(self, samples: int) -> Iterator[Block]:
        """The run as blocks of steps of one batch size. The first step, and what a cadence ends, close a block."""
        batches = self.batches(samples)
        for span in self.spans(samples):
            rows = [batch for _, batch in zip(span, batches, strict=False) if batch is not None]
            yield Block(span.start, len(span), np.stack(rows) if rows else None)

    def lengths(self, samples: int) -> list[int]:
        """Those of its blocks of several steps, the most frequent first, as far as a thousand blocks show."""
        counts = Counter(len(span) for span in islice(self.spans(samples), 1000))
        return [length for length, _ in counts.most_common() if length > 1]

    def spans(self, samples: int) -> Iterator[range]:
        """The steps of each block."""
        total, size = self.total_steps(samples), self.batch_size or samples
        longest = 1 if self.watch_finite else LONGEST_BLOCK
        cadences = (self.log_cadence(samples), self.evaluation_cadence(samples))
        per_epoch, whole = -(-samples // size), samples // size  # batches, and those that are not ragged
        first = 0
        while first < total:
            within = first % per_epoch
            to_ragged = whole - within if whole < per_epoch else total  # a ragged last batch is a block of its own
            to_cadence = min(cadence - first % cadence for cadence in cadences)
            steps = min(1 if first == 0 else total - first, longest, to_cadence, to_ragged or 1)
            yield range(first, first + steps)
            first += steps
