"""What others would write for the same training: whole scripts, filled in for a network.

USUAL is Hydra with `mlflow.log_metric` in every step, LIGHTNING a LightningModule with its MLFlowLogger, JAX the bare
computation: `jax.vmap` over runs and `lax.scan` over steps, compiled before it is timed.
"""

from collections.abc import Sequence

STEPS = 500

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
    sizes = [{inputs}, {width}, 10]
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
    trainer.fit(Model([{inputs}, {width}, 10], 0.01 if {digits} else 1e-6), data)

for seed in range(int(sys.argv[1])):
    run(seed)
"""

JAX = """
import sys, time
import jax, jax.numpy as jnp, numpy as np

batch, steps, digits = {batch}, {steps}, {digits}
runs, seeds = {together}, 16
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

def seconds(sizes):
    scale = 0.1 if digits else 1.0
    params = [jnp.asarray(random.standard_normal((runs, *shape)) * scale, jnp.float32) for shape in zip(sizes, sizes[1:])]
    rates = jnp.linspace(0.01, 0.16, runs) if digits else jnp.linspace(2e-7, 8e-7, runs)
    program = jax.jit(jax.vmap(train)).lower(params, rates, jnp.arange(runs) % seeds).compile()
    started = time.perf_counter()
    jax.block_until_ready(program(params, rates, jnp.arange(runs) % seeds))
    return time.perf_counter() - started

widths = {widths}
print(sum(seconds([{inputs}, width, 10]) for width in widths) / runs / len(widths) / steps)
"""


def filled(text: str, inputs: int, widths: Sequence[int], batch: int | None, together: int) -> str:
    """A script for a network of one hidden layer: JAX takes `widths` one after the other, `together` runs of each; the others
    their mean. With a `batch` it is digits and cross-entropy, without the tutorial's data and loss."""
    own = {"inputs": inputs, "batch": batch, "steps": STEPS, "digits": batch is not None}
    own |= {"widths": [*widths], "width": round(sum(widths) / len(widths)), "together": together}
    data = "" if "{data}" not in text else DATA.format(**own)
    return text.format(**own, data=data)
