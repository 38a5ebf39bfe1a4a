"""LiteRT's own converter beside ours: a UNet of diffusers with the same weights through both, run by one interpreter.

    python -m benchmarks.litert_agreement FOLDER [--middle]

FOLDER/env becomes an environment with litert-torch, torch and diffusers (2.1 GB) unless it is there already; both files
go to FOLDER/small or FOLDER/middle. Prints how far each is from PyTorch and both from each other, in parts of the
largest number, with what each converter took; exits with 1 over the bound. The small UNet has every kind of layer of
Stable Diffusion's; `--middle` takes one of 135 million weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from safetensors.numpy import save_file

from benchmarks.agreement_models import MIDDLE, SMALL, TEXT, VAE
from benchmarks.environment import environment
from ondevice.converters.component import Checkpoint
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.export.layout import from_file
from ondevice.export.manifest import read_manifest
from ondevice.export.options import FORMATS, Options
from ondevice.export.runner import feeds
from ondevice.export.writing import export

BOUND = 1e-5
REFERENCE = Path(__file__).with_name("litert_reference.py")
PACKAGES = ("litert-torch>=0.10,<0.11", "diffusers>=0.36,<0.43", "safetensors>=0.5,<0.9")
NAMES = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--middle", action="store_true", help="a UNet of 135 million weights")
    args = parser.parse_args()
    python = environment(args.folder / "env", PACKAGES)
    work = args.folder / ("middle" if args.middle else "small")
    work.mkdir(parents=True, exist_ok=True)
    unet = MIDDLE if args.middle else SMALL
    checkpoint = random_checkpoint_from_configs(text_encoder=TEXT, unet=unet, vae=VAE, seed=0)
    started, used = time.perf_counter(), time.process_time()
    folder = export(checkpoint, work / "ours", FORMATS["tflite"], Options("fp32"), force=True)
    took, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"ours: {took:.1f} s for all components, {used:.1f} s of processors, {peak:,.0f} MB at the most", flush=True)
    inputs = write_case(checkpoint, work)
    subprocess.run([python, "-P", REFERENCE, work], check=True)

    with np.load(work / "torch.npz", allow_pickle=False) as file:
        exact = file["out"]
    ours = by_ours(folder, inputs)
    theirs = by_theirs(work / "reference.tflite", inputs)
    worst = 0.0
    for name, got, expected in (
        ("ours to torch", ours, exact),
        ("litert-torch to torch", theirs, exact),
        ("ours to litert-torch", ours, theirs),
    ):
        error = float(np.abs(got - expected).max() / np.abs(expected).max())
        worst = max(worst, error)
        print(f"{name}: {error:.2g} of the largest")
    for path in (folder / "unet" / "model.tflite", work / "reference.tflite"):
        print(f"{path.relative_to(work)}: {path.stat().st_size / 1e6:.1f} MB, {operations(path)}")
    return int(not worst <= BOUND)


def write_case(checkpoint: Checkpoint, work: Path) -> dict[str, np.ndarray]:
    """The UNet as diffusers reads it, and what both files are given."""
    part = checkpoint.components["unet"]
    (work / "config.json").write_text(json.dumps(part.config))
    save_file(
        {name: np.array(tensor.numpy(), np.float32) for name, tensor in part.weights.items()}, work / "unet.safetensors"
    )
    rng, side = np.random.default_rng(0), part.config["sample_size"]
    inputs = {
        "sample": rng.standard_normal((2, 4, side, side), np.float32),
        "timestep": np.full(1, 500.0, np.float32),
        "encoder_hidden_states": rng.standard_normal((2, 77, part.config["cross_attention_dim"]), np.float32),
    }
    np.savez(work / "inputs.npz", **inputs)  # type: ignore[arg-type]
    return inputs


def by_ours(folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """out_sample of our file, in diffusers' layout."""
    (entry,) = (one for one in read_manifest(folder, ["tflite"]).entries if one.component == "unet")
    ((name, port),) = entry.outputs.items()
    runner = Interpreter(model_path=str(folder / entry.files[0])).get_signature_runner()
    return from_file(port, entry.shapes[name], runner(**feeds(entry, inputs))[port.name], name)


def by_theirs(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The result of litert-torch's file, whose arguments have no names of ours."""
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    given = dict(zip(sorted(runner.get_input_details()), inputs.values(), strict=True))
    (out,) = runner(**given).values()
    return out


def operations(path: Path) -> str:
    """How many ops a file has, and of which kinds the most."""
    content: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in content.operatorCodes]
    counts = Counter(NAMES[codes[op.opcodeIndex]] for op in content.subgraphs[0].operators)
    kinds = ", ".join(f"{name} {count}" for name, count in counts.most_common(8))
    return f"{counts.total()} ops: {kinds}"


if __name__ == "__main__":
    sys.exit(main())
