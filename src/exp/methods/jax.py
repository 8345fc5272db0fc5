"""method=jax: a block of steps as one program, `jax.jit` over `jax.lax.scan`, its gradient by `jax.value_and_grad`.

Needs the extra: pip install 'exp[jax]'.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from threadpoolctl import threadpool_info

from exp.arrays import Array, Place, gather, put
from exp.errors import InputError
from exp.losses import Loss
from exp.methods.base import ArrayMethod, Block, Formulas
from exp.network import Network, forward
from exp.optimizers import Optimizer
from exp.state import State

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


@dataclass(kw_only=True)
class Jax(ArrayMethod):
    """A training step by XLA, of the same formulas. The first block of each length and batch shape is compiled.

    jax has one pool of threads in a process, made when it first computes: as many as the first run there may use.
    """

    library = "jax.numpy"

    def unsupported(self, *, device: str, precision: str, network: Network, loss: Loss, optimizer: Optimizer) -> str | None:
        if importlib.util.find_spec("jax") is None:
            return (
                "jax is not installed; pip install 'exp[jax]', or use method=functional, which is as near to it as torch comes"
            )
        if precision not in ("fp32", "fp64"):
            return "method=jax computes in fp32 and fp64; use one of them, or method=tensor"
        if device == "mps":
            return "method=jax computes on cpu and cuda; use device=cpu"
        if device == "cuda" and not any(importlib.util.find_spec(plugin) for plugin in PLUGINS):
            return "jax is installed for the CPU only; use device=cpu, or pip install 'jax[cuda12]'"
        chosen: Any = {"network": network, "loss": loss, "optimizer": optimizer}
        return super().unsupported(device=device, precision=precision, **chosen)

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        # What controls BLAS has set the run's threads; XLA's CPU client asks this variable, once.
        threads = max(pool["num_threads"] for pool in threadpool_info())
        os.environ.setdefault("NPROC", str(threads))
        import jax

        if os.environ["NPROC"] != str(threads):
            raise InputError("threads", threads, f"jax has {os.environ['NPROC']} in this process; start this run by itself")
        jax.config.update("jax_enable_x64", True)  # else it would make float32 of float64, and int32 of the count
        jax.config.update("jax_default_matmul_precision", "highest")  # else a GPU rounds the operands of float32
        kind, _, index = place.device.partition(":")
        jax.config.update("jax_default_device", jax.devices(kind)[int(index or 0)])
        super().start(formulas, state, place)
        self.inputs, self.programs = self.numbers(place), {}

    def transition(self, state: State, x: Array, y: Array) -> tuple[Array, State]:
        import jax

        def objective(params: dict[str, Array]) -> tuple[Array, Array]:
            """The sum of the losses of K runs, whose gradient is the K gradients, and the losses themselves."""
            prediction = forward(params, x, self.activation)[1][-1]  # forward
            loss = self.loss.value(prediction, y)  # loss
            return loss.sum(), loss

        grads, loss = jax.grad(objective, has_aux=True)(state.params)  # backward
        return loss, self.update(state, grads)  # update

    def step(self, x: Array, y: Array) -> Array:
        return self._trained(x, y, None, 1)[0]

    def steps(self, x: Array, y: Array, block: Block, place: Place) -> Array:
        rows = None if block.rows is None else put(block.rows, place).swapaxes(0, -2)  # (steps, B) or (steps, K, B)
        return self._trained(x, y, rows, block.steps)

    def _trained(self, x: Array, y: Array, rows: Array | None, steps: int) -> Array:
        """The losses of a block of steps."""
        arguments = (self.state, self.inputs, x, y, rows)
        shape = (x.shape, y.shape, None if rows is None else rows.shape, steps)
        if shape not in self.programs:
            self.programs[shape] = _compiled(self._block, arguments, steps)
        self.state, losses = self.programs[shape](*arguments)
        return losses

    def _block(
        self, state: State, numbers: dict[str, Array], x: Array, y: Array, rows: Array | None, *, steps: int
    ) -> tuple[State, Array]:
        """The state after a block of steps and its losses, (steps,) or (steps, K)."""
        import jax

        def one(state: State, batch: Array | None) -> tuple[State, Array]:
            loss, after = self.transition(state, *((x, y) if batch is None else (gather(x, batch), gather(y, batch))))
            return after, loss

        with self.given(numbers):
            return jax.lax.scan(one, state, rows, length=steps)


_programs: dict[str, Any] = {}
"""The programs of this process by their text."""


def _compiled(block: Callable[..., Any], arguments: tuple[Any, ...], steps: int) -> Any:
    import jax

    lowered = jax.jit(block, static_argnames="steps").lower(*arguments, steps=steps)
    text = lowered.as_text()
    if text not in _programs:
        _programs[text] = lowered.compile()
    return _programs[text]
