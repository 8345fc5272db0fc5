"""Methods that compile the formulas or another method's step: the same step, compiled once.

Compilers take seconds, so combinations are a set in which every optimizer, loss, activation and inner method occurs. Where
not said otherwise `compiled` runs what was traced as it is: that tests the trace, its inputs and the state that goes round;
Inductor, which makes machine code of it, is tested once by itself.
"""

import functools
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import cases
import numpy as np
import pytest
import torch
from cases import METHODS
from commands import clean
from test_methods import BLOCKS, NETWORKS, TOLERANCE, Case, Trained, by, deviation, stack_is_its_runs, trained

from exp.arrays import Array, get
from exp.composition import compose
from exp.configuration import instantiate
from exp.errors import InputError
from exp.identity import identity, run_sources
from exp.judgement import identity as verdict_identity
from exp.methods import ArrayMethod, Method, compiled
from exp.methods.autograd import Autograd
from exp.methods.base import Wrapper
from exp.methods.compiled import Compiled
from exp.methods.graphed import Graphed
from exp.methods.jax import Jax
from exp.methods.manual import NumPy, Tensor
from exp.methods.module import Module
from exp.state import State

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, where it imports Inductor

ROOT = Path(__file__).parents[1]
COMBINATIONS = [
    Case("squared_error", "sgd", "relu-2-bias"),
    Case("mean_squared_error", "momentum", "tanh-2"),
    Case("cross_entropy", "momentum-nesterov", "gelu-3-bias" if "gelu-3-bias" in NETWORKS else "mlp"),
    Case("mean_squared_error", "adam", "linear"),
    Case("cross_entropy", "adamw", "relu-1"),
]
"""Every loss, optimizer and kind of network."""

INNER = [name for name, method in METHODS.items() if method.library == "torch" and isinstance(method, ArrayMethod)]


@pytest.fixture
def as_traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Nothing is compiled; the graphs that would have been."""
    graphs: list[Any] = []

    def kept(graph: Any, arguments: list[Array]) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(compiled, "lowered", kept)
    monkeypatch.setattr(compiled, "_executables", {})
    return graphs


def same(found: Trained, case: Case) -> bool:
    return deviation(found, by("numpy", case)) <= TOLERANCE


@pytest.mark.parametrize("number", range(len(COMBINATIONS)))
def test_compiled_is_the_same_step(number: int, as_traced: list[Any]):
    inner = type(METHODS[INNER[number % len(INNER)]])()
    case = COMBINATIONS[number]
    run = trained(Compiled(inner=inner), case)
    assert same(run, case) and run.state.count == 13
    for found, given in zip((run.x, run.y), case.data(), strict=True):
        assert np.array_equal(get(found), given)
    assert len(as_traced) == 2  # batches of 4 and of 3 rows


def test_another_rate_is_the_same_program_and_another_rule_is_not(as_traced: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(cases.OPTIMIZERS, "sgd", cases.OPTIMIZERS["sgd"])
    case = Case(optimizer="sgd")
    trained(Compiled(inner=Tensor()), case)
    for rate in (2e-3, 3e-3):
        monkeypatch.setattr(cases.OPTIMIZERS["sgd"], "lr", rate)
        run = trained(Compiled(inner=Tensor()), case)
        assert deviation(run, trained(NumPy(), case)) <= TOLERANCE
    assert len(as_traced) == 2
    monkeypatch.setattr(cases.OPTIMIZERS["sgd"], "weight_decay", 0.0)
    trained(Compiled(inner=Tensor()), case)
    trained(Compiled(inner=Tensor()), Case(optimizer="momentum"))
    assert len(as_traced) == 6


def test_a_stale_state_in_a_program_is_seen(as_traced: list[Any]):
    """The comparison above fails where the state does not go round."""

    class Forgetful(Compiled):
        def step(self, x: Array, y: Array) -> Array:
            before = self.arrays
            loss = super().step(x, y)
            self.arrays = [*before[:1], *self.arrays[1:]]
            return loss

    assert not same(trained(Forgetful(inner=Tensor()), COMBINATIONS[0]), COMBINATIONS[0])


def test_machine_code_is_the_same_step_and_made_once():
    """By Inductor. A bit of 13 steps may differ: it adds in other orders."""
    from torch._dynamo.utils import counters

    case = COMBINATIONS[0]
    blocks = [block for block in BLOCKS if block.rows is not None and block.rows.shape[1] == 4]
    first = trained(Compiled(inner=Autograd()), case, blocks)
    before = {kind: dict(counts) for kind, counts in counters.items()}
    again = trained(Compiled(inner=Autograd()), case, blocks)
    assert deviation(again, trained(NumPy(), case, blocks)) <= TOLERANCE
    after = {kind: dict(counts) for kind, counts in counters.items()}
    compiled_since = {kind: counts for kind, counts in after.items() if counts != before.get(kind)}
    assert not {kind for kind in compiled_since if kind in ("inductor", "stats", "frames")}, compiled_since
    assert first.state.count == again.state.count == sum(block.steps for block in blocks) > 3


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # Dynamo's look at the loss
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_module_is_compiled_once_for_each_batch_shape(optimizer: str, monkeypatch: pytest.MonkeyPatch):
    """By Dynamo without Inductor behind it: what is tested is that nothing asks it a second time."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    case = Case("mean_squared_error", optimizer, "tanh-2")
    method = Compiled(inner=Module())
    run = trained(method, case)
    assert same(run, case)
    before = dict(counters["stats"])
    for _ in range(2):
        for rows in (4, 3):
            method.step(run.x[:rows], run.y[:rows])
    assert dict(counters["stats"]) == before
    torch._dynamo.reset()


