"""Small diffusers and transformers modules as ONNX files, by every exporter that torch has."""

import functools
import warnings

import pytest
from parity.modules import TEXT, VAE, torch_module

# Stable Diffusion 1.4's blocks, so that every figure of the fused graph is the full model's; widths a test can afford.
UNET = {
    "block_out_channels": [16, 24, 32, 32],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 20,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "sample_size": 16,
}
CONFIGS = {
    "text_encoder": TEXT | {"num_hidden_layers": 3},
    "unet": UNET,
    "vae_decoder": VAE | {"layers_per_block": 2},
    "vae_encoder": VAE | {"layers_per_block": 2},
}
NAMES = {
    "text_encoder": (["input_ids"], ["last_hidden_state", "pooler_output"]),
    "unet": (["sample", "timestep", "encoder_hidden_states"], ["out_sample"]),
    "vae_decoder": (["latent_sample"], ["sample"]),
    "vae_encoder": (["sample"], ["latent_parameters"]),
}
AXES = {
    "input_ids": {0: "batch"},
    "sample": {0: "batch", 2: "height", 3: "width"},
    "timestep": {},
    "encoder_hidden_states": {0: "batch"},
    "latent_sample": {0: "batch", 2: "height", 3: "width"},
}
TRACED = {"batch": 2, "height": 16, "width": 24}  # latent sizes that a static file is fixed to
EXPORTERS = ["dynamo 18", "dynamo 20", "dynamo 21", "dynamo 23", "dynamo 25", "legacy 17"]


def part_of(component):
    """The checkpoint component that a graph belongs to."""
    return "vae" if component.startswith("vae") else component


@functools.cache
def module(component):
    """The torch module whose graph `component` is."""
    return torch_module(part_of(component), CONFIGS[component])


def forward(component, network=None):
    """A module that takes and gives what the exported file does:
    tensors by position, a tuple where there are several."""
    torch = pytest.importorskip("torch")

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network or module(component)

    class Text(Wrapped):
        def forward(self, input_ids):
            return self.inner(input_ids, return_dict=False)

    class Unet(Wrapped):
        def forward(self, sample, timestep, encoder_hidden_states):
            return self.inner(sample, timestep, encoder_hidden_states, return_dict=False)[0]

    class Decoder(Wrapped):
        def forward(self, latent_sample):
            return self.inner.decode(latent_sample, return_dict=False)[0]

    class Encoder(Wrapped):
        def forward(self, sample):
            return self.inner.encode(sample).latent_dist.parameters

    return {"text_encoder": Text, "unet": Unet, "vae_decoder": Decoder, "vae_encoder": Encoder}[component]().eval()


def arguments(component, config, *, batch, height, width, timestep="float [1]"):
    """Tensors to call or trace `forward(component)` with. `timestep`: its type and shape, as exporters choose them."""
    torch = pytest.importorskip("torch")
    numbers = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(shape, generator=numbers)

    if component == "text_encoder":
        return (torch.randint(3, config["vocab_size"], (batch, 77), generator=numbers),)
    if component == "unet":
        kind, shape = timestep.split()
        value = torch.full(
            {"[1]": (1,), "[]": (), "[batch]": (batch,)}[shape],
            981,
            dtype=torch.float32 if kind == "float" else torch.int64,
        )
        return normal(batch, 4, height, width), value, normal(batch, 77, config["cross_attention_dim"])
    if component == "vae_decoder":
        return (normal(batch, config["latent_channels"], height, width),)
    scale = 2 ** (len(config["block_out_channels"]) - 1)
    return (normal(batch, 3, scale * height, scale * width),)


def export(component, exporter, path, *, dynamic=False, network=None, config=None, timestep="float [1]", sizes=TRACED):
    """Write `path` with the exporter "dynamo OPSET" or "legacy OPSET"; weights go to a file beside it."""
    torch = pytest.importorskip("torch")
    kind, opset = exporter.split()
    inputs, outputs = NAMES[component]
    given = arguments(component, config or CONFIGS[component], timestep=timestep, **sizes)
    axes = {name: dict(AXES[name]) for name in inputs}
    if timestep.endswith("[batch]"):
        axes["timestep"] = {0: "batch"}
    options = {
        "input_names": inputs,
        "output_names": outputs[: 2 if component == "text_encoder" else 1],
        "opset_version": int(opset),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if kind == "legacy":
            how = {"dynamo": False, "dynamic_axes": axes if dynamic else None}
        else:
            symbols = dict.fromkeys(("batch", "height", "width"), torch.export.Dim.DYNAMIC)
            shapes = [{axis: symbols[name] for axis, name in axes[key].items()} for key in inputs]
            how = {
                "dynamo": True,
                "external_data": True,
                "verbose": False,
                "dynamic_shapes": tuple(shapes) if dynamic else None,
            }
        torch.onnx.export(forward(component, network), given, str(path), **options, **how)
    return path
