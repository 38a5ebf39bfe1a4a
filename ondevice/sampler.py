"""Print a sampler as the table that a player replays: timesteps and coefficients.

python -m ondevice.sampler pndm --steps 20
python -m ondevice.sampler euler --steps 20 --set use_karras_sigmas=true --json
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from ondevice import cli
from ondevice.base.paths import MODELS
from ondevice.diffusion.samplers import MODEL, NOISE, SAMPLERS, WITHOUT_BETAS, SamplerTable, make_table
from ondevice.diffusion.samplers.pipeline import as_in_pipeline
from ondevice.errors import UsageError
from ondevice.flags import parse_option

HELP = "print a sampler's timesteps and coefficients"
log = logging.getLogger(__name__)
CONFIG_LIMIT = 1 << 20  # bytes of a scheduler_config.json
CONFIG_FIX = "give the scheduler_config.json of a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("name", choices=SAMPLERS, help="the sampler")
    parser.add_argument("--steps", type=int, required=True, help="sampler steps")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a scheduler_config.json (default: Stable Diffusion 1.x's, or none for samplers without betas)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the config, or an option such as eta, strength or sigmas; VALUE is JSON or a word",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, as a bundle stores it")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    if args.config is None and args.name in WITHOUT_BETAS:
        config: dict[str, Any] = {}
    else:
        config, changed = as_in_pipeline(
            read_config(args.config or MODELS / "sd15" / "scheduler" / "scheduler_config.json")
        )
        for line in changed:
            log.warning("%s", line)
    table = make_table(args.name, args.steps, config, **dict(map(parse_option, args.set)))
    if args.json:
        print(json.dumps({"timesteps": [call.timestep for call in table.calls], "table": table.to_json()}))
    else:
        print(show(table))
    return 0


def read_config(path: Path) -> dict[str, Any]:
    """A scheduler_config.json.

    Raises:
        UsageError: the file cannot be read, or is not a JSON object.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_LIMIT + 1)
        config = json.loads(data.decode()) if len(data) <= CONFIG_LIMIT else None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"no config can be read: {error}.", where=str(path), fix=CONFIG_FIX) from None
    if not isinstance(config, dict):
        raise UsageError(
            "not a config (expected a JSON object).",
            where=str(path),
            fix=CONFIG_FIX,
        )
    return config


def show(table: SamplerTable) -> str:
    """One line per row: what the model is told and given, and what becomes of its output."""
    image = f"{table.start_image:.7g} image + " if table.start_image else ""
    lines = [
        f"{table.sampler}, {table.steps} steps, {len(table.calls)} calls, {table.slots} slots",
        f"x0 = {image}{table.start_noise:.7g} noise",
        "",
        "timestep   model's input       then",
    ]
    for call in table.calls:
        head = f"{call.timestep:8.3f}   {call.input_scale:.7f} x{call.sample}"
        for row in call.rows:
            terms = " ".join(f"{weight:+.7g} {source_name(source)}" for source, weight in row.terms) or "0"
            lines.append(f"{head:30s} x{row.slot} = {terms}")
            head = ""
    return "\n".join([*lines, "", f"result: x{table.result}"])


def source_name(source: int) -> str:
    """How a source is printed."""
    return {MODEL: "out", NOISE: "noise"}.get(source, f"x{source}")


if __name__ == "__main__":
    raise SystemExit(cli.main_for("sampler"))
