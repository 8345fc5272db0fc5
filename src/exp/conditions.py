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


def _blas_threads() -> dict[str, int]:
    """The thread count of every loaded BLAS and OpenMP library, by its name."""
    return {f"{pool['internal_api']} {pool['version']}".strip(): pool["num_threads"] for pool in threadpool_info()}


@contextmanager
def _torch_controlled(threads: int) -> Iterator[dict[str, Any]]:
    import os

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what determinism needs of cuBLAS
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms(True), which imports torch._inductor: 1 s
    try:
        yield {
            "torch_threads": torch.get_num_threads(),
            "tf32": torch.get_float32_matmul_precision() != "highest",
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
        torch.set_deterministic_debug_mode(before[2])
