"""What only a CUDA device can show. Skipped, with the reason, where there is none."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sweeping import Here, attempts, curves, here

from exp import run
from exp.errors import InputError

__all__ = ["here"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason=f"needs a CUDA device; torch {torch.__version__} finds none"),
]
GRAPHED_COMPILED = "graphed method.inner=compiled"
DIGITS = ("experiment=digits", "training.epochs=2", "network.hidden=[16]", "precision=fp64", "tracker=none")


@pytest.mark.parametrize("method", ["tensor", "autograd", "function", "functional", "module"])
def test_a_gpu_trains_as_numpy_does(method: str, tmp_path: Path) -> None:
    """Mini-batches, a ragged last one, Adam. 1e-9: 46 steps of sums over 256 terms in another order, of 1e-16 each."""
    gpu = run(*DIGITS, f"method={method}", "device=cuda", f"runs={tmp_path}")
    numpy = run(*DIGITS, "method=numpy", f"runs={tmp_path}")
    np.testing.assert_allclose(gpu.losses, numpy.losses, rtol=1e-9)
    for name, weight in numpy.weights.items():
        np.testing.assert_allclose(gpu.weights[name], weight, rtol=1e-9, atol=1e-9 * np.abs(weight).max())


@pytest.mark.parametrize("method", ["tensor", "autograd", "function", "functional", "module"])
def test_the_first_loss_of_the_tutorial_has_the_same_digits(method: str, tmp_path: Path) -> None:
    """TF32 would show in the fourth."""
    gpu = run(f"method={method}", "device=cuda", "training.steps=2", "tracker=none", f"runs={tmp_path}")
    numpy = run("method=numpy", "training.steps=2", "tracker=none", f"runs={tmp_path}")
    assert f"{gpu.losses[0]:.3e}" == f"{numpy.losses[0]:.3e}"


def test_a_run_repeats_bit_for_bit(tmp_path: Path) -> None:
    one, two = (run(*DIGITS, "device=cuda", f"runs={tmp_path}") for _ in range(2))
    np.testing.assert_array_equal(one.losses, two.losses)


def test_auto_is_the_gpu_and_is_recorded_so(tmp_path: Path) -> None:
    recorded = run("training.steps=2", "tracker=none", f"runs={tmp_path}")
    assert recorded.config["device"] == {"_target_": "exp.devices.Cuda", "index": 0}


def test_an_index_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"device=cuda: there is no GPU of index 99; use device.index=0"):
        run("device=cuda", "device.index=99", "tracker=none", f"runs={tmp_path}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("precision", "least", "most"), [("tf32", 1e-5, 4 * 2.0**-11), ("bf16", 1e-4, 4 * 2.0**-8)])
@pytest.mark.parametrize("method", ["tensor", "autograd", "function", "functional", "module"])
def test_products_are_rounded_to_the_chosen_precision(
    method: str, precision: str, least: float, most: float, tmp_path: Path
) -> None:
    """Of one step at rate 1, before − after is the gradient. Linear, so that no unit lies at a kink.

    A number of 11 or 8 bits is rounded by 2⁻¹¹ or 2⁻⁸ of itself at most, a few times, at random.
    """
    words = ("experiment=digits", "training.epochs=null", "training.steps=1", "training.batch_size=null", "optimizer=sgd")
    words = (*words, "optimizer.lr=1", "network.hidden=[16]", "network.activation=identity", "tracker=none", f"runs={tmp_path}")
    exact = run(*words, "method=numpy", "precision=fp64")
    rounded = run(*words, f"method={method}", "device=cuda", f"precision={precision}")
    for name, weight in exact.weights.items():
        gradient = exact.initial_weights[name] - weight
        error = np.linalg.norm(rounded.initial_weights[name] - rounded.weights[name] - gradient)
        assert least <= error / np.linalg.norm(gradient) <= most


def test_auto_is_the_gpu_in_tf32_too(tmp_path: Path) -> None:
    recorded = run("precision=tf32", "training.steps=2", "tracker=none", f"runs={tmp_path}")
    assert recorded.config["device"] == {"_target_": "exp.devices.Cuda", "index": 0}


@pytest.mark.parametrize("method", ["compiled", "graphed", "jax"])
def test_methods_that_compile_train_as_numpy_does(method: str, tmp_path: Path) -> None:
    """Blocks longer and shorter than a replay, a ragged last batch, Adam."""
    words = (*DIGITS, "training.log_every=50")
    try:
        gpu = run(*words, f"method={method}", "device=cuda", f"runs={tmp_path}")
    except InputError as reason:
        pytest.skip(str(reason))
    numpy = run(*words, "method=numpy", f"runs={tmp_path}")
    np.testing.assert_allclose(gpu.losses, numpy.losses, rtol=1e-9)
    for name, weight in numpy.weights.items():
        np.testing.assert_allclose(gpu.weights[name], weight, rtol=1e-9, atol=1e-9 * np.abs(weight).max())


@pytest.mark.parametrize("inner", ["tensor", "autograd", "function", "functional", "compiled"])
def test_a_graph_of_every_inner_method_is_the_same_step(inner: str, tmp_path: Path) -> None:
    """The tutorial: all rows in every step, 500 steps, 25 replays."""
    words = ("device=cuda", "precision=fp64", "tracker=none", f"runs={tmp_path}")
    graphed, plain = (run(*words, *choice) for choice in (("method=graphed", f"method.inner={inner}"), (f"method={inner}",)))
    np.testing.assert_allclose(graphed.losses, plain.losses, rtol=1e-10)


@pytest.mark.parametrize("method", ["tensor", "autograd", "function", "functional", "compiled", "graphed", GRAPHED_COMPILED])
def test_a_run_in_a_program_is_what_it_is_alone(method: str, here: Here, tmp_path: Path) -> None:
    """Ragged batches, seeds and widths of their own; 1e-12 a step of what sums in another order."""
    words = ("-m", *DIGITS, *f"method={method}".split(), "device=cuda", "network.hidden=[16],[9]", "seed=0,1")
    here(*words).ok()
    assert {status["program"]["runs"] for status in attempts(tmp_path)} == {4}
    together = {name: np.frombuffer(curve) for name, curve in curves(tmp_path).items()}
    (tmp_path / "runs").rename(tmp_path / "together")
    here(*words, "sweep.fuse=off").ok()
    for name, curve in curves(tmp_path).items():
        np.testing.assert_allclose(together[name], np.frombuffer(curve), rtol=len(together[name]) * 1e-12)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("method", ["tensor", "autograd", "graphed", "compiled"])
def test_a_run_in_a_stack_is_equivalent(method: str, precision: str, here: Here, tmp_path: Path) -> None:
    words = (f"method={method}", f"precision={precision}", "device=cuda", "tracker=none", "training.verify=true")
    here("-m", "experiment=digits", "training.epochs=2", *words, "seed=0,1").ok()
    statuses = attempts(tmp_path)
    assert [(status["verdict"], status["program"]["runs"]) for status in statuses] == [("equivalent", 2)] * 2


TORCH_METHODS = ["tensor", "autograd", "function", "functional", "module", "graphed"]


@pytest.mark.parametrize("precision", ["fp32", "fp64", "tf32", "bf16"])
@pytest.mark.parametrize("method", TORCH_METHODS)
@pytest.mark.parametrize("experiment", ["tutorial", "digits"])
def test_a_right_step_is_equivalent_in_every_precision(experiment: str, method: str, precision: str, here: Here) -> None:
    """Digits are all of one sign: what rounds towards zero has a mean there."""
    words = (f"experiment={experiment}", f"method={method}", f"precision={precision}", "device=cuda", "tracker=none")
    here("task=verify", *words).ok()


@pytest.mark.parametrize("method", ["compiled", GRAPHED_COMPILED, "jax"])
def test_a_compiled_step_is_equivalent(method: str, here: Here) -> None:
    done = here("task=verify", *f"method={method}".split(), "device=cuda", "tracker=none")
    if "is installed for the CPU only" in done.err or "is not installed" in done.err:
        pytest.skip(done.err)
    done.ok()


@pytest.mark.parametrize("precision", ["fp32", "fp64", "tf32", "bf16"])
@pytest.mark.parametrize("method", ["tensor", "autograd", "graphed"])
def test_a_program_agrees_with_a_run_alone_in_every_precision(method: str, precision: str, here: Here, tmp_path: Path) -> None:
    """The check that every program makes itself: kernels for a stack sum in other orders than those for one run."""
    words = (f"method={method}", f"precision={precision}", "device=cuda", "tracker=none", "training.steps=60")
    here("-m", *words, "optimizer.lr=3e-7,6e-7", "seed=range(0,8)", "network.hidden=[100],[60]").ok()
    assert [status["status"] for status in attempts(tmp_path)] == ["FINISHED"] * 32
    assert {status["program"]["runs"] for status in attempts(tmp_path)} == {32}


@pytest.fixture
def little_memory() -> Iterator[None]:
    """This process may have 384 MiB of the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(3 * 2**27 / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("little_memory")
def test_a_program_that_the_memory_does_not_hold_is_done_in_halves(here: Here, tmp_path: Path) -> None:
    """Weights of 16 MB a run, with gradients and successors: eight take 400 MB, four 200."""
    words = ("method=tensor", "device=cuda", "tracker=none", "network.hidden=[4000]", "training.steps=3", "optimizer.lr=1e-8")
    done = here("-m", *words, "seed=range(0,8)", "sweep.fuse=8").ok()
    assert any("OutOfMemory" in line and "in two halves" in line for line in done.lines), done.out
    assert sorted(status["program"]["runs"] for status in attempts(tmp_path)) == [4] * 8


def test_a_benchmark_times_the_device_itself(here: Here, tmp_path: Path) -> None:
    """Events around a block say what the host's clock says, and the GPU's memory is known."""
    words = ("benchmark.seconds=0.5", "benchmark.processes=1", "tracker=none")
    here("-m", "task=benchmark", "method=tensor,graphed", "device=cpu,cuda", *words).ok()
    metrics = [status["metrics"] for status in attempts(tmp_path) if status["choices"]["device"] == "cuda"]
    assert len(metrics) == 2 and all(status["verdict"] == "equivalent" for status in attempts(tmp_path))
    for each in metrics:
        assert 0 < each["speed/device_step_seconds"] <= 1.05 * each["speed/step_seconds"]
        assert each["memory/device_bytes"] > 0
