"""What a picture needs, known before anything is loaded, and how it can be drawn with less.

Four things save memory, in the order of what they cost: guidance in two passes of batch 1, a decoder that works in
bands, giving each component's weights back once it is done, and streaming them, a block at a time. A bundle says what
its plans need; nothing here opens a device.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from ondevice.bundle.pipeline import PipelineSpec, Role
from ondevice.bundle.reader import Bundle
from ondevice.diffusion import guidance
from ondevice.diffusion.bands import Stage, held_bytes, stage_of
from ondevice.diffusion.memory_way import Need, Part, Way, add
from ondevice.diffusion.model_files import FREE, ModelFiles, runs_at
from ondevice.diffusion.values import frames_of, resolved
from ondevice.errors import BundleError, PlanError, UsageError
from ondevice.plan.blocks import Streaming
from ondevice.plan.plan import Plan

log = logging.getLogger(__name__)
Names = Collection[str]
UNITS = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def has_plan(bundle: ModelFiles, component: str, width: int, height: int) -> bool:
    """Whether a component has a plan for one pass at this size (latent units), in one piece, of however many frames."""
    place = {"batch": 1, "height": height, "width": width}
    return any(
        entry.component == component
        and "stage" not in entry.sizes
        and all(entry.sizes.get(name, size) in (size, FREE) for name, size in place.items())
        for entry in bundle.plans
    )


def plan_sizes(bundle: ModelFiles) -> dict[str, list[Mapping[str, int]]]:
    """The sizes of each component's plans, decoders in bands aside."""
    found: dict[str, list[Mapping[str, int]]] = {}
    for entry in bundle.plans:
        if "stage" not in entry.sizes:
            found.setdefault(entry.component, []).append(entry.sizes)
    return found


def denoiser(bundle: ModelFiles) -> str:
    """The component whose output the sampler works with."""
    return bundle.pipeline.denoise[0].roles[-1].component


def most_passes(bundle: ModelFiles) -> int:
    """Passes in a call with guidance."""
    return max(len(loop.passes) for loop in bundle.pipeline.denoise)


def batches(bundle: ModelFiles, width: int, height: int) -> set[int]:
    """How many passes the denoiser can run at once at this size (latent units)."""
    place = {"height": height, "width": width}
    found = {
        e.sizes["batch"]
        for e in bundle.plans
        if e.component == denoiser(bundle) and "batch" in e.sizes and runs_at(e.sizes, place)
    }
    return {1, most_passes(bundle)} if FREE in found else found


def is_guided(bundle: ModelFiles, guidance_scale: float | None) -> bool:
    """Whether a guidance scale (None: the model's) takes more than one pass."""
    given = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    return guidance.is_guided(bundle.pipeline, resolved(bundle.pipeline, given, default_size(bundle)))


def in_single_passes(bundle: ModelFiles, guided: bool, width: int, height: int) -> bool:
    """Whether guidance must run the denoiser once per pass: a bundle from an ONNX file of one batch has no other plans.

    Args:
        width, height: in latent units.

    Raises:
        UsageError: there are plans of more passes only, which a picture without guidance cannot use.
    """
    have, all_passes = batches(bundle, width, height), most_passes(bundle)
    if not guided and have and 1 not in have:
        what = (
            f"a picture without guidance needs the {denoiser(bundle)} at batch 1, "
            f"and the bundle has it at batch {max(have)} only."
        )
        raise UsageError(what, where="--guidance", fix="use more than 1, or convert an export with a dynamic batch")
    if guided and have == {1} and all_passes > 1:
        if bundle.pipeline.latents.frames is None:  # a film's frames are work enough for a device
            log.warning(
                "the bundle has the %s at batch 1 only, so guidance takes %s passes",
                denoiser(bundle),
                "two" if all_passes == 2 else all_passes,
            )
        return True
    return False


def has_plans(bundle: Bundle, width: int, height: int, at_once: bool) -> bool:
    """Whether the denoiser and the decoder have plans of this size (latent units),
    and the denoiser for all passes `at_once` or for one."""
    wanted = most_passes(bundle) if at_once else 1
    return wanted in batches(bundle, width, height) and _decodes(bundle, width, height)


def _decodes(bundle: ModelFiles, width: int, height: int) -> bool:
    """Whether there are plans that decode a picture of this size, in one piece or in bands."""
    return _decoder_in_one_piece(bundle, width, height) or bool(band_heights(bundle, width, height))


