"""A Plan as JSON text, and back with every field checked. The specification is docs/bundle.md, section "Plans"."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ondevice.bundle import format as f
from ondevice.errors import BundleError
from ondevice.lower.program import DTYPES
from ondevice.plan.plan import ALIGN, Dispatch, Kernel, Operand, Plan, home, image_of
from ondevice.target import CAPABILITIES

BUFFER, IMAGE = KINDS = ("buffer", "image2d")  # of operands; a plan with images needs the capability of that name
IMAGED = ("f16", "f32")  # dtypes of what may be viewed as an image


class Weight(Protocol):
    """What a plan must know of a weight."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def plan_stem(component: str, sizes: Mapping[str, int]) -> str:
    """File name of a plan, without its ending: `unet_b2_64x64`."""
    rest = dict(sizes)
    stem = component + (f"_b{rest.pop('batch')}" if "batch" in rest else "")
    if "height" in rest and "width" in rest:
        stem += f"_{rest.pop('height')}x{rest.pop('width')}"
    return stem + "".join(f"_{name}{value}" for name, value in sorted(rest.items()))


def signatures(plan: Plan, where: str) -> list[tuple[int, int, str]]:
    """(inputs, outputs, scalar types) of each kernel program: "i" is an int32, "f" a float32.

    Raises BundleError where two dispatches pass one program different arguments: in OpenCL and Metal a kernel has
    one signature.
    """
    found: list[tuple[int, int, str] | None] = [None] * len(plan.kernels)
    for i, call in enumerate(plan.dispatches):
        types = "".join("f" if isinstance(scalar, float) else "i" for scalar in call.scalars)
        own_signature = (len(call.operands) - call.outputs, call.outputs, types)
        if not 0 <= call.kernel < len(found):
            raise BundleError(
                f"dispatches[{i}].kernel is {call.kernel} (expected 0..{len(found) - 1}).",
                where=where,
                fix="report this",
            )
        if (known := found[call.kernel]) not in (None, own_signature):
            file = plan.kernels[call.kernel].file
            what = (
                f"dispatches[{i}] ({call.node}) calls {file} with other arguments (got {own_signature}, "
                f"expected {known} as before)."
            )
            raise BundleError(
                what, where=where, fix="give every call of a kernel the same inputs, outputs and scalar types"
            )
        found[call.kernel] = own_signature
    if None in found:
        unused = plan.kernels[found.index(None)].file
        raise BundleError(
            f"lists the kernel {unused} but no dispatch calls it.", where=where, fix="list only kernels that are called"
        )
    return [signature for signature in found if signature is not None]


def dump_plan(plan: Plan, where: str) -> bytes:
    """The plan's file. Raises BundleError for what the format cannot say."""
    kernels = [
        {"name": kernel.file, "defines": dict(kernel.defines), "inputs": inputs, "outputs": outputs, "scalars": types}
        for kernel, (inputs, outputs, types) in zip(plan.kernels, signatures(plan, where), strict=True)
    ]
    dispatches = [
        {
            "kernel": x.kernel,
            "operands": list(x.operands),
            "scalars": list(x.scalars),
            "grid": list(x.grid),
            "group": list(x.group),
            "node": x.node,
            "op": x.op,
            "flops": x.flops,
            "reads": x.reads,
            "writes": x.writes,
        }
        for x in plan.dispatches
    ]
    value = {
        "component": plan.component,
        "sizes": plan.sizes,
        "dtype": plan.dtype,
        **({"needs": list(plan.needs)} if plan.needs else {}),
        "arena": plan.arena,
        "inputs": list(plan.inputs),
        "outputs": list(plan.outputs),
        "kernels": kernels,
        "operands": [_operand_row(x) for x in plan.operands],
        "dispatches": dispatches,
    }
    return f.dump_json(value, where)


def _operand_row(x: Operand) -> dict[str, Any]:
    if x.view is not None:
        height, width, _ = x.shape
        return {"name": x.name, "kind": IMAGE, "view": x.view, "width": width, "height": height}
    return (
        {"name": x.name, "dtype": x.dtype, "shape": list(x.shape), "bytes": x.nbytes}
        | ({"offset": x.offset} if x.offset is not None else {})
        | ({"weight": x.weight} if x.weight is not None else {})
    )


