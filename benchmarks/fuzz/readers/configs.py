"""Configs of the components and of the scheduler."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from checkpoint_files import KEYS, SCHEDULER, TINY_TEXT, TINY_UNET, TINY_VAE
from tiny_model import SIZES, TINY

from benchmarks.fuzz.mutate.values import json_value
from benchmarks.fuzz.reader import Reader, holds
from ondevice.converters import build
from ondevice.converters.families import FAMILIES, Family, check_joints
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.converters.read.json_text import parse_object
from ondevice.diffusion.samplers import SAMPLERS, WITHOUT_BETAS, SamplerTable, make_table
from ondevice.diffusion.samplers.pipeline import choose
from ondevice.graph.verify import verify_graph
from ondevice.sampler import read_config

_SECOND = TINY_TEXT | {"num_hidden_layers": 1, "projection_dim": 8, "eos_token_id": 2}
_ADDED = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 32}
_DEPTHS = {"transformer_layers_per_block": [1, 2], "cross_attention_dim": 2 * TINY_UNET["cross_attention_dim"]}


def _config_seeds() -> list[bytes]:
    small = {"text_encoder": TINY_TEXT, "unet": TINY_UNET, "vae": TINY_VAE}
    heads = small | {
        "unet": TINY_UNET
        | {"attention_head_dim": [3, 4], "norm_eps": 1e-5, "act_fn": "silu", "center_input_sample": False}
    }
    xl = small | {
        "text_encoder_2": _SECOND,
        "unet": TINY_UNET | _ADDED | _DEPTHS,
        "vae": TINY_VAE | {"force_upcast": True},
    }
    return [json.dumps(value).encode() for value in (small, heads, TINY, xl)]


def _configs(data: bytes) -> tuple[Family, dict[str, Any]]:
    """The configs of an input, each parsed as a file of its own is, and the family that has such parts."""
    value = parse_object(data, "f.json", "use another")
    family = FAMILIES["sdxl" if "text_encoder_2" in value else "sd14"]
    return family, {name: value[name] for name in family.parts if isinstance(value.get(name), dict)}


def _read_configs(data: bytes, _folder: Path) -> None:
    family, raw = _configs(data)
    configs = {name: family.normalize(name, config, f"{name}/config.json") for name, config in raw.items()}
    for name, config in configs.items():
        holds(
            family.normalize(name, config, "again") == config,
            f"the {name}'s config is another one when it is read again",
        )
        if _is_small(config):
            shapes = family.parts[name].architecture.weights(config)
            holds(all(size >= 1 for shape in shapes.values() for size in shape), f"the {name} has an empty weight")
    if len(configs) == len(family.parts):
        check_joints(family, configs, "f")


def _is_small(config: dict[str, Any]) -> bool:
    """So that its graph is made in a moment."""
    numbers = {key: value for key, value in config.items() if type(value) is int}
    of_unet = KEYS["unet"].keys() <= config.keys()
    widths = config["block_out_channels"] if of_unet or KEYS["vae"].keys() <= config.keys() else []
    blocks = config.get("transformer_layers_per_block", 1) if of_unet else 1  # elsewhere nobody reads it
    depth = numbers.get("num_hidden_layers", 1) * numbers.get("layers_per_block", 1) * max(len(widths), 1)
    depth *= max(blocks) if isinstance(blocks, list) else blocks
    return (
        depth <= 8
        and sum(widths) <= 128
        and max(numbers.values(), default=0) <= 1 << 16
        and numbers.get("hidden_size", 1) <= 128
    )


def _read_graphs(data: bytes, _folder: Path) -> None:
    """Configs that are taken make graphs, of made-up weights."""
    family, raw = _configs(data)
    if len(raw) < len(family.parts):
        return
    configs = {name: family.normalize(name, config, f"{name}/config.json") for name, config in raw.items()}
    check_joints(family, configs, "f")
    if not all(map(_is_small, configs.values())):
        return
    model = build(random_checkpoint_from_configs(**raw, seed=1, family=family))
    for role in model.roles:
        verify_graph(model.graph(role, **(SIZES if model.sized(role) else {"batch": 1})))


_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def _scheduler_seeds() -> list[bytes]:
    more = {
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "clip_sample": False,
    }
    more |= {"timestep_spacing": "leading", "trained_betas": None, "solver_order": 2, "rescale_betas_zero_snr": False}
    with_betas = SCHEDULER | _BETAS | more
    requests = [
        {"sampler": name, "steps": 3, "config": {} if name in WITHOUT_BETAS else with_betas, "options": {}}
        for name in SAMPLERS
    ]
    requests += [
        {"sampler": None, "config": _BETAS | {"_class_name": name}}
        for name in ("DEISMultistepScheduler", "DDIMScheduler", "X")
    ]
    requests[1] |= {"options": {"eta": 0.5, "strength": 0.6}}
    requests[2] |= {"options": {"use_karras_sigmas": True, "timestep_spacing": "trailing"}}
    requests[3] |= {"options": {"sigmas": [9.0, 3.5, 0.7]}}
    requests[4] |= {
        "config": {
            "_class_name": "DPMSolverMultistepScheduler",
            "trained_betas": [0.1, 0.2, 0.3, 0.4],
            "num_train_timesteps": 4,
        }
    }
    return [json.dumps(value).encode() for value in requests]


def _read_scheduler(data: bytes, folder: Path) -> None:
    """A scheduler's config as `convert` and `sampler` take it:
    the file, the sampler it asks for, the table of any sampler."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    path = folder / "scheduler_config.json"
    if not isinstance(value, dict) or not isinstance(value.get("config"), dict):
        path.write_bytes(data)
        read_config(path)
        return
    path.write_text(json.dumps(value["config"]))
    config = read_config(path)
    if value.get("sampler") is None:
        chosen = choose(config, None, "f")
        holds(
            choose(chosen.config, None, "f").table == chosen.table,
            "what a bundle keeps of a config makes another table",
        )
        config, value = chosen.config, {"sampler": chosen.sampler, "steps": chosen.table.steps, "options": {}}
    name, steps, options = value.get("sampler"), value.get("steps"), value.get("options")
    if not isinstance(name, str) or type(steps) is not int or steps > 50 or not isinstance(options, dict):
        return
    taken = {key: item for key, item in options.items() if key not in ("name", "steps", "config")}
    table = make_table(name, steps, config, **taken)
    written = json.loads(json.dumps(table.to_json(), allow_nan=False))
    holds(SamplerTable.from_json(written) == table, "a table is another one when it is read again")
    holds(all(math.isfinite(call.timestep) for call in table.calls), "a timestep is not finite")


READERS = (
    Reader("configs", _config_seeds, json_value, _read_configs),
    Reader("config_graphs", _config_seeds, json_value, _read_graphs, memory=96 << 20),
    Reader("scheduler", _scheduler_seeds, json_value, _read_scheduler),
)
