"""Whether LiteRT's GPU accelerator takes every op of an export's TFLite files, and computes what the CPU does.

python -m benchmarks.litert_gpu FOLDER

FOLDER is what `ondevice convert MODEL --format tflite` wrote. LiteRT's wheel has a WebGPU accelerator, which needs a
Vulkan driver; where there is no GPU, SwiftShader is one that runs on the CPU. Debian's package chromium-common has it,
and need not be installed:

    apt-get download chromium-common && dpkg -x chromium-common_*.deb there
    export LD_LIBRARY_PATH=there/usr/lib/chromium VK_ICD_FILENAMES=there/usr/lib/chromium/vk_swiftshader_icd.json

Each file is loaded in a process of its own: what the accelerator cannot take may end it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

MOST = 1e-3  # of the largest: sines of a GPU are off by that much


def main() -> int:
    """One line per file; 0 where all are on the GPU and right."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.litert_gpu")
    parser.add_argument("path", type=Path, metavar="FOLDER", help="of an export, or one file of it")
    path = parser.parse_args().path
    if path.is_file():
        one(path)
    failed = 0
    for file in sorted(path.glob("*/*.tflite")):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.litert_gpu", str(file)], capture_output=True, text=True, check=False
        )
        failed += done.returncode != 0
        said = done.stdout.strip().splitlines() or [f"ended with {done.returncode}"]
        print(f"{file.parent.name}: {said[-1]}", flush=True)
        if done.returncode:
            print(*(line for line in done.stderr.splitlines() if "INFO" not in line), sep="\n", file=sys.stderr)
    return int(failed > 0)


def one(file: Path) -> None:
    """Run a file on both, say what came out, and end the process: the accelerator's own end is not sure."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.interpreter import Interpreter

    run, rng = Interpreter(str(file), num_threads=1).get_signature_runner(), np.random.default_rng(0)
    feeds = {}
    for name, port in run.get_input_details().items():
        integer = port["dtype"] == np.int32
        feeds[name] = (
            rng.integers(0, 40, port["shape"]).astype(np.int32) if integer else rng.random(port["shape"], "f4")
        )
    want = run(**feeds)
    both = HardwareAccelerator.GPU | HardwareAccelerator.CPU
    model = CompiledModel.from_file(str(file), hardware_accel=both)
    names = model.get_signature_by_index(0)
    given, found = model.create_input_buffers(0), model.create_output_buffers(0)
    for name, buffer in zip(names["inputs"], given, strict=True):
        buffer.write(feeds[name])
    model.run_by_index(0, given, found)
    errors = []
    for name, buffer in zip(names["outputs"], found, strict=True):
        array = buffer.read(want[name].size, np.float32).reshape(want[name].shape)
        errors.append(float(np.abs(array - want[name]).max() / np.abs(want[name]).max()))
    whole = model.is_fully_accelerated()
    print(f"{'all' if whole else 'NOT all'} on the GPU, off by {max(errors):.1e} of the largest", flush=True)
    os._exit(0 if whole and max(errors) <= MOST else 1)


if __name__ == "__main__":
    sys.exit(main())
