"""Many runs that differ in numbers only: `python -m benchmarks.fused [part …]`, in the folder `tests`. Parts: tutorial, small.

End to end, whole commands in fresh folders, until the prompt is back and every point of every run is in MLflow, which is
counted. A run more, as the difference of two sweeps: of exp, of exp one by one (sweep.fuse=off), of the usual script (Hydra and
`mlflow.log_metric` in every step), of Lightning with its MLFlowLogger. For the bare computation a peer is `jax.vmap` over runs
and `lax.scan` over steps, compiled before it is timed. Peers that are not installed are named.
"""

import importlib.util
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from campaigns.machine import machine

from benchmarks.sweeps import ours, script, seconds, seeds
from exp.run_folder import run_folders

STEPS = 500
REPEATS = 3


@dataclass(frozen=True)
class Part:
    """A sweep: what is typed for its runs (256 of 16 rates and 16 seeds), and the same network in peers' words."""

    words: tuple[str, ...]
    rates: str
    network: str
    batch: int | None


PARTS = {
    "tutorial": Part(
        ("method=numpy",),
        ",".join(f"{rate}e-8" for rate in range(20, 84, 4)),
        "1000, 100, 10",
        None,
    ),
    "small": Part(
        (
            "method=numpy",
            "problem=digits",
            "network=mlp",
            "network.hidden=[32]",
            "loss=cross_entropy",
            "training.batch_size=64",
        ),
        ",".join(f"{rate / 100}" for rate in range(1, 17)),
        "64, 32, 10",
        64,
    ),
}

DATA = """
    if {digits}:
        from sklearn.datasets import load_digits
        digits = load_digits()
        x = torch.tensor(digits.data[:1437] / 16, dtype=torch.float32)
        y = torch.nn.functional.one_hot(torch.tensor(digits.target[:1437])).float()
    else:
        x, y = torch.randn(64, 1000), torch.randn(64, 10)
"""

USUAL = """
import hydra, mlflow, torch

@hydra.main(config_path=None, version_base="1.3")
def main(config):
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    mlflow.set_tracking_uri(f"sqlite:///{{config.store}}")
    mlflow.set_experiment("usual")
{data}
    sizes = [{network}]
    w1 = torch.randn(sizes[0], sizes[1]).mul(0.1 if {digits} else 1).requires_grad_()
    w2 = torch.randn(sizes[1], sizes[2]).mul(0.1 if {digits} else 1).requires_grad_()
    rate = 0.01 if {digits} else 1e-6
    with mlflow.start_run():
        mlflow.log_params({{"seed": config.seed, "lr": rate}})
        for step in range({steps}):
            rows = torch.randint(len(x), ({batch},)) if {batch} else slice(None)
            prediction = x[rows].mm(w1).clamp(min=0).mm(w2)
            if {digits}:
                loss = torch.nn.functional.cross_entropy(prediction, y[rows])
            else:
                loss = (prediction - y[rows]).pow(2).sum()
            loss.backward()
            with torch.no_grad():
                for w in (w1, w2):
                    w -= rate * w.grad
                    w.grad = None
            mlflow.log_metric("loss", loss.item(), step=step)

main()
"""

LIGHTNING = """
import logging, sys, warnings
import lightning, torch
from lightning.pytorch.loggers import MLFlowLogger

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)

class Model(lightning.LightningModule):
    def __init__(self, sizes, rate):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(sizes[0], sizes[1], bias=False), torch.nn.ReLU(), torch.nn.Linear(sizes[1], sizes[2], bias=False)
        )
        self.rate = rate

    def training_step(self, batch, _):
        x, y = batch
        if {digits}:
            loss = torch.nn.functional.cross_entropy(self.net(x), y)
        else:
            loss = torch.nn.functional.mse_loss(self.net(x), y, reduction="sum")
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)

def run(seed):
    torch.manual_seed(seed)
{data}
    rows = torch.utils.data.TensorDataset(x, y)
    data = torch.utils.data.DataLoader(rows, batch_size={batch} or len(x), shuffle=bool({batch}))
    logger = MLFlowLogger(experiment_name="lightning", tracking_uri=f"sqlite:///{{sys.argv[2]}}")
    trainer = lightning.Trainer(
        max_steps={steps}, logger=logger, log_every_n_steps=1, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )
    trainer.fit(Model([{network}], 0.01 if {digits} else 1e-6), data)

for seed in range(int(sys.argv[1])):
    run(seed)
"""

