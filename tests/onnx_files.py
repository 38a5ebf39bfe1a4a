"""Folders of ONNX files as an exporter leaves them, written from our own graphs so that tests need no torch."""

import numpy as np
import onnx
import onnx_ir as ir
from checkpoint_files import ROLES, SCHEDULER, TINY_TEXT, TINY_UNET, TINY_VAE, write_json

from ondevice.converters import build
from ondevice.converters.onnx_export import save_onnx
from ondevice.converters.onnx_import.imported import legalise

CONFIGS = {"text_encoder": TINY_TEXT, "unet": TINY_UNET, "vae_decoder": TINY_VAE, "vae_encoder": TINY_VAE}
SIZE = {"height": 8, "width": 6}  # of latents


def write_onnx_folder(folder, checkpoint, components=ROLES, batch=2):
    """`checkpoint`'s graphs with their configs, scheduler and tokenizer; all at batch 1 but the UNet."""
    model = build(checkpoint, whole=True)
    for name in components:
        sizes = {"batch": 1} if name == "text_encoder" else SIZE | {"batch": batch if name == "unet" else 1}
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_onnx(model.graph(name, **sizes), folder / name / "model.onnx")
        write_json(folder / name / "config.json", CONFIGS[name])
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    for tokenizer, files in checkpoint.tokenizers.items():
        (folder / tokenizer).mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / tokenizer / name).write_bytes(data)
    return folder


def change(path, edit):
    """Let `edit(proto)` change an .onnx file; its external data stays as it is."""
    proto = onnx.load(path, load_external_data=False)
    edit(proto)
    path.write_bytes(proto.SerializeToString())


def make_dynamic(proto):
    """Free the axes that an exporter names: those of inputs and outputs,
    and all that is known of the values between."""
    names = {0: "batch", 2: "height", 3: "width"}
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        for axis in range(len(dims)) if value.name != "timestep" else ():
            if axis == 0 or len(dims) == 4:
                dims[axis].dim_param = names.get(axis, "channels")
    del proto.graph.value_info[:]


def parsed(text, opset=18, **constants):
    """A graph from ONNX's text form, with `constants` as its initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> g {text}')
    for given in [value for value in proto.graph.input if value.name in constants]:
        proto.graph.input.remove(given)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    return ir.from_proto(proto)


def legal(text, opset=18, **constants):
    """That graph after an import's passes."""
    model = parsed(text, opset, **constants)
    legalise(model, "g.onnx")
    return model
