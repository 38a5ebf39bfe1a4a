"""Which runtimes there are, and what all of them compute."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

import ondevice
from ondevice import converters
from ondevice.base import machine, paths
from ondevice.base.publish import published_file
from ondevice.converters import build
from ondevice.converters.component import Checkpoint
from ondevice.converters.families import family_of
from ondevice.converters.families.controlled import NETS, controlled
from ondevice.converters.source import Source
from ondevice.errors import PeerError, UsageError

COMPARED = ("unet", "vae_decoder", "text_encoder")
STAMP = "stamp.json"  # beside what was converted: what it was made by
Run = Callable[[], np.ndarray]  # once through, inputs and output included


@dataclass(frozen=True, slots=True)
class Loaded:
    """A runtime that has read its model. `once_s`: seconds that it takes once per text, before any run: what of the
    task depends on the text alone, where the runtime is given that apart (families/hoisted.py); 0 where each run does
    all of it."""

    run: Run
    once_s: float = 0.0


class Module(Protocol):
    """What a module of this package has. `option` is the row's in PEERS."""

    def convert(self, task: Task, folder: Path, option: str) -> None:
        """Write what the runtime reads into an empty folder."""
        ...

    def load(self, folder: Path, inputs: Mapping[str, np.ndarray], threads: int, option: str) -> Loaded:
        """Read it. A run is once through on `inputs` (by the graph's names),
        and returns the graph's first output, float32."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """A runtime, at one precision."""

    name: str
    what: str
    module: str  # of this package
    files: str  # folder of what it reads; rows with one folder share it
    option: str = ""
    packages: tuple[str, ...] = ()  # that it runs on
    to_convert: tuple[str, ...] = ()  # that only the conversion needs

    def missing(self, *, to_run: bool = False) -> list[str]:
        """Packages that are not installed; with `to_run`, of those that a converted model runs on."""
        needed = self.packages if to_run else (*self.packages, *self.to_convert)
        return [name for name in needed if importlib.util.find_spec(name) is None]

    def versions(self) -> dict[str, str]:
        """Installed versions of its packages."""
        return _versions((*self.packages, *self.to_convert))

    def load_module(self) -> Module:
        """Its two functions. Imports the runtime only where they are called."""
        module: Module = importlib.import_module(f"ondevice.measure.peers.{self.module}")  # type: ignore[assignment]
        return module


_FOLDERS = {
    "ondevice": Path(ondevice.__file__).resolve().parent,
    "converters": Path(converters.__file__).resolve().parent,
    "shaders": paths.SHADERS,
}
_SOURCES = {".py", ".toml", ".cl", ".h", ".metal", ".json", ".txt"}
_MODULES = ("torch", "diffusers", "transformers", "safetensors")
PEERS = {
    peer.name: peer
    for peer in (
        Peer("ours", "this project, fp32 storage", "ours", "ours-f32", "f32"),
        Peer("ours-fp16", "this project, fp16 storage, fp32 arithmetic", "ours", "ours-f16", "f16"),
        Peer("ours-bf16", "this project, fp16 storage, products in bf16", "ours", "ours-f16-bf16", "f16 bf16"),
        Peer("ours-bf16x3", "this project, fp32 storage, three products of bf16", "ours", "ours-f32-x3", "f32 bf16x3"),
        Peer("ncnn", "ncnn, fp32, Winograd on", "ncnn_runtime", "ncnn", "", ("ncnn",), ("pnnx", *_MODULES)),
        Peer("onnxruntime", "onnxruntime, fp32", "onnxruntime_cpu", "onnx", "", ("onnxruntime",)),
        Peer("litert", "LiteRT (TFLite) with XNNPACK, fp32", "litert", "tflite", "", ("ai_edge_litert",)),
        Peer("openvino", "OpenVINO, f32", "openvino_cpu", "onnx", "f32", ("openvino",)),
        Peer("openvino-default", "OpenVINO at the precision it chooses", "openvino_cpu", "onnx", "", ("openvino",)),
        Peer("torch", "PyTorch eager, diffusers' modules, fp32", "torch_eager", "torch", "", _MODULES),
    )
}


@dataclass(frozen=True, slots=True)
class Task:
    """What every peer computes: one component of one checkpoint at fixed sizes
    (batch; height and width in latent units)."""

    source: Source
    component: str
    sizes: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> Task:
        """As `write` left it."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(Source(**content.pop("source")), **content)

    def write(self, path: Path) -> None:
        with published_file(path) as file:
            file.write(json.dumps(asdict(self)).encode())

    def checkpoint(self) -> Checkpoint:
        """The weights, lazy.

        Raises:
            UsageError: they come as exported graphs: other runtimes need the weights themselves.
            OnDeviceError: the checkpoint cannot be read.
        """
        opened = self.source.open()
        if opened.graphs:
            what = "other runtimes are given weights, and this is a folder of ONNX graphs."
            raise UsageError(what, where=opened.source, fix="name a checkpoint, or --random-weights 0")
        return opened

    def graph(self) -> ir.Model:
        """The component in plain primitives, whole: with what ours computes once per text."""
        return build(self.checkpoint(), whole=True).graph(self.component, **self.sizes)

    def part(self) -> str:
        """The checkpoint's component that the weights are in."""
        nets = NETS[: len(self.source.controlnet)]
        return controlled(family_of(self.source.model), nets).roles[self.component].part

    def name(self) -> str:
        """Such as "unet batch=1 height=64 width=64"."""
        return " ".join([self.component, *(f"{name}={size}" for name, size in self.sizes.items())])

    def key(self) -> str:
        """Folder name of everything made for this task: the same weights at the same sizes give the same one.

        All one-dimensional weights are looked at (biases and norms: training changes them all), since reading
        everything would take longer than most conversions.
        """
        opened = self.checkpoint()
        part = opened.components[self.part()]
        digest = hashlib.sha256(f"{opened.family} {opened.source} {json.dumps(part.config, sort_keys=True)}".encode())
        for name, tensor in part.weights.items():
            digest.update(name.encode())
            if tensor.shape.rank() == 1:
                digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        sizes = "x".join(str(size) for size in self.sizes.values())
        return f"{self.source.model}-{self.component}-{sizes}-{digest.hexdigest()[:12]}"