JAX = """
import sys, time
import jax, jax.numpy as jnp, numpy as np

runs, seeds = 256, 16
sizes, batch, steps, digits = [{network}], {batch}, {steps}, {digits}
random = np.random.default_rng(0)
if digits:
    from sklearn.datasets import load_digits
    images = load_digits()
    x = jnp.asarray(np.tile(images.data[:1437] / 16, (seeds, 1, 1)), jnp.float32)
    y = jnp.asarray(np.tile(np.eye(10)[images.target[:1437]], (seeds, 1, 1)), jnp.float32)
else:
    x = jnp.asarray(random.standard_normal((seeds, 64, 1000)), jnp.float32)
    y = jnp.asarray(random.standard_normal((seeds, 64, 10)), jnp.float32)
rows = jnp.asarray(random.integers(x.shape[1], size=(seeds, steps, batch or 1)))

def loss(params, x, y):
    prediction = jnp.maximum(x @ params[0], 0) @ params[1]
    if digits:
        return -(y * jax.nn.log_softmax(prediction)).sum() / len(x)
    return ((prediction - y) ** 2).sum()

def train(params, rate, which):
    def step(params, rows):
        inputs, targets = (x[which][rows], y[which][rows]) if batch else (x[which], y[which])
        value, grads = jax.value_and_grad(loss)(params, inputs, targets)
        return [p - rate * g for p, g in zip(params, grads)], value
    return jax.lax.scan(step, params, rows[which])

scale = 0.1 if digits else 1.0
params = [jnp.asarray(random.standard_normal((runs, *shape)) * scale, jnp.float32) for shape in zip(sizes, sizes[1:])]
rates = jnp.linspace(0.01, 0.16, runs) if digits else jnp.linspace(2e-7, 8e-7, runs)
program = jax.jit(jax.vmap(train)).lower(params, rates, jnp.arange(runs) % seeds).compile()
started = time.perf_counter()
jax.block_until_ready(program(params, rates, jnp.arange(runs) % seeds))
print((time.perf_counter() - started) / runs / steps)
"""


def filled(text: str, part: Part) -> str:
    """A peer's script for a part."""
    own = {"network": part.network, "batch": part.batch, "steps": STEPS, "digits": part.batch is not None}
    data = "" if "{data}" not in text else DATA.format(**own)
    return text.format(**own, data=data)


def whole(folder: Path, runs: int) -> None:
    """Every point of every run is in the store."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        points = store.execute("SELECT count(*) FROM metrics WHERE key = 'train/loss'").fetchone()[0]
    assert points == runs * STEPS, f"{points} points of {runs} runs"


def a_run_of_ours(part: Part, *how: str) -> Callable[[], float]:
    """Seconds for one more run of exp: of 256 less 32; every point counted."""

    def measured() -> float:
        took = []
        for count in (2, 16):
            with tempfile.TemporaryDirectory() as name:
                words = (*part.words, f"optimizer.lr={part.rates}", seeds(count), f"training.steps={STEPS}", *how)
                took.append(seconds(ours(*words), Path(name)))
                whole(Path(name), 16 * count)
                BARE[(part, how)] = bare(Path(name))
        return (took[1] - took[0]) / (16 * 14)

    return measured


BARE: dict[tuple[Part, tuple[str, ...]], float] = {}


def bare(folder: Path) -> float:
    """Seconds of a step of a run in the training proper, over all runs."""
    statuses = [run.status() for run in run_folders(folder / "runs")]
    return float(np.mean([status["metrics"]["time/train_seconds"] / STEPS for status in statuses]))


def a_run_of(text: str, part: Part, *, few: int, many: int, hydra: bool) -> Callable[[], float]:
    """Seconds for one more run of a peer's script."""

    def measured() -> float:
        took = []
        for count in (few, many):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                store = f"{folder}/mlflow.db"
                command = script(folder, filled(text, part), seeds(count, "+seed"), f"+store={store}")
                took.append(seconds(command if hydra else [sys.executable, "script.py", str(count), store], folder))
        return (took[1] - took[0]) / (many - few)

    return measured


def jax_step(part: Part) -> float:
    """Seconds of a step of a run of 256 in JAX."""
    import subprocess

    return float(subprocess.check_output([sys.executable, "-c", filled(JAX, part)], text=True).split()[-1])


def main() -> None:
    """Measure and print."""
    chosen = sys.argv[1:] or list(PARTS)
    has = {name: importlib.util.find_spec(name) is not None for name in ("lightning", "jax")}
    print(machine("1 thread in each of at most 2 processes"))
    for name in chosen:
        part = PARTS[name]
        measurements: dict[str, Callable[[], float]] = {
            "exp": a_run_of_ours(part),
            "exp, joblib": a_run_of_ours(part, "hydra/launcher=joblib"),
            "exp, one by one": a_run_of_ours(part, "sweep.fuse=off"),
            "the usual script": a_run_of(USUAL, part, few=1, many=3, hydra=True),
        }
        if has["lightning"]:
            measurements["Lightning"] = a_run_of(LIGHTNING, part, few=1, many=3, hydra=False)
        taken: dict[str, list[float]] = {peer: [] for peer in measurements}
        steps: list[float] = []
        for _ in range(REPEATS):
            for peer, measure in measurements.items():
                taken[peer].append(measure())
            if has["jax"]:
                steps.append(jax_step(part))
        print(f"\n{name}: {part.network}, {STEPS} steps; seconds for one more run, median of {REPEATS} (least to greatest)")
        first = statistics.median(taken["exp"])
        for peer, values in taken.items():
            told = f"{statistics.median(values):8.4f}  ({min(values):.4f} to {max(values):.4f})  {peer}"
            print(f"{told}: {statistics.median(values) / first:.1f} times exp")
        for how, label in (((), "exp"), (("sweep.fuse=off",), "exp, one by one")):
            print(f"{BARE[(part, how)] * 1e6:8.0f} µs a step in the training proper: {label}")
        if steps:
            print(f"{statistics.median(steps) * 1e6:8.0f} µs a step of JAX, vmap over 256 runs, scan over {STEPS} steps")
        for peer in (peer for peer, there in has.items() if not there):
            print(f"not measured: {peer} is not installed")


if __name__ == "__main__":
    main()
