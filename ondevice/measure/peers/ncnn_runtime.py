"""ncnn on what pnnx makes of a traced module: float32 storage and arithmetic,
everything else (Winograd among it) at its default."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ondevice.errors import PeerError
from ondevice.measure.peers.peer import Loaded, Task

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"
NUMPY_INPUTS = "inputs.txt"  # which of our inputs in0, in1, ... are


def convert(task: Task, folder: Path, option: str) -> None:
    """Trace the module, and let pnnx turn the trace into ncnn's two files.

    pnnx makes ncnn's SDPA layer of scaled_dot_product_attention, but not of a causal one: the text encoder's
    is spelled out.
    """
    import pnnx
    import torch

    from ondevice.graph.inputs import inputs_of
    from ondevice.measure.peers.modules import INPUTS, arguments, module_of, weights_of

    part = task.checkpoint().components[task.part()]
    module = module_of(task.component, part, dict(weights_of(part)), plain_attention=True)
    given = arguments(task.component, inputs_of(task.graph()))
    trace = folder / "trace.pt"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sizes become constants is what is wanted here
        torch.jit.trace(module, given, check_trace=False).save(str(trace))
    shapes = ",".join(f"[{','.join(map(str, x.shape))}]{'i64' if x.dtype == torch.int64 else 'f32'}" for x in given)
    del module
    command = [pnnx.EXEC_PATH, trace.name, f"inputshape={shapes}", "fp16=0", f"ncnnparam={PARAM}", f"ncnnbin={BIN}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / BIN).is_file():
        raise PeerError(f"pnnx failed (exit code {done.returncode}): {done.stderr.strip()[-300:]}", where=task.name())
    (folder / NUMPY_INPUTS).write_text("\n".join(INPUTS[task.component]), "utf-8")
    for path in folder.iterdir():  # the trace and pnnx's own form of it are as large as the model
        if path.name not in (PARAM, BIN, NUMPY_INPUTS):
            path.unlink()


def load(folder: Path, inputs: Mapping[str, np.ndarray], threads: int, option: str) -> Loaded:
    """A network; a new extractor per run, as its documentation has it."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        if hasattr(net.opt, f"use_{name}"):
            setattr(net.opt, f"use_{name}", False)
    if net.load_param(str(folder / PARAM)) or net.load_model(str(folder / BIN)):
        raise PeerError("ncnn cannot read what pnnx wrote.", where=str(folder))
    given = [_without_batch(inputs[name]) for name in (folder / NUMPY_INPUTS).read_text("utf-8").splitlines()]

    def run() -> np.ndarray:
        with net.create_extractor() as extractor:
            for number, array in enumerate(given):
                extractor.input(f"in{number}", ncnn.Mat(array))
            failed, out = extractor.extract("out0")
            if failed:
                raise PeerError(f"ncnn stopped with {failed}.", where="extract")
            return np.array(out)[None]

    return Loaded(run)


def _without_batch(array: np.ndarray) -> np.ndarray:
    """ncnn has no batch axis; a scalar stays one value."""
    return np.ascontiguousarray(array[0] if array.ndim > 1 else array)
