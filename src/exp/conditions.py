"""The conditions of a run: threads, the precision of products, determinism.

They are set for its duration and recorded as they really were. They are the whole process's: threads take turns.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from exp.environment import thread_pools
from exp.precisions import Precision

_held = threading.RLock()


@contextmanager
def controlled(threads: int, library: str, precision: Precision, device: str) -> Iterator[dict[str, Any]]:
    """Compute with `threads` threads in BLAS and torch, products in `precision`, deterministically. Yields what was set.

    `library` is "torch" or another, whose own settings are the method's to make; `device` as torch names it. Overflow is
    silent in between: a loss that is no longer finite is the loop's to report.
    """
    with _held, thread_pools().limit(limits=threads), np.errstate(all="ignore"):
        if library != "torch":
            yield {"threads": _blas_threads()}
            return
        with _torch_controlled(threads, precision.operands, device) as torch_conditions:
            yield {"threads": _blas_threads()} | torch_conditions


def _blas_threads() -> list[dict[str, Any]]:
    """The thread count of every loaded BLAS and OpenMP library."""
    return [{key: pool[key] for key in ("internal_api", "version", "num_threads")} for pool in thread_pools().info()]


@contextmanager
def _torch_controlled(threads: int, operands: str, device: str) -> Iterator[dict[str, Any]]:
    import os

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what determinism needs of cuBLAS
    threads_before, deterministic_before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms(True), which imports torch._inductor: 1 s
    try:
        # Streams, events and graphs that name no GPU are of the current one.
        current = torch.cuda.device(device) if device.startswith("cuda") else nullcontext()
        with (
            current,
            _tf32(operands == "tfloat32") as tf32,
            _autocast(operands == "bfloat16", device) as autocast,
            _whole_sums() as sums,
        ):
            deterministic = torch.are_deterministic_algorithms_enabled()
            products = {"tf32": tf32, "autocast": autocast, "sums_in_bf16": sums}
            yield {"torch_threads": torch.get_num_threads(), **products, "deterministic": deterministic}
    finally:
        torch.set_num_threads(threads_before)
        torch.set_deterministic_debug_mode(deterministic_before)


@contextmanager
def _autocast(enabled: bool, device: str) -> Iterator[str | None]:
    """Products of float32 in bfloat16, or not. Yields the type that they are in, None for their own."""
    import torch

    kind = device.partition(":")[0]
    # Without the cache: it would keep the casts of weights that an update has overwritten since.
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False):
        yield str(torch.get_autocast_dtype(kind)).removeprefix("torch.") if torch.is_autocast_enabled(kind) else None


@contextmanager
def _whole_sums() -> Iterator[bool]:
    """Sums of products of bfloat16 in float32. Yields whether cuBLAS may still add parts of a sum in bfloat16.

    By default it may, and does so of one run at the tutorial's size: its gradients were 3 % from those of the run in a stack.
    """
    import torch

    switch = torch.backends.cuda.matmul
    before, switch.allow_bf16_reduced_precision_reduction = switch.allow_bf16_reduced_precision_reduction, False
    try:
        yield switch.allow_bf16_reduced_precision_reduction
    finally:
        switch.allow_bf16_reduced_precision_reduction = before


@contextmanager
def _tf32(enabled: bool) -> Iterator[bool]:
    """Products of float32 in TF32 on a GPU, or in float32 everywhere. Yields whether TF32 is really in use."""
    import torch

    switches = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    if hasattr(switches[0], "fp32_precision"):  # from torch 2.9 on; mixing it with the older switch raises
        before = [switch.fp32_precision for switch in switches]
        for switch, precision in zip(switches, ["tf32" if enabled else "ieee", "ieee"], strict=True):
            switch.fp32_precision = precision
        try:
            yield any(switch.fp32_precision == "tf32" for switch in switches)
        finally:
            for switch, precision in zip(switches, before, strict=True):
                switch.fp32_precision = precision
        return
    legacy = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    try:
        yield torch.get_float32_matmul_precision() != "highest"
    finally:
        torch.set_float32_matmul_precision(legacy)
