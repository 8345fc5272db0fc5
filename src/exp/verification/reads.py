"""Watching what brings values from a device to the host: on a GPU each of these operations waits."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def reads(device: str) -> Iterator[list[str]]:
    """The names of the operations inside that bring values from `device` to the host: on a GPU each of them waits."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found: list[str] = []
    waiting = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "unique", "_unique2")

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__
            booleans = [part for part in args[1:2] if isinstance(part, list | tuple)]
            by_mask = any(getattr(index, "dtype", None) == torch.bool for part in booleans for index in part)
            reading = name in waiting or (name in ("index", "index_put", "index_put_", "_index_put_impl_") and by_mask)
            if reading and not _on_the_host(args[0], device):
                found.append(name)
            return func(*args, **(kwargs or {}))

    originals = {name: getattr(torch.Tensor, name) for name in ("numpy", "tolist", "cpu")}

    def watched(name: str) -> Callable[..., Any]:
        def call(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            if not _on_the_host(tensor, device):
                found.append(name)
            return originals[name](tensor, *args, **kwargs)

        return call

    try:
        for name in originals:
            setattr(torch.Tensor, name, watched(name))
        with Watch():
            yield found
    finally:
        for name, original in originals.items():
            setattr(torch.Tensor, name, original)


def _on_the_host(tensor: Any, device: str) -> bool:
    """Whether a tensor would be on the host on a GPU too.

    Of a CPU that is known of what `torch.optim` reads only: its count of steps, which is there wherever the weights are.
    """
    if tensor.device.type != "cpu":
        return False
    frame = sys._getframe()
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("torch.optim."):
        frame = frame.f_back
    return device != "cpu" or frame is not None
