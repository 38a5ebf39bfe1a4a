"""A bundle for any pipeline: tiny plans whose ports are what the pipeline says, and whose outputs depend on every
input. What they compute means nothing; each pass is by itself, so that passes at once and one by one are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bundle.tiny_bundle import METAL, OPENCL
from diffusion.sampler_helpers import SD15
from small_tokenizer import SPECIAL, small_files
from unigram_files import bundle_files

from ondevice.bundle import Contents, TokenizerFiles, write_bundle
from ondevice.diffusion.samplers import make_table
from ondevice.lower.program import DTYPES
from ondevice.plan.plan import ALIGN, Dispatch, Kernel, Operand, Plan

VALUE = """\
  const int i = GID(0);
  if (i >= n) return;
  const int at = i % per_pass, place = (at + at / of_x * 5 + (of_x == per_pass)) % of_x;  // parts of a picture meet
  const float value = (float)x[(i / per_pass) * step + place] * weight;
"""
FIRST = f"""\
KERNEL(first)(IN(NUMBER, x), OUT(float, y), ARG(int, n), ARG(int, per_pass), ARG(int, of_x), ARG(int, step),
              ARG(float, weight) GRID) {{
{VALUE}  y[i] = value / (1.0f + fabs(value));
}}
"""
MORE = f"""\
KERNEL(more)(IN(NUMBER, x), IN(float, base), OUT(float, y), ARG(int, n), ARG(int, per_pass), ARG(int, of_x),
             ARG(int, step), ARG(float, weight) GRID) {{
{VALUE}  y[i] = 0.9f * base[i] + value / (1.0f + fabs(value));
}}
"""
NUMBERS = "#if INTEGERS\n#define NUMBER int\n#else\n#define NUMBER float\n#endif\n"
PRELUDES = {f"prelude/{name}.h": NUMBERS + text for name, text in (("opencl", OPENCL), ("metal", METAL))}
LENGTH = 77  # ids of a text
OTHER = (1, 6)  # of a value that only plans say the shape of
Shape = tuple[int, ...]


class _Types:
    """dtype and shape of ports, in one pass."""

    def __init__(self, pipeline: Mapping[str, Any], place: Mapping[str, int]) -> None:
        self.pipeline, self.latents, self.place = pipeline, pipeline["latents"], place
        self.height, self.width = place["height"], place["width"]
        steps = [step for step in pipeline["before"] if "sample" in step]
        chunked = [role for role in pipeline["after"] if role["every"] == "chunk"]
        self.per_frame = {name for role in chunked for name in role["keep"].values()}
        self.moments, self.sampled = {step["sample"] for step in steps}, {step["keep"] for step in steps}
        self.states: set[str] = set()  # values of which there is a row per token
        for role in (step for step in pipeline["before"] if step.get("every") == "text"):
            if any("tokens" in feed for feed in role["feed"].values()) or self.reads_states(role):
                self.states.add(next(iter(role["keep"].values())))

    def reads_states(self, role: Mapping[str, Any]) -> bool:
        return any(feed.get("value") in self.states for feed in role["feed"].values())

    def value(self, name: str, frames: int, tokens: int) -> Shape:
        channels, scale = self.latents["channels"], self.latents["scale"]
        if name == "latents" or any(name == loop["prediction"] for loop in self.pipeline["denoise"]):
            return frames, channels, self.height, self.width
        if name == self.pipeline["gives"]:
            return frames, 3, scale * self.height, scale * self.width
        if name in self.moments | self.sampled:
            return 1, channels * (2 if name in self.moments else 1), self.height, self.width
        if name in self.states:
            return 1, tokens, 3
        return (frames, *OTHER[1:]) if name in self.per_frame else OTHER

    def fed(self, feed: Mapping[str, Any], frames: int, tokens: int) -> tuple[str, Shape]:
        scale = self.latents["scale"]
        if "tokens" in feed:
            return "i32", (1, LENGTH)
        if "numbers" in feed:
            return "f32", (1, len(feed["numbers"]))
        if "picture" in feed:
            prepare = self.pipeline["pictures"][feed["picture"]]["prepare"]
            full = (1, 3, scale * self.height, scale * self.width)
            return "f32", {"clip_vision": (1, 3, 224, 224), "mask": (1, 1, self.height, self.width)}.get(prepare, full)
        return ("f32", (1,)) if feed["value"] == "timestep" else ("f32", self.value(feed["value"], frames, tokens))


def _roles(pipeline: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
    """Each role, and whether it is in the loop."""
    yield from ((step, False) for step in pipeline["before"] if "run" in step)
    yield from ((role, True) for loop in pipeline["denoise"] for role in loop["roles"])
    yield from ((role, False) for role in pipeline["after"])


def _has_place(role: Mapping[str, Any], types: _Types) -> bool:
    """Whether a role works on something as large as a picture."""
    shapes = [types.fed(feed, 1, 1)[1] for feed in role["feed"].values()]
    return any(len(shape) == 4 for shape in (*shapes, *(types.value(value, 1, 1) for value in role["keep"].values())))


def _plan(component: str, sizes: dict[str, int], role: Mapping[str, Any], types: _Types) -> Plan:
    """Every output of a role: a sum over its inputs."""
    batch, frames, tokens = sizes.get("batch", 1), sizes.get("frames", 1), sizes.get("tokens", LENGTH)
    operands: list[Operand] = []
    end = 0

    def add(name: str, dtype: str, shape: Shape) -> int:
        nonlocal end
        size = DTYPES[dtype]
        for side in shape:
            size *= side
        operands.append(Operand(name, dtype, shape, size, offset=end))
        end += -(-size // ALIGN) * ALIGN
        return len(operands) - 1

    same = {port for port, feed in role["feed"].items() if feed.get("value") == "timestep"}  # in all passes
    inputs = []
    for port, feed in role["feed"].items():
        dtype, shape = types.fed(feed, frames, tokens)
        inputs.append(add(port, dtype, shape if port in same else (batch * shape[0], *shape[1:])))
    outputs, calls = [], []
    for number, (port, value) in enumerate(role["keep"].items()):
        shape = types.value(value, frames, tokens)
        shape, last = (batch * shape[0], *shape[1:]), None
        for i, index in enumerate(inputs):
            made = add(port if i + 1 == len(inputs) else f"{port}:{i}", "f32", shape)
            whole, once = operands[index].dtype == "i32", operands[index].name in same
            n, of_x = operands[made].nbytes // 4, operands[index].nbytes // 4 // (1 if once else batch)
            weight = (
                0.002 if whole or once else 0.02 if value == types.pipeline["gives"] else 0.7 - 0.1 * ((i + number) % 5)
            )
            scalars = (n, n // batch, of_x, 0 if once else of_x, weight)
            read = (index,) if last is None else (index, last)
            kernel = 2 * (last is not None) + whole
            calls.append(Dispatch(kernel, (*read, made), 1, scalars, (n, 1, 1), (1, 1, 1), port, "Mix", 0, 0, 0))
            last = made
        assert last is not None
        outputs.append(last)
    kernels = [Kernel(name, (("INTEGERS", whole),)) for name in ("first", "more") for whole in (0, 1)]
    used = sorted({call.kernel for call in calls})
    calls = [replace(call, kernel=used.index(call.kernel)) for call in calls]
    kernels = [kernels[number] for number in used]
    return Plan(
        component, sizes, "f32", end, tuple(operands), tuple(inputs), tuple(outputs), tuple(kernels), tuple(calls)
    )


def write_pipeline(
    path: Path,
    whole: Mapping[str, Any],
    *,
    width: int = 3,
    height: int = 2,
    batches: Sequence[int] = (1, 2, 3),
    frames: int = 0,
    chunks: Sequence[int] = (),
    texts: int = 1,
    unigram: Sequence[str] = (),
    samplers: Mapping[str, int] | None = None,
    scheduler: Mapping[str, Any] = SD15,
) -> Path:
    """Write a bundle that draws with the pipeline of `whole` (as in tests/golden/pipeline).

    Args:
        width, height: in latent units.
        batches: of the loop's plans, passes at once.
        frames: of what has frames; chunks: of a role that runs for each.
        texts: chunks of a text that the plans can read.
        unigram: tokenizers of T5's kind.
        samplers: name -> steps, beside the pipeline's own.
    """
    pipeline = whole["pipeline"]
    place = {"height": height, "width": width}
    types, plans = _Types(pipeline, place), []
    done = set()
    for role, in_loop in _roles(pipeline):
        if role["run"] in done:
            continue
        done.add(role["run"])
        counts = chunks if role.get("every") == "chunk" else [frames]
        for batch in batches if in_loop else (1,):
            for count in counts:
                sizes = {"batch": batch} | (place if _has_place(role, types) else {})
                sizes |= {"frames": count} if count else {}
                several = texts > 1 and types.reads_states(role)
                for tokens in [{"tokens": LENGTH * number} for number in range(1, texts + 1)] if several else [{}]:
                    plans.append(_plan(role["run"], sizes | tokens, role, types))
    default = pipeline["sampler"]
    steps_of = {default["name"]: default["steps"]} | dict(samplers or {})
    tables = [make_table(name, steps, scheduler) for name, steps in steps_of.items()]
    return write_bundle(
        path,
        Contents(
            plans=plans,
            weights={},
            kernels={"first.cl": FIRST, "more.cl": MORE, **PRELUDES},
            tokenizers={
                name: TokenizerFiles(bundle_files(), LENGTH, "unigram")
                if name in unigram
                else TokenizerFiles(small_files(tokenizer_config_json=json.dumps(SPECIAL).encode()), LENGTH)
                for name in whole["tokenizers"]
            },
            scheduler=scheduler,
            samplers={f"{table.sampler}_{table.steps}": table.to_json() for table in tables},
            pipeline=pipeline,
            model={"family": "tests", "source": "tests"},
        ),
    )