def parse_plan(value: Any, where: str, weights: Mapping[str, Weight], kernel_names: Collection[str]) -> Plan:
    """Plan of parsed JSON. `weights` and `kernel_names` are the manifest's. Raises BundleError with file and field."""
    check = f.Checker(where)
    keys = ("component", "sizes", "dtype", "arena", "inputs", "outputs", "kernels", "operands", "dispatches")
    component, sizes, dtype, arena, inputs, outputs, kernels, operands, dispatches = check.record(value, keys)
    needs = check.needs(value.get("needs", []), CAPABILITIES, "needs")
    check.identifier(component, "component")
    check.one_of(dtype, DTYPES, "dtype")
    check.integer(arena, 0, f.MAX_BYTES, "arena")
    sizes = check.sizes(sizes, "sizes")
    rows = check.array(operands, (0, f.MAX_OPERANDS), "operands")
    places: list[Operand] = []
    for i, row in enumerate(rows):
        is_image = type(row) is dict and check.one_of(row.get("kind", BUFFER), KINDS, "operands", i, "kind") == IMAGE
        if is_image and IMAGE not in needs:
            check.fail(f"is {f.shown(IMAGE)}, which `needs` does not say", "operands", i, "kind")
        places.append(_image(check, row, i, places) if is_image else _operand(check, row, i, arena, weights))
    names: dict[str, int] = {}
    for i, place in enumerate(places):
        if names.setdefault(place.name, i) != i:
            check.fail(
                f"is {f.shown(place.name)}, as in operands[{names[place.name]}] (expected another)",
                "operands",
                i,
                "name",
            )
    last = len(places) - 1
    inputs = check.integers(inputs, 0, last, (0, f.MAX_ARGUMENTS), "inputs")
    outputs = check.integers(outputs, 0, last, (1, f.MAX_ARGUMENTS), "outputs")
    for field, indices in (("inputs", inputs), ("outputs", outputs)):
        for i, index in enumerate(indices):
            if places[index].offset is None:
                kind = "image" if places[index].weight is None else "weight"
                named = f.shown(places[index].weight or places[index].name)
                check.fail(f"is {index} (expected an operand of the arena, not the {kind} {named})", field, i)
            if index in indices[:i]:
                check.fail(f"is {index} (expected each operand once)", field, i)
    programs = [
        _kernel(check, row, i, kernel_names)
        for i, row in enumerate(check.array(kernels, (0, f.MAX_KERNELS), "kernels"))
    ]
    elements = [place.nbytes // DTYPES[place.dtype] for place in places]
    calls = check.array(dispatches, (0, f.MAX_DISPATCHES), "dispatches")
    launches = tuple(_dispatch(check, row, i, elements, programs) for i, row in enumerate(calls))
    _check_images(check, places, launches)
    check_memory(check, places, inputs, outputs, launches)
    return Plan(
        component=component,
        sizes=sizes,
        dtype=dtype,
        arena=arena,
        operands=tuple(places),
        inputs=inputs,
        outputs=outputs,
        kernels=tuple(kernel for kernel, *_ in programs),
        dispatches=launches,
        needs=needs,
    )


def _operand(check: f.Checker, row: Any, i: int, arena: int, weights: Mapping[str, Weight]) -> Operand:
    name, dtype, shape, size = check.record(row, ("name", "dtype", "shape", "bytes"), "operands", i)
    check.text(name, "operands", i, "name")
    check.one_of(dtype, DTYPES, "operands", i, "dtype")
    shape = check.shape(shape, dtype, "operands", i, "shape")
    if check.integer(size, 1, f.MAX_BYTES, "operands", i, "bytes") != f.nbytes(shape, dtype):
        check.fail(f"is {size} (expected {f.nbytes(shape, dtype)} for {dtype}{list(shape)})", "operands", i, "bytes")
    if ("offset" in row) == ("weight" in row):
        check.fail("has both or none of offset and weight (expected one)", "operands", i)
    if "offset" in row:
        offset = check.integer(row["offset"], 0, f.MAX_BYTES, "operands", i, "offset")
        if offset % ALIGN or offset + size > arena:
            check.fail(
                f"is {offset} (expected a multiple of {ALIGN} with {size} bytes before {arena})",
                "operands",
                i,
                "offset",
            )
        return Operand(name, dtype, shape, size, offset=offset)
    key = row["weight"]
    if type(key) is not str or key not in weights:
        check.fail(f"is {f.shown(key)} (expected a key of the weights of {f.MANIFEST})", "operands", i, "weight")
    if (weights[key].dtype, weights[key].shape) != (dtype, shape):
        stored = f"{weights[key].dtype}{list(weights[key].shape)}"
        check.fail(f"is {f.shown(key)}, stored as {stored} (expected {dtype}{list(shape)})", "operands", i, "weight")
    return Operand(name, dtype, shape, size, weight=key)


def _image(check: f.Checker, row: Any, i: int, before: list[Operand]) -> Operand:
    """An image over an operand before it."""
    name, view, width, height = check.record(row, ("name", "view", "width", "height"), "operands", i)
    check.text(name, "operands", i, "name")
    viewed = before[check.integer(view, 0, i - 1, "operands", i, "view")]
    if viewed.view is not None or viewed.dtype not in IMAGED:
        what = "an image itself" if viewed.view is not None else f"of {viewed.dtype}"
        check.fail(f"is {view}, which is {what} (expected a buffer of {' or '.join(IMAGED)})", "operands", i, "view")
    check.integer(width, 1, f.MAX_SIZE, "operands", i, "width")
    check.integer(height, 1, f.MAX_SIZE, "operands", i, "height")
    if (image := replace(image_of(view, viewed, width, height), name=name)).nbytes > viewed.nbytes:
        what = f"takes {image.nbytes} bytes of {f.shown(viewed.name)} (expected at most its {viewed.nbytes})"
        check.fail(what, "operands", i)
    return image


def _kernel(check: f.Checker, row: Any, i: int, known: Collection[str]) -> tuple[Kernel, int, int, str]:
    name, defines, inputs, outputs, scalars = check.record(
        row, ("name", "defines", "inputs", "outputs", "scalars"), "kernels", i
    )
    check.one_of(name, known, "kernels", i, "name")
    for define, number in check.table(defines, f.MAX_ARGUMENTS, "kernels", i, "defines").items():
        check.identifier(define, "kernels", i, "defines")
        check.integer(number, *f.INT32, "kernels", i, "defines", (define,))
    check.integer(inputs, 0, f.MAX_ARGUMENTS, "kernels", i, "inputs")
    check.integer(outputs, 1, f.MAX_ARGUMENTS, "kernels", i, "outputs")
    if type(scalars) is not str or len(scalars) > f.MAX_ARGUMENTS or set(scalars) - {"i", "f"}:
        check.fail(f"is {f.shown(scalars)} (expected one letter a scalar, i or f)", "kernels", i, "scalars")
    return Kernel(name, tuple(sorted(defines.items()))), inputs, outputs, scalars


_DISPATCH = ("kernel", "operands", "scalars", "grid", "group", "node", "op", "flops", "reads", "writes")


def _dispatch(
    check: f.Checker, row: Any, i: int, elements: list[int], programs: list[tuple[Kernel, int, int, str]]
) -> Dispatch:
    at = ("dispatches", i)
    kernel, operands, scalars, grid, group, node, op, flops, reads, writes = check.record(row, _DISPATCH, *at)
    check.integer(kernel, 0, len(programs) - 1, *at, "kernel")
    _, inputs, outputs, types = programs[kernel]
    operands = check.integers(operands, 0, len(elements) - 1, (inputs + outputs, inputs + outputs), *at, "operands")
    for k, (scalar, kind) in enumerate(
        zip(check.array(scalars, (len(types), len(types)), *at, "scalars"), types, strict=True)
    ):
        if kind == "i":
            check.integer(scalar, *f.INT32, *at, "scalars", k)
        elif type(scalar) not in (int, float) or not -f.FLOAT32_MAX <= scalar <= f.FLOAT32_MAX:
            check.fail(f"is {f.shown(scalar)} (expected a finite float32)", *at, "scalars", k)
    numbers = tuple(float(x) if kind == "f" else x for x, kind in zip(scalars, types, strict=True))
    gx, gy, gz = check.integers(grid, 1, f.INT32[1], (3, 3), *at, "grid")
    wx, wy, wz = check.integers(group, 1, f.MAX_GROUP, (3, 3), *at, "group")
    if wx * wy * wz > f.MAX_GROUP:
        check.fail(f"has {wx * wy * wz} work-items (expected at most {f.MAX_GROUP})", *at, "group")
    if gx % wx or gy % wy or gz % wz:
        check.fail(f"is {grid} (expected multiples of the group {group})", *at, "grid")
    most = min(f.MAX_ITEMS, wx * wy * wz * sum(elements[k] for k in operands))
    if gx * gy * gz > most:
        check.fail(f"has {gx * gy * gz} work-items (expected at most {most})", *at, "grid")
    check.text(node, *at, "node")
    check.text(op, *at, "op")
    for field, number in (("flops", flops), ("reads", reads), ("writes", writes)):
        check.integer(number, 0, f.MAX_COUNT, *at, field)
    return Dispatch(kernel, operands, outputs, numbers, (gx, gy, gz), (wx, wy, wz), node, op, flops, reads, writes)


def _check_images(check: f.Checker, operands: Sequence[Operand], dispatches: Sequence[Dispatch]) -> None:
    """Refuse an image that is written, and a program that takes an image in one dispatch where it takes a buffer
    in another."""
    taken: dict[int, tuple[int, ...]] = {}  # by program: which of its arguments are images
    for t, call in enumerate(dispatches):
        images = tuple(k for k, index in enumerate(call.operands) if operands[index].view is not None)
        if images and images[-1] >= len(call.operands) - call.outputs:
            name = f.shown(operands[call.operands[images[-1]]].name)
            check.fail(f"writes the image {name} (expected a buffer)", "dispatches", t, "operands", images[-1])
        if (known := taken.setdefault(call.kernel, images)) != images:
            k = min(set(images) ^ set(known))
            expected = "an image" if k in known else "a buffer"
            check.fail(f"is another kind than before (expected {expected})", "dispatches", t, "operands", k)


def check_memory(
    check: f.Checker,
    operands: Sequence[Operand],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    dispatches: tuple[Dispatch, ...],
) -> None:
    """Refuse a plan that would read what nothing wrote, write weights,
    or let two live operands share bytes of the arena.

    An operand lives from its first write (a plan input: before the first dispatch) to its last use (a plan output:
    after the last dispatch), both included; to use an image is to use what it views. Operands alive together are kept
    sorted by offset, so that each new one meets its neighbours only.
    """
    first: dict[int, int] = dict.fromkeys(inputs, -1)
    last: dict[int, int] = dict.fromkeys(inputs, -1)
    for t, call in enumerate(dispatches):
        reads = len(call.operands) - call.outputs
        homes = [home(operands, index) for index in call.operands]
        for k, index in enumerate(homes):
            weight = operands[index].weight
            if k < reads and weight is not None:
                continue
            if k < reads and index not in first:
                check.fail(
                    f"reads {f.shown(operands[index].name)} before anything writes it", "dispatches", t, "operands", k
                )
            if k >= reads:
                if weight is not None:
                    check.fail(
                        f"writes the weight {f.shown(weight)} (expected an operand of the arena)",
                        "dispatches",
                        t,
                        "operands",
                        k,
                    )
                if index in homes[:k]:
                    check.fail(
                        f"writes {f.shown(operands[index].name)}, which it also uses", "dispatches", t, "operands", k
                    )
                first.setdefault(index, t)
            last[index] = t
    for i, index in enumerate(outputs):
        if index not in first:
            check.fail(f"is {f.shown(operands[index].name)}, which nothing writes", "outputs", i)
        last[index] = len(dispatches)

    dying: dict[int, list[int]] = {}
    for index, t in last.items():
        dying.setdefault(t, []).append(index)
    alive: list[tuple[int, int]] = []  # (offset, operand), sorted, disjoint
    deaths = iter(sorted(dying))
    death = next(deaths, len(dispatches) + 1)
    for index in sorted(first, key=first.__getitem__):
        born = first[index]
        while death < born:
            for dead in dying[death]:
                del alive[bisect_left(alive, (operands[dead].offset or 0, dead))]
            death = next(deaths, len(dispatches) + 1)
        operand = operands[index]
        start = operand.offset or 0
        at = bisect_left(alive, (start, -1))
        for _, other in alive[max(at - 1, 0) : at + 1]:
            other_operand = operands[other]
            if (
                start < (other_operand.offset or 0) + other_operand.nbytes
                and (other_operand.offset or 0) < start + operand.nbytes
            ):
                check.fail(
                    f"({f.shown(operand.name)}) overlaps operands[{other}] "
                    f"({f.shown(other_operand.name)}) while both are needed",
                    "operands",
                    index,
                )
        insort(alive, (start, index))


def weight_bytes(plan: Plan) -> int:
    """Bytes of the weights a plan reads, each counted once."""
    return sum({x.weight: x.nbytes for x in plan.operands if x.weight is not None}.values())
