"""Full-size meaning of the fusion rules: each SD 1.4 graph, rewritten, against the plain one in onnxruntime,
float32, made-up weights.

    python -m benchmarks.fused_full [--component unet] [--latent 64] [--each]

Prints for each component the seconds of rewriting, the memory it added, and the relative error with every rule on; with
`--each`, also with each family off. Needs about 9 GB of RAM and 8 GB of disk. Exits with 1 over the bound.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from ondevice.converters import build
from ondevice.converters.families import family_of
from ondevice.converters.onnx_export import save_onnx
from ondevice.converters.random_weights import random_checkpoint
from ondevice.rewrite import ALL, FUSIONS, rewrite

BOUND = 1e-5
ROLES = tuple(family_of("sd14").roles)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--component", choices=ROLES, action="append")
    parser.add_argument("--latent", type=int, default=64, help="latent height and width")
    parser.add_argument("--each", action="store_true", help="also with each family of rules off")
    args = parser.parse_args()
    worst = 0.0
    for component in args.component or ROLES:
        plain, _ = answer(component, args.latent, [ALL])
        for off in [(), *((family,) for family in FUSIONS if args.each)]:
            got, cost = answer(component, args.latent, off)
            error = float(np.abs(got - plain).max() / np.abs(plain).max())
            worst = max(worst, error)
            print(
                f"{component:<13} {f'without {off[0]}' if off else 'every rule':<24} relative "
                f"error {error:.2e}  {cost}",
                flush=True,
            )
    return int(worst > BOUND)


def answer(component: str, side: int, off: Collection[str]) -> tuple[np.ndarray, str]:
    """What onnxruntime makes of the rewritten graph, and what rewriting cost."""
    sizes = (
        {"batch": 1}
        if component == "text_encoder"
        else {"batch": 2 if component == "unet" else 1, "height": side, "width": side}
    )
    model = build(random_checkpoint("sd14", 0)).graph(component, **sizes)
    inputs = given(model)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    rewrite(model, without=off)
    took, grew = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    with tempfile.TemporaryDirectory() as folder:
        path = save_onnx(model, Path(folder) / f"{component}.onnx")
        result = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
    gc.collect()
    return result, f"rewritten in {took:.2f} s, {grew / 1e3:.0f} MB more at the peak"


def given(model: ir.Model) -> dict[str, np.ndarray]:
    """Normal noise, random tokens and a late timestep, by input name."""
    rng, inputs = np.random.default_rng(0), {}
    for value in model.graph.inputs:
        assert value.shape is not None
        shape = value.shape.numpy()
        if value.dtype == ir.DataType.INT32:
            inputs[str(value.name)] = rng.integers(0, 49408, shape).astype(np.int32)
        else:
            inputs[str(value.name)] = (
                np.float32([981]) if value.name == "timestep" else rng.standard_normal(shape, dtype=np.float32)
            )
    return inputs


if __name__ == "__main__":
    sys.exit(main())
