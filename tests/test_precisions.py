"""What a precision sets, where it can run, and what is recorded of it."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import exp
from exp.composition import compose
from exp.conditions import controlled
from exp.configuration import instantiate
from exp.devices import Cuda
from exp.errors import InputError
from exp.experiment import Experiment
from exp.precisions import BF16, FP32, FP64, TF32

QUICK = ("training.steps=3", "problem.inputs=7", "network.hidden=[5]", "problem.outputs=3", "tracker=none")


@pytest.mark.parametrize("before", ["ieee", "tf32"])
@pytest.mark.parametrize(
    ("precision", "tf32", "autocast"),
    [(FP32(), False, None), (FP64(), False, None), (TF32(), True, None), (BF16(), False, "bfloat16")],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_conditions_are_set_said_and_undone(precision, tf32: bool, autocast: str | None, before: str) -> None:
    switch = torch.backends.cuda.matmul
    was, switch.fp32_precision = switch.fp32_precision, before
    try:
        with controlled(1, "torch", precision, "cpu") as conditions:
            assert (conditions["tf32"], conditions["autocast"]) == (tf32, autocast)
            assert conditions["sums_in_bf16"] is False
            assert switch.fp32_precision == ("tf32" if tf32 else "ieee")
            assert torch.is_autocast_enabled("cpu") == (autocast is not None)
            assert not torch.is_autocast_cache_enabled()
            product = torch.ones(3, 3) @ torch.ones(3, 3)
            assert product.dtype == (torch.bfloat16 if autocast else torch.float32)
        assert switch.fp32_precision == before
        assert not torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled()
    finally:
        switch.fp32_precision = was


@pytest.mark.parametrize("method", ["tensor", "module"])
def test_the_callers_own_autocast_changes_no_run(method: str, tmp_path: Path) -> None:
    words = (f"method={method}", "device=cpu", *QUICK, f"runs={tmp_path}")
    alone = exp.run(*words)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(exp.run(*words).losses, alone.losses)
        assert torch.is_autocast_enabled("cpu")
    assert not np.array_equal(exp.run(*words, "precision=bf16").losses, alone.losses)


def test_what_was_set_is_recorded(tmp_path: Path) -> None:
    run = exp.run("precision=bf16", "device=cpu", *QUICK, f"runs={tmp_path}")
    conditions = json.loads((run.folder / "environment.json").read_text())["conditions"]
    assert (conditions["tf32"], conditions["autocast"]) == (False, "bfloat16")
    assert {array.dtype for array in run.weights.values()} == {np.dtype("float32")}
    assert run.config["precision"] == {"_target_": "exp.precisions.BF16"}


def experiment(*words: str) -> Experiment:
    return instantiate(*compose([*words, *QUICK]))[0]


def ampere(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (8, 0), hip: str | None = None) -> None:
    """This machine has a GPU of this compute capability, as far as torch tells."""
    monkeypatch.setattr(Cuda, "absent", lambda self: None)
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda="13.0", hip=hip))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_auto_is_the_gpu_that_has_the_precision(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ampere(monkeypatch)
    chosen = experiment(f"precision={precision}")
    chosen.check()
    assert chosen.resolve_device() == Cuda()
    assert chosen.choices["device"] == "cuda"


def test_auto_passes_over_a_gpu_without_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    ampere(monkeypatch, capability=(7, 5))
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: False)
    chosen = experiment("precision=bf16")
    chosen.check()
    assert chosen.resolve_device().name == "cpu"
    with pytest.raises(InputError, match="device=auto precision=tf32: TF32 is a mode of NVIDIA GPUs"):
        experiment("precision=tf32").check()


@pytest.mark.parametrize(
    ("precision", "capability", "hip", "said"),
    [
        ("tf32", (7, 5), None, "Tesla T4 has no TF32, which NVIDIA GPUs have since Ampere; use precision=fp32"),
        ("bf16", (7, 5), None, "Tesla T4 has no bfloat16, which NVIDIA GPUs have since Ampere; use precision=fp32"),
        ("tf32", (9, 4), "7.0", "TF32 is a mode of NVIDIA GPUs, and this torch is built for AMD's; use precision=fp32"),
    ],
)
def test_a_gpu_without_the_precision_is_one_line(
    precision: str, capability: tuple[int, int], hip: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ampere(monkeypatch, capability, hip)
    with pytest.raises(InputError) as raised:
        experiment("device=cuda", f"precision={precision}").check()
    assert str(raised.value) == f"method=autograd device=cuda precision={precision}: {said}"


def test_an_old_mac_without_bfloat16_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: (major, minor) <= (13, 6))
    assert BF16().absent("mps") == "bfloat16 on mps needs macOS 14; use precision=fp32, or device=cpu"
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: (major, minor) <= (15, 0))
    assert BF16().absent("mps") is None