@pytest.mark.parametrize("number", range(len(COMBINATIONS)))
def test_jax_is_the_same_step(number: int):
    case = COMBINATIONS[number]
    run = trained(Jax(), case)
    assert same(run, case)
    again = trained(Jax(), case)
    assert deviation(again, run) == 0
    for array in run.state.named().values():
        assert isinstance(array, np.ndarray)
    kept = {key: array.copy() for key, array in run.state.named().items()}
    run.method.step(run.x, run.y)
    assert all(np.array_equal(run.state.named()[key], kept[key]) for key in kept)


def test_jax_computes_in_float32_where_it_is_asked_to():
    run = trained(Jax(), Case(precision="fp32"))
    assert run.losses.dtype == np.float32 and {array.dtype for array in run.state.params.values()} == {np.dtype("float32")}
    assert get(run.method.predict(run.x)).dtype == np.float32
    assert deviation(run, by("numpy", Case(precision="fp32"))) <= 1e-5


def test_jax_has_slope_zero_at_the_kink():
    """`maximum` would have 1/2."""
    jax = pytest.importorskip("jax")
    from exp.activations import ACTIVATIONS

    slope = jax.grad(lambda z: ACTIVATIONS["relu"].value(z).sum())(jax.numpy.array([-1.0, 0.0, 2.0]))
    assert slope.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("method", "optimizer", "loss", "data", "batches"),
    [
        ("compiled", "sgd", "cross_entropy", "shared data", "own batches"),
        ("compiled", "adamw", "mean_squared_error", "own data", "own batches"),
        ("jax", "adamw", "mean_squared_error", "own data", "own batches"),
    ],
)
def test_stacks_are_their_runs(method: str, optimizer: str, loss: str, data: str, batches: str, as_traced: list[Any]):
    def new() -> Method:
        return Jax() if method == "jax" else Compiled(inner=Tensor())

    assert new().stacks
    stack_is_its_runs(new, optimizer, loss, data, batches)


def test_who_trains_stacks():
    stacking = {name for name, method in METHODS.items() if method.stacks}
    assert stacking == {*METHODS} - {"module"}
    assert Graphed(inner=Autograd()).stacks and not Compiled(inner=Module()).stacks and not Graphed(inner=Module()).stacks