def _decoder_in_one_piece(bundle: ModelFiles, width: int, height: int) -> bool:
    return has_plan(bundle, bundle.pipeline.decoder.component, width, height)


def drawable(bundle: ModelFiles, width: int, height: int, way: Way) -> Way:
    """The way, with a decoder in bands of the most rows where the bundle has it in no other form: in one piece it would
    need a larger buffer than the devices have that the bundle is for."""
    if way.rows or way.fast or _decoder_in_one_piece(bundle, width, height):
        return way
    return replace(way, rows=next(iter(band_heights(bundle, width, height)), 0))


def encodes_pictures(bundle: ModelFiles, width: int, height: int) -> bool:
    """Whether a run can begin from a picture of this size (latent units): there are plans of all that works on one."""
    roles = [step for step in bundle.pipeline.before if isinstance(step, Role)]
    needed = {role.component for role in roles if any(feed.kind == "picture" for feed in role.feed.values())}
    return bool(needed) and all(has_plan(bundle, component, width, height) for component in needed)


def default_size(bundle: ModelFiles) -> tuple[int, int]:
    """(width, height) in pixels of the denoiser's first plan.
    Raises BundleError where it has none with a width and a height."""
    sizes = next((entry.sizes for entry in bundle.plans if entry.component == denoiser(bundle)), {})
    if not {"width", "height"} <= sizes.keys():
        what = f"it has no plan of {denoiser(bundle)} with a width and a height."
        raise BundleError(what, where=str(bundle.path), fix="convert the checkpoint again")
    scale = bundle.pipeline.latents.scale
    return sizes["width"] * scale, sizes["height"] * scale


def takes_any_size(bundle: ModelFiles) -> bool:
    """Whether the denoiser runs at every size."""
    return any(e.component == denoiser(bundle) and e.sizes.get("width") == FREE for e in bundle.plans)


def band_heights(bundle: ModelFiles, width: int, height: int) -> list[int]:
    """Rows of the bands in which the bundle can decode a picture of this size (latent units), highest first."""
    place, decoder = {"width": width, "height": height, "stage": 1}.items(), bundle.pipeline.decoder.component
    return sorted(
        {
            e.sizes["rows"]
            for e in bundle.plans
            if e.component == decoder and "rows" in e.sizes and place <= e.sizes.items()
        }
    )[::-1]


def stages(bundle: ModelFiles, width: int, height: int, rows: int) -> list[Stage]:
    """The stages of a decoder in bands.

    Raises:
        UsageError: the bundle has none of this size; says how to make them.
    """
    have = band_heights(bundle, width, height)
    if rows not in have:
        scale = bundle.pipeline.latents.scale
        size = f"{width * scale}x{height * scale}"
        got = f"it has bands of {', '.join(map(str, have))} rows" if have else "it has none"
        fix = (
            f"use one of these, or convert with `--tile-vae {rows} --size {size}`"
            if have
            else f"convert with `--tile-vae --size {size}`"
        )
        raise UsageError(
            f"the bundle has no plans that decode {size} in bands{f' of {rows} rows' * bool(rows)} ({got}).",
            where="--tile-vae",
            fix=fix,
        )
    return [stage_of(plan) for plan in bundle.stages(height, width, rows)]


def decoder_stages(bundle: ModelFiles, width: int, height: int, rows: int) -> list[Stage]:
    """The same with 0 rows for a decoder as the bundle has it: none where it has one in one piece, or has no plans."""
    rows = drawable(bundle, width, height, Way(rows=rows)).rows
    return stages(bundle, width, height, rows) if rows else []


