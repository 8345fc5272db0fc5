"""The conditions of a run: threads, TF32 and determinism, set for its duration and recorded as they really were."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits


@contextmanager
def controlled(threads: int, library: str) -> Iterator[dict[str, Any]]:
    """Compute with `threads` threads in BLAS and torch, without TF32, deterministically. Yields what was really set.

    Overflow is silent in between: a loss that is no longer finite is the loop's to report.
    """
    with threadpool_limits(threads), np.errstate(all="ignore"):
        if library == "numpy":
            yield {"threads": _blas_threads()}
            return
        with _torch_controlled(threads) as torch_conditions:
            yield {"threads": _blas_threads()} | torch_conditions


def _blas_threads() -> list[dict[str, Any]]:
    """The thread count of every loaded BLAS and OpenMP library."""
    return [{key: pool[key] for key in ("internal_api", "version", "num_threads")} for pool in threadpool_info()]


@contextmanager
def _torch_controlled(threads: int) -> Iterator[dict[str, Any]]:
    import os

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what determinism needs of cuBLAS
    threads_before, deterministic_before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms(True), which imports torch._inductor: 1 s
    try:
        with _without_tf32() as tf32:
            deterministic = torch.are_deterministic_algorithms_enabled()
            yield {"torch_threads": torch.get_num_threads(), "tf32": tf32, "deterministic": deterministic}
    finally:
        torch.set_num_threads(threads_before)
        torch.set_deterministic_debug_mode(deterministic_before)


@contextmanager
def _without_tf32() -> Iterator[bool]:
    """Products of float32 in float32. Yields whether TF32 is in use all the same."""
    import torch

    switches = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    if hasattr(switches[0], "fp32_precision"):  # from torch 2.9 on; mixing it with the older switch raises
        before = [switch.fp32_precision for switch in switches]
        for switch in switches:
            switch.fp32_precision = "ieee"
        try:
            yield any(switch.fp32_precision == "tf32" for switch in switches)
        finally:
            for switch, precision in zip(switches, before, strict=True):
                switch.fp32_precision = precision
        return
    legacy = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield torch.get_float32_matmul_precision() != "highest"
    finally:
        torch.set_float32_matmul_precision(legacy)
