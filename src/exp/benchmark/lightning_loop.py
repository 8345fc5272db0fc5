"""The peer `lightning`: `torch.nn` layers and a `torch.optim` optimizer in a LightningModule, trained by `Trainer.fit`.

One fit lasts as long as the method: it runs in a thread of its own, and waits for a batch between timed blocks. So what a block
takes is Lightning's loop, and what a fit takes to begin and end is not in it.
"""

import logging
import queue
import threading
import warnings
from dataclasses import dataclass
from typing import Any

from exp.arrays import Array, Place, gather, stack
from exp.methods.base import Block, Formulas
from exp.methods.module import Module
from exp.state import State

ENDLESS = 10**9


@dataclass(kw_only=True)
class LightningLoop(Module):
    """Every loss is kept, as `self.log` would be told it; no logger, no progress bar, no checkpoints."""

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        super().start(formulas, state, place)
        self.batches: queue.Queue[tuple[Array, Array]] = queue.Queue()
        self.done: queue.Queue[Array | BaseException] = queue.Queue()
        self.fit = threading.Thread(target=self._fit, args=(place,), daemon=True)

    def step(self, x: Array, y: Array) -> Array:
        self._give(x, y)
        return self._loss()

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        rows = block.placed(place)
        for step in range(block.steps):
            self._give(*((x, y) if rows is None else (gather(x, rows[step]), gather(y, rows[step]))))
        return stack([self._loss() for _ in range(block.steps)])

    def _give(self, x: Array, y: Array) -> None:
        if not self.fit.ident:
            self.fit.start()
        self.batches.put((x, y))

    def _loss(self) -> Array:
        if isinstance(found := self.done.get(), BaseException):
            raise found
        return found

    def _fit(self, place: Place) -> None:
        """In the thread: fit on what is put into `batches`, for good."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of few workers, of no validation, of no logger
                trainer, module, loader = _parts(self, place)
                trainer.fit(module, loader)
        except BaseException as error:
            self.done.put(error)


def _parts(method: LightningLoop, place: Place) -> tuple[Any, Any, Any]:
    """The trainer, the LightningModule and the loader."""
    import torch
    from lightning.pytorch import LightningModule, Trainer  # pyright: ignore[reportMissingImports]  (an extra)

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("lightning")]:
        logging.getLogger(name).setLevel(logging.ERROR)  # else it says what accelerators there are, and advertises

    class Loop(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = method.model

        def training_step(self, batch: tuple[Array, Array], number: int) -> Array:
            x, y = batch
            return method.loss(self.model(x), y, **method.loss_arguments)

        def configure_optimizers(self) -> Any:
            return method.optimizer

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            method.count += 1
            method.done.put(outputs["loss"].detach())

    class Batches(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return ENDLESS

        def __getitem__(self, number: int) -> tuple[Array, Array]:
            return method.batches.get()

    kind = place.device.partition(":")[0]
    index = int(place.device.partition(":")[2] or 0)
    trainer = Trainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=[index] if kind == "cuda" else 1,
        max_epochs=1,
        precision="64-true" if place.dtype == "float64" else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return trainer, Loop(), torch.utils.data.DataLoader(Batches(), batch_size=None, shuffle=False)
