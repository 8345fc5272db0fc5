"""Many runs that differ in numbers only, on a GPU: `python -m benchmarks.gpu [part …]`, in the folder `tests`.

Parts: tutorial, small. 256 runs as one program of CUDA graphs; and one by one, as graphs and eagerly. A step is the median one
of a run in the training proper; with all that is done once (libraries, captures) it is the mean of all. A run more is the
difference of two sweeps, whole commands in fresh folders with every point in MLflow, as `benchmarks.fused` has it. The ceiling
is measured in the same run: what the operations and the bytes of a step (`exp.benchmark.costs`) take at the rates of a large
product and a large copy, the larger of the two.
"""

import sys
from dataclasses import replace

import torch
from campaigns.machine import machine

from benchmarks.fused import BARE, PARTS, Part, a_run_of_ours
from exp.arrays import Place
from exp.benchmark.ceilings import ceilings
from exp.benchmark.costs import costs
from exp.composition import compose
from exp.conditions import controlled
from exp.configuration import instantiate
from exp.precisions import FP32

FEW = (1, 9)
"""Seeds of the sweeps one by one, with one value of what is varied."""

HOWS = {
    "graphed, one program": ("method=graphed",),
    "graphed around tensor, one program": ("method=graphed", "method.inner=tensor"),
    "graphed, one by one": ("method=graphed", "sweep.fuse=off"),
    "autograd, one by one": ("method=autograd", "sweep.fuse=off"),
}


def on_a_gpu(part: Part, how: tuple[str, ...]) -> Part:
    """The same part with another method on a GPU; of few runs, where they are done one by one."""
    words = (*how, *part.words[1:], "device=cuda")
    if "sweep.fuse=off" not in how:
        return replace(part, words=words)
    name, _, values = part.varied.partition("=")
    return replace(part, words=words, varied=f"{name}={values.split(',')[0]}", seeds=FEW)


def ceiling(part: Part) -> tuple[float, str]:
    """Seconds that a step of a run would take at the ceilings of this GPU, and what they are."""
    experiment, _ = instantiate(*compose(list(on_a_gpu(part, ("method=autograd",)).words)))
    counted = costs(experiment, experiment.check())
    with controlled(1, "torch", FP32(), "cuda:0"):
        found = ceilings(Place("torch", "cuda:0", "float32"), torch.cuda.synchronize)
    computing = counted.operations / found.operations_per_second
    moving = counted.bytes("float32") / found.bytes_per_second
    told = f"{found.operations_per_second / 1e12:.1f} TFLOP/s, {found.bytes_per_second / 1e12:.2f} TB/s"
    return max(computing, moving), f"{told}: {computing * 1e6:.2f} µs to compute, {moving * 1e6:.2f} µs to move"


def main() -> None:
    """Measure and print."""
    print(machine("1 thread"), flush=True)
    for name in sys.argv[1:] or ("tutorial", "small"):
        part = PARTS[name]
        least, told = ceiling(part)
        runs = part.values * part.seeds[1]
        print(f"\n{name}: {runs} runs; ceiling of a step: {told}")
        print("µs a step  × first × ceiling   with what is done once   s a run more  × first", flush=True)
        first: tuple[float, float] | None = None
        for label, how in HOWS.items():
            asked = on_a_gpu(part, how)
            more = a_run_of_ours(asked)()
            every, step = BARE[(asked, ())]
            first = first or (step, more)
            ratios = f"{step / first[0]:7.1f} {step / least:9.1f} {every * 1e6:24.2f} {more:14.4f} {more / first[1]:8.1f}"
            print(f"{step * 1e6:9.2f} {ratios}  {label}", flush=True)


if __name__ == "__main__":
    main()