def stamp(peer: Peer) -> dict[str, Any]:
    """What a conversion depends on beside the weights: it is done again where this has changed.
    Of this project that is all of it."""
    return {"sources": package_digest(), "versions": _versions(peer.to_convert)}


@cache
def package_digest() -> str:
    """SHA-256 of every file of the package, by path.

    Raises:
        PeerError: one of its folders is not there, so that changes in it would go unnoticed.
    """
    digest = hashlib.sha256()
    for name, folder in _FOLDERS.items():
        if not folder.is_dir():
            raise PeerError(f"the package's folder {name} is missing.", where=str(folder), fix="install ondevice again")
        for path in sorted(folder.rglob("*")):
            if path.suffix in _SOURCES and path.is_file():
                digest.update(
                    f"{name}/{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode()
                    + path.read_bytes()
                )
    return digest.hexdigest()


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Of those that are installed."""
    return {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name) is not None}


def named(names: str | None) -> list[Peer]:
    """The peers of `--only`, in its order, or all. Raises UsageError for one there is not."""
    chosen = list(PEERS) if names is None else [name for name in names.split(",") if name]
    if unknown := [name for name in chosen if name not in PEERS]:
        raise UsageError(f"there is no peer {unknown[0]} (expected some of {', '.join(PEERS)}).", where="--only")
    if len(set(chosen)) != len(chosen) or not chosen:
        raise UsageError(f"it must name each peer once (got {names!r}).", where="--only")
    return [PEERS[name] for name in chosen]


def cores_of(text: str | None) -> list[int]:
    """`0,1` as numbers. Raises UsageError for a core that this process may not use."""
    allowed = machine.available_cores()
    if text is None:
        return allowed
    cores = [int(word) for word in text.split(",") if word.isdecimal()]
    if ",".join(map(str, cores)) != text or len(set(cores)) != len(cores) or not set(cores) <= set(allowed):
        have = ",".join(map(str, allowed))
        raise UsageError(
            f"{text!r} is not a list of cores (expected some of {have}).",
            where="--cores",
            fix=f"use --cores {allowed[0]}",
        )
    return cores