def parts_of_picture(
    bundle: Bundle, width: int, height: int, way: Way, *, guided: bool = True, given: Names = ()
) -> tuple[list[Part], int]:
    """What each component takes that draws such a picture, and what arrays take beside the device's memory; as `need`
    has them, and what that raises."""
    spec, scale, way = bundle.pipeline, bundle.pipeline.latents.scale, drawable(bundle, width, height, way)
    place, plans = {"height": height, "width": width}, plan_sizes(bundle)
    all_passes = most_passes(bundle)
    at_once = all_passes if guided and not way.split and all_passes in batches(bundle, width, height) else 1
    bands = stages(bundle, width, height, way.rows) if way.rows else []
    frames = frames_of(spec, resolved(spec, {}, (width * scale, height * scale)))
    host = 3 * 4 * frames * height * width * scale**2 + (held_bytes(bands) if bands else 0)
    last_roles = spec.fast if way.fast else spec.after
    decoder = [role.component for role in last_roles[-1:]]
    used = (*last_roles, *(spec.fast if way.previews else ()))
    unused = {role.component for role in (*spec.after, *spec.fast)} - {role.component for role in used}
    runs = {role.component: 1 for role in spec.roles() if spec.runs_with(role.component, given)}
    runs = {component: 1 for component in runs if component not in unused}
    in_loop = [role.component for role in spec.loop_roles() if role.component in runs]
    runs |= dict.fromkeys(in_loop, at_once)
    kept = dict.fromkeys(in_loop, 0)
    last = {loop.roles[-1].component for loop in spec.denoise}
    texts = len({one.text for loop in spec.denoise for one in loop.passes}) if guided else 1
    stays: dict[str, int] = {}
    parts: list[Part] = []
    for component, batch in runs.items():
        sizes = {
            name: size
            for name, size in {"batch": batch, **place}.items()
            if component in plans and name in plans[component][0]
        }
        if lengths := [
            one["tokens"] for one in plans.get(component, ()) if "tokens" in one and sizes.items() <= one.items()
        ]:
            sizes["tokens"] = max(lengths)  # of the longest texts
        if counts := [one["frames"] for one in plans.get(component, ()) if "frames" in one]:
            sizes["frames"] = max((count for count in counts if count <= frames), default=min(counts))
        in_bands = bands and component == spec.decoder.component
        parts.append(Part(component))
        for one in [dict(stage.sizes) for stage in bands] if in_bands else [sizes]:
            plan = bundle.plan(component, **one)
            parts[-1].add(bundle, plan, way)
            if component in kept and component not in last:
                kept[component] = sum(plan.operands[index].nbytes for index in plan.outputs)
            stays |= _made_before(spec, plan, batch, texts) if component in kept else {}
    for part in parts:
        part.kept = (sum(kept.values()) + sum(stays.values())) * (part.component in kept)
        part.host = host * (part.component in decoder)
    return parts, host


def need(bundle: Bundle, width: int, height: int, way: Way, *, guided: bool = True, given: Names = ()) -> Need:
    """Bytes for one picture of `width` by `height` latents, of a film for as many frames as it has if nobody says;
    `given`: the pictures that the user gives, by name.

    Raises:
        UsageError: the bundle has no plans for this way.
        PlanError: weights are to be streamed through too small a window.
    """
    way = drawable(bundle, width, height, way)
    parts, host = parts_of_picture(bundle, width, height, way, guided=guided, given=given)
    arena = max(part.arena + part.kept for part in parts)
    if way.unload:
        weights = max(sum(part.weights.values()) for part in parts)
        changed = max(sum(part.changed.values()) for part in parts)
        return Need(way, arena, weights, max(part.most for part in parts), host, changed)
    held, own = dict[str, int](), dict[str, int]()
    for part in parts:
        add(held, part.weights)
        add(own, part.changed)
    weights, changed = sum(held.values()), sum(own.values())
    return Need(way, arena, weights, arena + weights + changed, host, changed)


