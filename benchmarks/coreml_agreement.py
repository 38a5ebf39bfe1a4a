"""coremltools' own torch front end beside ours: a UNet and a VAE of diffusers with the same weights through both, each
evaluated from its saved packages by one interpreter, and compared with PyTorch.

    python -m benchmarks.coreml_agreement FOLDER [--middle] [--ios 18] [--component unet]

Needs the extras `dev` and `reference`. Packages go to FOLDER/ours and FOLDER/theirs. Prints how far each component is
from PyTorch and both are from each other, in parts of the largest number, and what each converter took, in a process of
its own; exits with 1 over the bound. The small UNet has every kind of layer of Stable Diffusion's; `--middle` takes one
of 135 million weights.
"""

from __future__ import annotations

import argparse
import logging
import resource
import shutil
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.agreement_models import MIDDLE, SMALL, TEXT, VAE
from ondevice.compiler.jobs import Job
from ondevice.compiler.programs import fused_graphs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.export.coreml import writer
from ondevice.export.manifest import Entry
from ondevice.export.options import FORMATS, Options
from ondevice.export.runner import feeds
from ondevice.export.runtimes import mil
from ondevice.export.runtimes.mil_file import read_package

BOUND = 1e-5
PORTS = {  # component: inputs in the module's order, its output
    "unet": (("sample", "timestep", "encoder_hidden_states"), "out_sample"),
    "vae_decoder": (("latent_sample",), "sample"),
    "vae_encoder": (("sample",), "latent_parameters"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--middle", action="store_true", help="a UNet of 135 million weights")
    parser.add_argument("--ios", type=int, choices=[17, 18], default=17)
    parser.add_argument("--component", choices=PORTS, action="append", help="only that (default: all)")
    args = parser.parse_args()
    unet = MIDDLE if args.middle else SMALL
    worst = 0.0
    for component in args.component or PORTS:
        kept: dict[str, Entry] = {}
        for convert in (ours, theirs):
            folder = args.folder / convert.__name__
            folder.mkdir(parents=True, exist_ok=True)
            with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
                entry, took, peak = alone.submit(measured, convert, component, unet, folder, args.ios).result()
            kept[convert.__name__] = entry
            size = sum(path.stat().st_size for path in (folder / entry.files[0]).rglob("*") if path.is_file())
            said = f"{took:.1f} s of processors, {peak:,.0f} MB of memory at most, {size / 1e6:.1f} MB written"
            print(f"{component}, {convert.__name__}: {said}", flush=True)
        inputs = inputs_of(component, kept["ours"])
        exact = by_torch(checkpoint_of(unet), component, inputs)
        found = {name: evaluated(args.folder / name, entry, inputs, component) for name, entry in kept.items()}
        for what, got, want in (
            ("ours to PyTorch", found["ours"], exact),
            ("coremltools' to PyTorch", found["theirs"], exact),
            ("ours to coremltools'", found["ours"], found["theirs"]),
        ):
            error = float(np.abs(got - want).max() / np.abs(want).max())
            worst = max(worst, error)
            print(f"{component}, {what}: {error:.2g} of the largest", flush=True)
        for name, entry in kept.items():
            print(f"{component}, {name}: {operations(args.folder / name / entry.files[0])}", flush=True)
    return int(not worst <= BOUND)


def checkpoint_of(unet: dict[str, Any]) -> Checkpoint:
    return random_checkpoint_from_configs(text_encoder=TEXT, unet=unet, vae=VAE, seed=0)


def measured(convert: Any, component: str, unet: dict[str, Any], folder: Path, ios: int) -> tuple[Entry, float, float]:
    """(what was written, seconds of processors, MB of the process at most)."""
    started = time.process_time()
    entry = convert(checkpoint_of(unet), component, unet["sample_size"], folder, ios)
    return entry, time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(checkpoint: Checkpoint, component: str, side: int, folder: Path, ios: int) -> Entry:
    """A component's package by our converter, in float32."""
    job = Job(component, {"batch": 2 if component == "unet" else 1, "height": side, "width": side})
    model = build(checkpoint, published=True)
    (fused,) = fused_graphs(model, Recipe(without=FORMATS["coreml"].without), [job])
    for package in folder.glob("*.mlpackage"):
        shutil.rmtree(package)
    return writer.write(fused.graph, job, folder, Options(dtype="fp32", flags={"ios": ios}))


def theirs(checkpoint: Checkpoint, component: str, side: int, folder: Path, ios: int) -> Entry:
    """The same by coremltools from the module that torch.export has seen."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import coremltools
    import torch

    module, shapes = module_of(checkpoint, component), shapes_of(component, side)
    with torch.no_grad():
        seen = torch.export.export(module, tuple(torch.ones(shape) for shape in shapes))
    model = coremltools.convert(
        seen.run_decompositions({}),
        convert_to="mlprogram",
        inputs=[coremltools.TensorType(name=n, shape=s) for n, s in zip(PORTS[component][0], shapes, strict=True)],
        outputs=[coremltools.TensorType(name="result")],
        minimum_deployment_target={17: coremltools.target.iOS17, 18: coremltools.target.iOS18}[ios],
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )
    model.save(str(folder / f"{component}.mlpackage"))
    return Entry(component, (f"{component}.mlpackage",), {}, {}, {})


def shapes_of(component: str, side: int) -> tuple[tuple[int, ...], ...]:
    """Of a module's inputs; the small VAE's pictures are twice as large as its latents."""
    if component == "unet":
        return (2, 4, side, side), (1,), (2, TEXT["max_position_embeddings"], TEXT["hidden_size"])  # type: ignore
    return ((1, 4, side, side),) if component == "vae_decoder" else ((1, 3, 2 * side, 2 * side),)


def module_of(checkpoint: Checkpoint, component: str) -> Any:
    """diffusers' module with the checkpoint's weights, from tensors to a tensor."""
    import diffusers
    import torch

    part = checkpoint.components["vae" if component.startswith("vae") else component]
    state = {name: torch.from_numpy(np.array(tensor.numpy(), np.float32)) for name, tensor in part.weights.items()}
    kind = diffusers.UNet2DConditionModel if component == "unet" else diffusers.AutoencoderKL
    whole = kind.from_config(part.config)
    whole.load_state_dict(state)

    class Tensors(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, *given: Any) -> Any:
            if component == "unet":
                return self.whole(*given, return_dict=False)[0]
            if component == "vae_decoder":
                return self.whole.decode(*given, return_dict=False)[0]
            return self.whole.encode(*given).latent_dist.parameters

    return Tensors().eval()


def inputs_of(component: str, entry: Entry) -> dict[str, np.ndarray]:
    """Normal noise by our names; a step in the middle."""
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal(entry.shapes[name], dtype=np.float32) for name in PORTS[component][0]}
    return given | ({"timestep": np.full(1, 481, np.float32)} if component == "unet" else {})


def by_torch(checkpoint: Checkpoint, component: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    with torch.no_grad():
        result: np.ndarray = module_of(checkpoint, component)(*map(torch.from_numpy, inputs.values())).numpy()
    return result


def evaluated(folder: Path, entry: Entry, inputs: dict[str, np.ndarray], component: str) -> np.ndarray:
    """What a saved package gives."""
    given = feeds(entry, inputs) if entry.inputs else inputs
    results = mil.load(folder, entry).run(given)
    return results[entry.outputs[PORTS[component][1]].name if entry.outputs else "result"]


def operations(package: Path) -> str:
    """How many of each op, the most frequent first."""
    kinds = Counter(one.kind for one in read_package(package).operations if one.kind != mil.CONSTANT)
    return f"{kinds.total()} ops: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(12))


if __name__ == "__main__":
    sys.exit(main())
