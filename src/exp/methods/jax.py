"""method=jax: a block of steps as one program, `jax.jit` over `jax.lax.scan`, its gradient by `jax.grad` (`has_aux`).

Needs the extra: pip install 'exp[jax]'.
"""

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from threadpoolctl import threadpool_info

from exp.arrays import Array, Place, gather
from exp.errors import InputError
from exp.methods.base import ArrayMethod, Block, Formulas
from exp.network import forward
from exp.state import State

DETERMINISTIC = "--xla_gpu_deterministic_ops"
"""With it XLA does not choose a GPU's kernels by timing them: every process has the same, and their sums the same bits."""

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


@dataclass(kw_only=True)
class Jax(ArrayMethod):
    """A training step by XLA, of the same formulas. The first block of each length and batch shape is compiled.

    A run of one thread uses one. For more jax has one pool in a process, of the size that the first run there asks for.
    """

    library = "jax.numpy"
    leading_axes = True

    def unsupported(self, *, device: str, precision: str, **chosen: Any) -> str | None:
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
        return super().unsupported(device=device, precision=precision, **chosen)

    def start(self, formulas: Formulas, state: State, place: Place) -> None:
        threads = max(pool["num_threads"] for pool in threadpool_info())  # those of the run: BLAS has been told
        # Read once, when jax first computes; for a run of one thread it is not used.
        pool = int(os.environ.setdefault("NPROC", str(threads if threads > 1 else os.cpu_count() or 1)))
        if threads not in (1, pool):
            raise InputError(
                "threads", threads, f"jax has a pool of {pool} in this process; use 1 or {pool}, or a run by itself"
            )
        _prepare_gpu()
        import jax

        self.options = {"xla_cpu_multi_thread_eigen": threads > 1} if place.device == "cpu" else {}
        jax.config.update("jax_enable_x64", True)  # else it would make float32 of float64, and int32 of the count
        jax.config.update("jax_default_matmul_precision", "highest")  # else a GPU rounds the operands of float32
        kind, _, index = place.device.partition(":")
        jax.config.update("jax_default_device", jax.devices(kind)[int(index or 0)])
        super().start(formulas, state, place)
        self.inputs, self.executables = self.numbers(place), {}

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
        return self._trained(x, y, block.placed(place), block.steps)

    def _trained(self, x: Array, y: Array, rows: Array | None, steps: int) -> Array:
        """The losses of a block of steps."""
        arguments = (self.state, self.inputs, x, y, rows)
        shape = (x.shape, y.shape, None if rows is None else rows.shape, steps)
        if shape not in self.executables:
            self.executables[shape] = self._compiled(arguments, steps)
        self.state, losses = self.executables[shape](*arguments)
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

    def _compiled(self, arguments: tuple[Any, ...], steps: int) -> Any:
        import jax

        lowered = jax.jit(self._block, static_argnames="steps").lower(*arguments, steps=steps)
        text = f"{self.options} {lowered.as_text()}"
        if text not in _executables:
            _executables[text] = lowered.compile(self.options)
        return _executables[text]


def _prepare_gpu() -> None:
    """What jax reads once, when it first looks for devices, of which a GPU is one whatever the run's is."""
    if any(importlib.util.find_spec(plugin) for plugin in PLUGINS):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else it takes most of the GPU from all others
        if DETERMINISTIC not in (flags := os.environ.get("XLA_FLAGS", "")):
            os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}=true".strip()


_executables: dict[str, Any] = {}
"""What this process has compiled, by their text."""
