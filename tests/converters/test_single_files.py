"""One file as other tools write it, and parts from files of their own:
the same weights as from the plain checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import (
    TEXT,
    UNET,
    VAE,
    Arrays,
    Op,
    arrays_of,
    ckpt_bytes,
    diffusers_names,
    legacy_bytes,
    message,
    pickled_dict,
    safetensors_bytes,
    safetensors_header,
    same,
    tiny_family,
    write_ckpt,
)
from checkpoint_files import write_safetensors as save

from ondevice.converters.read.checkpoint import Checkpoint, open_checkpoint
from ondevice.converters.read.names import ema_name
from ondevice.errors import CheckpointError


def opened(tmp_path: Path, file: str, arrays: Arrays, **options: Any) -> Checkpoint:
    (write_ckpt if file.endswith("ckpt") else save)(tmp_path / file, arrays)
    return open_checkpoint(tmp_path / file, family=tiny_family(tmp_path / "family"), **options)


def squeezed(arrays: Arrays) -> Arrays:
    """The VAE's attention as Linear layers, and the UNet's projections, too."""
    parts = ("attn_1.", ".proj_in.", ".proj_out.")
    return {
        name: array[:, :, 0, 0] if any(part in name for part in parts) and array.ndim == 4 else array
        for name, array in arrays.items()
    }


SPELLINGS: dict[str, Callable[[Arrays], Arrays]] = {
    "DistributedDataParallel": lambda a: {f"module.{name}": array for name, array in a.items()},
    "compiled UNet": lambda a: {
        name.replace(UNET, f"{UNET}_orig_mod.") if name.startswith(UNET) else name: array for name, array in a.items()
    },
    "twice": lambda a: {f"model.{name}": array for name, array in a.items()},
    "state_dict.": lambda a: {f"state_dict.{name}": array for name, array in a.items()} | {"global_step": np.array(5)},
    "all of them": lambda a: {f"net.model._orig_mod.module.{name}": array for name, array in a.items()},
    "Linear attention": squeezed,
    "new names of the VAE's attention": lambda a: {
        name.replace(".attn_1.q.", ".attn_1.to_q.").replace(".attn_1.proj_out.", ".attn_1.to_out.0."): array
        for name, array in a.items()
    },
    "no text_model.": lambda a: {name.replace(f"{TEXT}text_model.", TEXT): array for name, array in a.items()},
    "leftovers": lambda a: (
        a
        | {
            f"{TEXT}text_model.embeddings.position_ids": np.arange(77)[None],
            f"{TEXT}text_projection.weight": np.eye(20, dtype=np.float32),
            "cond_stage_model.logit_scale": np.array(4.6, np.float32),
            "alphas_cumprod": np.ones(9, np.float32),
            "embedding_manager.string_to_param_dict.*": np.ones((1, 20), np.float32),
            "denoiser.sigmas": np.ones(9, np.float32),
            "safety_checker.concept_embeds": np.ones(9, np.float32),
            "model_ema.decay": np.array(0.9, np.float32),
            "first_stage_model.loss.logvar": np.zeros((), np.float32),
        }
    ),
}


@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
def test_other_spellings_of_the_original_layout(
    tmp_path: Path, tiny: Checkpoint, arrays: Arrays, spelling: str
) -> None:
    same(opened(tmp_path, "m.safetensors", SPELLINGS[spelling](arrays)), tiny)


def test_wrappers_are_noted_and_two_names_for_one_weight_refused(tmp_path: Path, arrays: Arrays) -> None:
    wrapped = {f"module.{name}": array for name, array in arrays.items()}
    assert opened(tmp_path, "m.ckpt", wrapped).notes == (
        "a training tool's module was left out of the names of weights",
    )
    name = f"{VAE}quant_conv.bias"
    said = message(lambda: opened(tmp_path, "m.ckpt", wrapped | {name: arrays[name]}))
    assert said == (
        f"{tmp_path}/m.ckpt: the weight {name} is there under two names (with and without module). "
        "Fix: use another checkpoint."
    )


def test_diffusers_names_in_one_file(tmp_path: Path, tiny: Checkpoint) -> None:
    same(opened(tmp_path, "m.safetensors", diffusers_names(tiny)), tiny)


def nested(*path: str, body: bytes, beside: bytes = b"") -> bytes:
    for key in reversed(path):
        body = b"}(" + Op.text(key) + body + beside + b"u"
    return b"\x80\x02" + body + Op.STOP


def stored(arrays: Arrays) -> list[bytes]:
    return [array.tobytes() for array in arrays.values()]


PATHS = [
    ("state_dict",),
    ("model",),
    ("module", "state_dict"),
    ("model_state_dict",),
    ("params_ema",),
    ("ema",),
    ("whatever",),
]


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_where_trainers_keep_the_weights(
    tmp_path: Path, tiny: Checkpoint, arrays: Arrays, path: tuple[str, ...]
) -> None:
    (tmp_path / "m.ckpt").write_bytes(ckpt_bytes(nested(*path, body=pickled_dict(arrays)), stored(arrays)))
    same(open_checkpoint(tmp_path / "m.ckpt", family=tiny_family(tmp_path / "family")), tiny)


@pytest.mark.parametrize("ema", [False, True])
def test_averages_in_a_dictionary_of_their_own(tmp_path: Path, tiny: Checkpoint, arrays: Arrays, ema: bool) -> None:
    averages = {name: array * 2 for name, array in arrays.items()}
    two = Op.text("model") + pickled_dict(arrays) + Op.text("ema") + pickled_dict(averages, first=len(arrays))
    data = ckpt_bytes(b"\x80\x02}(" + two + b"u.", stored(arrays) + stored(averages))
    (tmp_path / "m.ckpt").write_bytes(data)
    found = open_checkpoint(tmp_path / "m.ckpt", family=tiny_family(tmp_path / "family"), ema=ema)
    if ema:
        np.testing.assert_array_equal(
            arrays_of(found, "unet")["conv_in.bias"], arrays_of(tiny, "unet")["conv_in.bias"] * 2
        )
        assert found.notes[-1] == "the averaged weights (under ema) were taken"
    else:
        same(found, tiny)
        assert found.notes == ("averaged weights (under ema) were ignored; --ema takes them instead",)


def called(module: str, name: str, *arguments: bytes, state: bytes = b"") -> bytes:
    return Op.named(module, name) + Op.tuple(*arguments) + b"R" + (state + b"b" if state else b"")


BESIDE = {
    "omegaconf": called("omegaconf.dictconfig", "DictConfig", state=Op.dict([(Op.text("_content"), Op.dict([]))])),
    "Namespace": called("argparse", "Namespace", state=Op.dict([(Op.text("lr"), Op.number(1))])),
    "datetime": called("datetime", "datetime", Op.text("\x07\xe7")),
    "path": called("pathlib", "PosixPath", Op.text("/"), Op.text("tmp")),
    "enum": called("torch.optim.swa_utils", "Strategy", Op.text("cos")),
    "partial": called(
        "functools",
        "partial",
        Op.named("my.trainer", "f"),
        state=Op.tuple(Op.named("my.trainer", "f"), b")", b"}", b"N"),
    ),
    "numpy dtype": called(
        "numpy", "dtype", Op.text("f8"), b"\x89", b"\x88", state=Op.tuple(Op.number(3), Op.text("<"), b"N", b"N")
    ),
    "attribute dict": b"c"
    + b"pytorch_lightning.utilities.parsing\nAttributeDict\n)\x81}("
    + Op.text("a")
    + Op.number(1)
    + b"ub",
    "a dict subclass": called("easydict", "EasyDict") + b"(" + Op.text("a") + Op.number(1) + b"u",
    "a list subclass": called("my.trainer", "Losses") + b"(" + Op.number(1) + Op.number(2) + b"e",
    "a set": b"\x8f(" + Op.number(1) + b"\x90",
    "keyword arguments": Op.named("my.trainer", "Config") + b")}\x92",
    "an old class": b"(" + Op.number(1) + b"imy.trainer\nOld\n",
    "a called call": called("my.trainer", "maker")[:-1] + b"R)R",
    "odd keys": b"}(" + Op.tuple(Op.number(1), Op.number(2)) + b"N" + b"G?\xf0\0\0\0\0\0\0" + b"Nu",
    "a complex tensor": Op.tensor(Op.storage("ComplexFloatStorage", "x", 2), 0, (2,), (1,)),
    "bytes": b"\x96\x01\0\0\0\0\0\0\0x",
    "dtype and device": Op.tuple(
        Op.named("torch", "float16"), called("torch", "device", Op.text("cuda"), Op.number(0))
    ),
}


@pytest.mark.parametrize("kind", sorted(BESIDE))
@pytest.mark.parametrize("before", [False, True])
def test_what_trainers_keep_beside_the_weights_is_skipped(
    tmp_path: Path, tiny: Checkpoint, arrays: Arrays, kind: str, before: bool
) -> None:
    state, other = Op.text("state_dict") + pickled_dict(arrays), Op.text("hyper_parameters") + BESIDE[kind]
    data = b"\x80\x02}(" + (other + state if before else state + other) + b"u."
    (tmp_path / "m.ckpt").write_bytes(ckpt_bytes(data, stored(arrays)))
    found = open_checkpoint(tmp_path / "m.ckpt", family=tiny_family(tmp_path / "family"))
    same(found, tiny, "vae")
    assert found.notes == ("entries that are no tensors were ignored: hyper_parameters",)


@pytest.mark.parametrize("kind", ["defaultdict", "AttributeDict", "Namespace"])
def test_a_state_dict_may_lie_in_an_object(tmp_path: Path, tiny: Checkpoint, arrays: Arrays, kind: str) -> None:
    items = pickled_dict(arrays)[1:]
    body = {
        "defaultdict": b"}"
        + Op.text("state_dict")
        + called("collections", "defaultdict", Op.named("builtins", "int"))
        + items
        + b"s",
        "AttributeDict": b"}" + Op.text("state_dict") + called("my.tools", "AttributeDict") + items + b"s",
        "Namespace": called("argparse", "Namespace", state=b"}" + Op.text("state_dict") + b"}" + items + b"s"),
    }[kind]
    (tmp_path / "m.ckpt").write_bytes(ckpt_bytes(b"\x80\x02" + body + b".", stored(arrays)))
    same(open_checkpoint(tmp_path / "m.ckpt", family=tiny_family(tmp_path / "family")), tiny)


def test_a_model_that_was_pickled_whole(tmp_path: Path, tiny: Checkpoint, arrays: Arrays) -> None:
    """A module keeps its tensors under _parameters and its parts under _modules;
    here one module per part of every name."""
    tree: dict[str, Any] = {}
    storages = {
        name: (Op.text(name), pickled_dict({name: array}, first=i)) for i, (name, array) in enumerate(arrays.items())
    }
    for name in arrays:
        *parts, leaf = name.split(".")
        at = tree
        for part in parts:
            at = at.setdefault(part, {})
        head, body = storages[name]
        at[leaf] = body[2 + len(head) : -1]  # the tensor alone

    def module(inside: dict[str, Any]) -> bytes:
        leaves = b"".join(Op.text(key) + value for key, value in inside.items() if isinstance(value, bytes))
        parts = b"".join(Op.text(key) + module(value) for key, value in inside.items() if isinstance(value, dict))
        state = b"}(" + Op.text("_parameters") + b"}(" + leaves + b"u" + Op.text("_modules") + b"}(" + parts + b"uu"
        return Op.named("my.models", "Layer") + b")\x81" + state + b"b"

    (tmp_path / "m.pt").write_bytes(ckpt_bytes(b"\x80\x02" + module(tree) + b".", stored(arrays)))
    same(open_checkpoint(tmp_path / "m.pt", family=tiny_family(tmp_path / "family")), tiny)


def test_arrays_that_are_no_tensors_are_refused_where_a_weight_should_be(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    array = called(
        "numpy.core.multiarray", "_reconstruct", Op.named("numpy", "ndarray"), Op.tuple(Op.number(0)), Op.text("b")
    )
    plain = {"a": np.ones(2, np.float32)}
    for name in ("w", "position_ids"):
        path.write_bytes(
            ckpt_bytes(b"\x80\x02" + pickled_dict(plain)[:-1] + Op.text(name) + array + b"u.", stored(plain))
        )
        said = message(lambda: open_checkpoint(path, family="sd14"), CheckpointError)
        odd = f"{path} tensor w: it is made by numpy.core.multiarray._reconstruct, which is no plain torch tensor."
        assert said.startswith(odd) == (name == "w")
    path.write_bytes(ckpt_bytes(b"\x80\x02" + Op.dict([(Op.text("w"), array)]) + b".", []))
    assert message(lambda: open_checkpoint(path, family="sd14")).startswith(odd)
    quantized = Op.tensor(Op.storage("QInt8Storage", "0", 2), 0, (2,), (1,))
    path.write_bytes(ckpt_bytes(b"\x80\x02" + Op.dict([(Op.text("w"), quantized)]) + b".", []))
    assert "tensor w: it is made by torch._utils._rebuild_tensor_v2, which" in message(
        lambda: open_checkpoint(path, family="sd14")
    )
    path.write_bytes(
        ckpt_bytes(
            b"\x80\x02" + called("my.models", "Unet", state=Op.dict([(Op.text("depth"), Op.number(4))])) + b".", []
        )
    )
    assert message(lambda: open_checkpoint(path, family="sd14")) == (
        f"{path}: the file holds a whole object (my.models.Unet), not named tensors."
        " Fix: load it where its class is installed, and save its state_dict()."
    )


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_files_of_old_torch(tmp_path: Path, tiny: Checkpoint, arrays: Arrays, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(legacy_bytes(arrays))
    same(open_checkpoint(path, family=tiny_family(tmp_path / "family")), tiny)


def test_averages_without_last_weights(tmp_path: Path, tiny: Checkpoint, arrays: Arrays) -> None:
    averages = {ema_name(name) if name.startswith(UNET) else name: array for name, array in arrays.items()}
    found = opened(tmp_path, "m.safetensors", averages, ema=True)
    same(found, tiny)
    assert found.notes == ("the UNet's averaged weights (model_ema.*) were taken",)


def test_a_file_that_says_how_it_was_trained(tmp_path: Path, tiny: Checkpoint, arrays: Arrays) -> None:
    assert "prediction_type" not in opened(tmp_path, "m.safetensors", arrays).scheduler
    marked = opened(
        tmp_path, "m.safetensors", arrays | {"v_pred": np.zeros(0, np.float32), "ztsnr": np.zeros(0, np.float32)}
    )
    same(marked, tiny)
    assert (marked.scheduler["prediction_type"], marked.scheduler["rescale_betas_zero_snr"], marked.notes) == (
        "v_prediction",
        True,
        (),
    )
    header = safetensors_header(arrays) | {"__metadata__": {"modelspec.prediction_type": "v"}}
    (tmp_path / "k.safetensors").write_bytes(safetensors_bytes(header, b"".join(stored(arrays))))
    said = open_checkpoint(tmp_path / "k.safetensors", family=tiny_family(tmp_path / "family"))
    assert said.scheduler["prediction_type"] == "v_prediction"
