"""What the runs of a program are trained on: their data at a place, and their mini-batches, block by block."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from exp.arrays import Array, Place, put
from exp.methods.base import Block
from exp.problems import Data
from exp.training import Training


class Feed:
    """The data of K runs whose trainings differ in the seed alone, and whose data have the same shapes.

    `x` and `y` are (N, columns) where all runs share one data set. Of S sets, mini-batches are taken from all of them, one
    below the other, (S·N, columns); whole splits are stacked, (K, N, columns), as `valid_x` is.
    """

    def __init__(self, trainings: Sequence[Training], data: Sequence[Data], place: Place):
        self._trainings, self.samples = trainings, len(data[0].train.inputs)
        sets = {id(each): each for each in data}
        if len(sets) > 1 and trainings[0].batch_size is not None:
            first = {key: number * self.samples for number, key in enumerate(sets)}
            self._first_rows = [first[id(each)] for each in data]
            shown = np.concatenate
            chosen = list(sets.values())
        else:
            self._first_rows = [0] * len(data)
            shown = np.stack if len(sets) > 1 else lambda arrays: arrays[0]
            chosen = list(data)
        self.x: Array = put(shown([each.train.inputs for each in chosen]), place)
        self.y: Array = put(shown([each.train.targets for each in chosen]), place)
        valid = [each.valid.inputs for each in data if each.valid]
        self.valid_x: Array = put(valid[0] if len(sets) == 1 else np.stack(valid), place) if valid else None

    def blocks(self) -> Iterator[tuple[Block, list[str | None]]]:
        """The blocks of steps of the program, each with the digest of all rows that a run, in its own data set, has had with
        it; None: they are whole splits."""
        of_seed = {training.seed: training.blocks(self.samples) for training in self._trainings}
        digests = {seed: hashlib.sha256() for seed in of_seed}
        for blocks in zip(*of_seed.values(), strict=True):
            rows_of = {seed: block.rows for seed, block in zip(of_seed, blocks, strict=True)}
            shown: dict[int, str | None] = dict.fromkeys(rows_of)
            for seed, rows in rows_of.items():
                if rows is not None:
                    digests[seed].update(_told(rows))
                    shown[seed] = digests[seed].hexdigest()
            block = self._together(blocks[0], rows_of)
            yield block, [shown[training.seed] for training in self._trainings]

    def _together(self, first: Block, rows_of: Mapping[int, np.ndarray | None]) -> Block:
        """The block of all runs, whose `first` is that of one of them: every mini-batch once, however many runs have it."""
        kinds = list(zip(self._first_rows, (training.seed for training in self._trainings), strict=True))
        every = dict.fromkeys(kinds)
        placed = {(start, seed): start + rows for start, seed in every if (rows := rows_of[seed]) is not None}
        if len(placed) < 2:
            return replace(first, rows=next(iter(placed.values()), None))
        number = {kind: place for place, kind in enumerate(placed)}
        of = None if len(placed) == len(kinds) else np.array([number[kind] for kind in kinds])
        return replace(first, rows=np.stack(list(placed.values())), of=of)


def _told(rows: np.ndarray) -> bytes:
    """Of the rows of each batch, (steps, B): how many they are, a space, and the rows as little-endian 64-bit integers."""
    many = np.frombuffer(f"{rows.shape[1]} ".encode(), np.uint8)
    numbers = np.ascontiguousarray(rows, "<i8").view(np.uint8)
    return np.hstack([np.broadcast_to(many, (len(rows), len(many))), numbers]).tobytes()
