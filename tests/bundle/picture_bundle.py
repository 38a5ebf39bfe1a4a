"""Every component of a text-to-image model at the smallest sizes:
what its plans take and make is right, what they compute is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bundle.tiny_bundle import OPENCL, write_tiny

from ondevice.bundle import TokenizerFiles
from ondevice.converters.families import FAMILIES
from ondevice.lower.program import DTYPES
from ondevice.plan.plan import ALIGN, Dispatch, Kernel, Operand, Plan

FILL = (
    "KERNEL(fill)(IN(float, x), OUT(float, y), ARG(int, n) GRID) {\n  const int i = GID(0);\n"
    "  if (i < n) y[i] = 0.5f;\n}\n"
)
VAE = {"latent_channels": 4, "block_out_channels": [8, 8], "scaling_factor": 0.18215}
PIPELINE = FAMILIES["sd14"].pipeline(FAMILIES["sd14"], {"vae": VAE}) | {"sampler": {"name": "tiny", "steps": 2}}
Port = tuple[str, str, tuple[int, ...]]  # name, dtype, shape
PLACE = {"batch": 1, "height": 4, "width": 2}  # latents; a picture is 8 by 4 pixels
LATENTS, PICTURE, STATES = (1, 4, 4, 2), (1, 3, 8, 4), (1, 3, 5)


def component_plan(component: str, sizes: dict[str, int], inputs: list[Port], output: Port) -> Plan:
    """A plan that fills its output."""
    operands: list[Operand] = []
    offset = 0
    for name, dtype, shape in (*inputs, output):
        size = DTYPES[dtype]
        for side in shape:
            size *= side
        operands.append(Operand(name, dtype, shape, size, offset=offset))
        offset += -(-size // ALIGN) * ALIGN
    last = len(inputs)
    n = operands[last].nbytes // 4
    call = Dispatch(0, (0, last), 1, (n,), (n, 1, 1), (1, 1, 1), "/fill", "Fill", 0, 0, 0)
    return Plan(
        component, sizes, "f32", offset, tuple(operands), tuple(range(last)), (last,), (Kernel("fill", ()),), (call,)
    )


def picture_plans() -> list[Plan]:
    """Text encoder, UNet, VAE decoder and encoder, and a decoder in three stages of bands of 6 rows of pixels."""

    def stage(number: int, inputs: list[Port], output: Port) -> Plan:
        return component_plan("vae_decoder", PLACE | {"stage": number, "rows": 6}, inputs, output)

    statistics: list[Port] = [("b:mean", "f32", (2,)), ("b:variance", "f32", (2,))]
    unet: list[Port] = [("sample", "f32", LATENTS), ("timestep", "f32", (1,)), ("encoder_hidden_states", "f32", STATES)]
    return [
        component_plan(
            "text_encoder", {"batch": 1}, [("input_ids", "i32", (1, 3))], ("last_hidden_state", "f32", STATES)
        ),
        component_plan("unet", PLACE, unet, ("out_sample", "f32", LATENTS)),
        component_plan("vae_decoder", PLACE, [("latent_sample", "f32", LATENTS)], ("sample", "f32", PICTURE)),
        component_plan("vae_encoder", PLACE, [("sample", "f32", PICTURE)], ("latent_parameters", "f32", (1, 8, 4, 2))),
        stage(1, [("latent_sample", "f32", LATENTS)], ("a", "f32", (1, 4, 2, 4))),
        stage(2, [("a", "f32", (1, 3, 2, 4))], ("b", "f32", (1, 6, 4, 4))),
        stage(3, [("b", "f32", (1, 6, 4, 4)), *statistics], ("sample", "f32", (1, 6, 4, 3))),
    ]


def write_picture(path: Path, **changes: Any) -> Path:
    """Write the bundle; `changes` replace arguments of write_bundle."""
    arguments: dict[str, Any] = {
        "plans": picture_plans(),
        "weights": {},
        "kernels": {"fill.cl": FILL, "prelude/opencl.h": OPENCL},
        "tokenizers": {"tokenizer": TokenizerFiles({"vocab.json": b"{}", "merges.txt": b"#version: 0.2\n"}, 3)},
        "pipeline": PIPELINE,
        "rewrites": {},
    }
    return write_tiny(path, **(arguments | changes))