# The verdict


@pytest.mark.parametrize(
    ("inner", "precision", "choices"),
    [
        ("autograd", "bf16", {"optimizer": "adam"}),
        ("function", "fp32", {"optimizer": "sgd", "loss": "mean_squared_error", "activation": "tanh", "bias": False}),
    ],
)
def test_compiled_is_judged_equivalent(inner: str, precision: str, choices: dict[str, Any], as_traced: list[Any]):
    verdict, judge = cases.judged(cases.case(Compiled(inner=METHODS[inner]), precision, **choices))
    assert (verdict.verdict, judge.wrong) == ("equivalent", [])
    assert as_traced


@pytest.mark.parametrize(("precision", "choices"), [("fp32", {"optimizer": "adamw", "loss": "cross_entropy"})])
def test_jax_is_judged_equivalent(precision: str, choices: dict[str, Any]):
    verdict, judge = cases.judged(cases.case(Jax(), precision, **choices))
    assert (verdict.verdict, judge.wrong) == ("equivalent", [])


class HalfGradient(Tensor):
    """Half the gradient."""

    def update(self, state: State, grads: dict[str, Array]) -> State:
        return super().update(state, {name: grad / 2 for name, grad in grads.items()})


def test_a_fault_of_the_inner_method_is_seen_through_compiled(as_traced: list[Any]):
    verdict, _ = cases.judged(cases.case(Compiled(inner=HalfGradient())))
    assert verdict.verdict == "different"


# As it is configured


def configured(*overrides: str) -> Any:
    return instantiate(*compose(["tracker=none", "device=cpu", *overrides]))[0]


def test_an_inner_method_is_the_name_of_a_choice():
    experiment = configured("method=compiled")
    assert type(experiment.method.inner) is Autograd and experiment.config["method"]["inner"] == "autograd"
    assert type(configured("method=compiled", "method.inner=tensor").method.inner) is Tensor


@pytest.mark.parametrize("method", ["compiled", "graphed"])
@pytest.mark.parametrize(
    ("inner", "said"),
    [
        ("tensr", "method.inner=tensr: no such choice; choose tensor"),
        ("numpy", "method.inner=numpy: computes without torch; give a method that has it"),
        ("jax", "method.inner=jax: computes without torch"),
        ("graphed", "method.inner=graphed: takes another method's steps itself; give that one"),
        ("[tensor]", r"method.inner=\[tensor\]: allowed: text"),
        ("null", "method.inner=null: allowed: text"),
    ],
)
def test_an_inner_method_that_cannot_be_is_one_line(method: str, inner: str, said: str):
    with pytest.raises(InputError, match=said) as raised:
        configured(f"method={method}", f"method.inner={inner}")
    assert "\n" not in str(raised.value)


def test_a_graph_may_hold_a_compiled_step_and_nothing_else_may(as_traced: list[Any]):
    """Its pure transition is its step, from any state, and leaves its own state alone."""
    assert type(configured("method=graphed", "method.inner=compiled").method.inner.inner) is Autograd
    with pytest.raises(InputError, match="takes another method's steps itself"):
        Compiled(inner=Compiled(inner=Tensor()))
    with pytest.raises(InputError, match="takes another method's steps itself"):
        Graphed(inner=Compiled(inner=Module()))
    case = COMBINATIONS[0]
    method, other = (cast(Compiled, trained(Compiled(inner=Tensor()), case, BLOCKS[:1]).method) for _ in range(2))
    x, y = (torch.from_numpy(array[:4]) for array in case.data())
    before = method.export()
    losses = []
    state = method.state
    for _ in range(3):
        loss, state = method.transition(state, x, y)
        losses.append(float(loss))
    assert losses == [float(other.step(x, y)) for _ in range(3)]
    for name, array in other.export().named().items():
        np.testing.assert_array_equal(get(state.named()[name]), array)
        np.testing.assert_array_equal(method.export().named()[name], before.named()[name])