def _made_before(spec: PipelineSpec, plan: Plan, batch: int, texts: int) -> dict[str, int]:
    """Bytes of what a plan of the loop reads that was made before it, by value; of each text, where it is of one."""
    feeds = (feed for role in spec.loop_roles() if role.component == plan.component for feed in role.feed.items())
    ports = {port: feed.name for port, feed in feeds if feed.kind == "value" and spec.rates[feed.name] != "call"}
    given = [plan.operands[index] for index in plan.inputs if plan.operands[index].name in ports]
    count = {"text": texts}
    return {ports[one.name]: one.nbytes // batch * count.get(spec.rates[ports[one.name]], 1) for one in given}


def ways(bundle: Bundle, width: int, height: int, *, guided: bool = True, start: Way | None = None) -> list[Way]:
    """From `start` on each with one more saving, as far as the bundle has plans for it."""
    found = [drawable(bundle, width, height, start or Way())]
    if guided and not found[-1].split and most_passes(bundle) > 1 and 1 in batches(bundle, width, height):
        found.append(replace(found[-1], split=True))
    if not (found[-1].rows or found[-1].fast) and (have := band_heights(bundle, width, height)):
        found.append(replace(found[-1], rows=have[-1]))
    if not found[-1].unload:
        found.append(replace(found[-1], unload=True))
    return found


def streamed(bundle: Bundle, width: int, height: int, way: Way, *, guided: bool = True, given: Names = ()) -> Way:
    """A way that streams weights, with what goes with that: what a part of the picture took is given back after it, and
    the decoder works in the lowest bands that the bundle has, where a picture takes less so. Raises as `need`."""
    whole = drawable(bundle, width, height, replace(way, unload=True))
    if way.rows or way.fast or not (have := band_heights(bundle, width, height)):
        need(bundle, width, height, whole, guided=guided, given=given)  # refuses too small a window
        return whole
    found = [whole, replace(whole, rows=have[-1])]
    return min(found, key=lambda one: need(bundle, width, height, one, guided=guided, given=given).total(mapped=True))


def fit(
    bundle: Bundle, width: int, height: int, limit: int, *, mapped: bool, guided: bool, start: Way, given: Names
) -> Need:
    """The first way that needs at most `limit` bytes, without the savings on its way that turned out to be of no use.

    Raises:
        PlanError: none does; says what the least would be.
    """
    found = ways(bundle, width, height, guided=guided, start=start)
    if not mapped and start.stream is None:
        found.append(replace(found[-1], stream=Streaming(0, mapped)))
    needs = [need(bundle, width, height, way, guided=guided, given=given) for way in found]
    chosen = next((found for found in needs if found.total(mapped=mapped) <= limit), None)
    if chosen is None:
        least = min(needs, key=lambda found: found.total(mapped=mapped))
        has_bands = start.fast or bool(band_heights(bundle, width, height))
        more = (
            "use a smaller --size"
            if has_bands
            else "convert with --tile-vae, which lets the decoder work in bands, or use a smaller --size"
        )
        total = mb(least.total(mapped=mapped))
        what = (
            f"a picture needs at least {total} ({parts_of(least, mapped)}; "
            f"{least.way.text()}), and {mb(limit)} are allowed."
        )
        raise PlanError(what, where="memory", fix=more)
    for saving in ("rows", "split"):  # the costlier first
        simpler = replace(chosen.way, **{saving: getattr(start, saving)})
        other = need(bundle, width, height, simpler, guided=guided, given=given)
        if other.total(mapped=mapped) <= limit:
            chosen = other
    return chosen


def parts_of(found: Need, mapped: bool) -> str:
    """The parts of a total in MB."""
    if found.way.stream is not None:
        weights = f"weights through {mb(found.weights)}"
    else:
        weights = f"weights {mb(found.weights)}" + " mapped from their files, not counted" * mapped
    changed = f", with adapters {mb(found.changed)}" * bool(found.changed)
    return f"arena {mb(found.arena)}, {weights}{changed}, pictures {mb(found.host)}"


def mb(nbytes: float) -> str:
    """Bytes in MB."""
    return f"{nbytes / 1e6:,.1f} MB"


def parse_bytes(text: str, flag: str = "--max-memory") -> int:
    """'2GB', '800 MB', '1.5GiB' or plain bytes, given with a flag.

    Raises:
        UsageError: it is none of these.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)", text.strip().lower())
    if not found or found[2] not in UNITS or float(found[1]) <= 0:
        raise UsageError(f"{text!r} is not an amount of memory (expected such as 2GB or 800MB).", where=flag)
    return int(float(found[1]) * UNITS[found[2]])


def latent_sizes(bundle: ModelFiles, size: tuple[int, int] | None = None) -> list[tuple[int, int]]:
    """(width, height) of the pictures that the bundle can draw, in latent units;
    only `size` (pixels) where it is given."""
    drawn = [
        (e.sizes["width"], e.sizes["height"])
        for e in bundle.plans
        if e.component == denoiser(bundle) and all(e.sizes.get(side, FREE) != FREE for side in ("width", "height"))
    ]
    scale = bundle.pipeline.latents.scale
    found = [place for place in dict.fromkeys(drawn) if _decodes(bundle, *place)]
    return [place for place in found if size is None or (place[0] * scale, place[1] * scale) == size]