def test_the_inner_methods_source_belongs_to_the_run_and_to_the_verdict():
    one, other = (configured("method=compiled", f"method.inner={inner}") for inner in ("autograd", "tensor"))
    assert "exp/methods/autograd.py" in run_sources(one) and "exp/methods/autograd.py" not in run_sources(other)
    assert {"exp/methods/compiled.py", "exp/methods/manual.py"} <= {*run_sources(other)}
    data = one.check()
    assert identity(one, data.digest) != identity(other, data.digest)
    assert verdict_identity(one, data, "cpu") != verdict_identity(other, data, "cpu")


def test_ones_own_method_may_be_the_inner_one(tmp_path: Path):
    (tmp_path / "method").mkdir()
    (tmp_path / "own_inner.py").write_text("from exp.methods.manual import Tensor\n\nclass Mine(Tensor):\n    pass\n")
    (tmp_path / "method" / "mine.yaml").write_text("_target_: own_inner.Mine\n")
    before = [*sys.path]
    try:
        experiment, _ = instantiate(*compose(["method=compiled", "method.inner=mine", "tracker=none"], tmp_path))
    finally:
        sys.path[:] = before
    assert isinstance(experiment.method, Wrapper) and type(experiment.method.inner).__name__ == "Mine"
    assert "own_inner.py" in run_sources(experiment)


def reason(method: Method, device: str = "cpu", precision: str = "fp32") -> str | None:
    parts: Any = {"network": NETWORKS["mlp"], "loss": cases.LOSSES["squared_error"], "optimizer": cases.OPTIMIZERS["sgd"]}
    return method.unsupported(device=device, precision=precision, **parts)


def test_what_they_cannot_do_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    assert "use device=cuda, or method=compiled" in str(reason(Graphed(inner=Autograd())))
    assert "pure function" in str(reason(Graphed(inner=Module()), "cuda"))
    assert reason(Graphed(inner=Autograd()), "cuda") is None
    assert reason(Compiled(inner=Autograd())) is None
    assert "TF32" in str(reason(Compiled(inner=Autograd()), precision="tf32"))
    assert "fp32 and fp64" in str(reason(Jax(), precision="bf16")) and "device=cpu" in str(reason(Jax(), "mps"))
    assert "jax[cuda12]" in str(reason(Jax(), "cuda")) and reason(Jax()) is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert "install g++" in str(reason(Compiled(inner=Autograd())))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'exp[jax]'" in str(reason(Jax()))


@pytest.mark.parametrize("method", ["compiled", "graphed", "jax"])
def test_deleting_a_method_leaves_nothing_behind(method: str, tmp_path: Path):
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "src" / "exp" / "methods" / f"{method}.py").unlink()
    (tmp_path / "conf" / "method" / f"{method}.yaml").unlink()
    environment = clean() | {"PYTHONPATH": str(tmp_path / "src")}
    words = ["-m", "exp", "method=numpy", "tracker=none", "training.steps=5", "debug=fast"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "3.398e7" in done.stdout, done.stdout + done.stderr
    imported = "import exp, exp.registry; print(exp.__file__); print(*exp.registry.choices('method'))"
    found = subprocess.run([sys.executable, "-c", imported], cwd=tmp_path, env=environment, capture_output=True, text=True)
    where, names = found.stdout.splitlines()
    assert where.startswith(str(tmp_path)) and method not in names.split()
    left = [file for file in (tmp_path / "src").rglob("*.py") if f"methods.{method}" in file.read_text()]
    assert left == []


def test_choosing_them_imports_neither_torch_nor_jax():
    code = """
import sys
from exp.composition import compose
from exp.configuration import instantiate
for method in ("compiled", "graphed", "jax"):
    experiment, _ = instantiate(*compose([f"method={method}", "tracker=none", "device=cpu"]))
    experiment.method.unsupported(device="cpu", precision="fp32", network=None, loss=None, optimizer=None)
print({"torch", "jax"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], env=clean(), capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
