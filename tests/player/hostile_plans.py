"""Hostile plans, images, ports, stages and pipelines."""

from __future__ import annotations

from typing import Any

from bundle.setting import setting
from player.hostile import (
    IMAGES,
    MANIFEST,
    NUMBERS,
    PICTURE,
    PLAN,
    TARGETS,
    TINY,
    Change,
    Hostile,
    edited,
    many,
)

IMAGE_PLAN = "plans/images_width64.json"
UNET, DECODER, ENCODER = (f"plans/{name}_b1_4x2.json" for name in ("unet", "vae_decoder", "vae_encoder"))
STAGE = [f"plans/vae_decoder_b1_4x2_rows6_stage{number}.json" for number in (1, 2, 3)]


def plan(what: str, *changes: Change) -> Hostile:
    return edited(f"plan: {what}", TINY, PLAN, *changes)


def operand(index: int, **fields: Any) -> Change:
    return lambda value: value["operands"][index].update(fields)


def call(index: int, **fields: Any) -> Change:
    return lambda value: value["dispatches"][index].update(fields)


def kernel(index: int, **fields: Any) -> Change:
    return lambda value: value["kernels"][index].update(fields)


def shaped(index: int, shape: list[int], size: int) -> Change:
    return operand(index, shape=shape, bytes=size)


def launched_again(value: Any) -> None:
    value["dispatches"] += value["dispatches"][:1]


def plans() -> list[Hostile]:
    found = [plan(f"an offset of {what}", operand(0, offset=n)) for what, n in NUMBERS.items()]
    found += [plan(f"a shape of {what}", operand(0, shape=[n])) for what, n in list(NUMBERS.items())[:6]]
    found += [
        plan("a product of 2^64", shaped(0, [65536] * 4, 32)),
        plan("a product of 2^64 + 32 bytes", shaped(0, [2**31 - 1, 2**31 - 1, 4], 32)),
        plan("an end past 2^64", operand(0, offset=2**64 - 512)),
        plan("an end past the arena by one byte", setting("arena", to=1039)),
        plan("an arena of nothing", setting("arena", to=0)),
        plan("a place in the middle of another", operand(2, offset=0)),
        plan("a large operand over two small ones", shaped(3, [256], 1024)),
        plan("an output over an input that is read last", operand(5, offset=0)),
        plan("an input that is an output, and overwritten", setting("outputs", to=[5, 0])),
        plan("all in one place", *(operand(i, offset=0) for i in (0, 2, 3, 5))),
        plan("an input that dies before it is read again", launched_again),
        plan("a read of what only a later launch writes", lambda v: v["dispatches"].reverse()),
        plan("a read of its own output", call(0, operands=[2, 1, 2])),
        plan("a launch that writes twice to one place", kernel(1, outputs=2, inputs=2), call(2, operands=[4, 3, 5, 5])),
        plan("a launch that writes a weight", call(0, operands=[0, 4, 1])),
        plan("a launch without outputs", kernel(0, inputs=3, outputs=0)),
        plan("a launch of nothing", call(0, operands=[])),
        plan("a launch of too many", call(0, operands=[0, 1, 2, 3])),
        plan("an operand by a real", call(0, operands=[0, 1.0, 2])),
        plan("an operand by 2^32", call(0, operands=[2**32, 1, 2])),
        plan("an operand by -1", call(0, operands=[0, 1, -1])),
        plan("an operand that is not there", call(0, operands=[0, 1, 7])),
        plan("a program that is not there", call(0, kernel=2)),
        plan("a program by -1", call(0, kernel=-1)),
        plan("no programs", setting("kernels", to=[])),
        plan("no operands", setting("operands", to=[])),
        plan("no launches", setting("dispatches", to=[])),
        plan("an output nobody writes", lambda v: v["dispatches"].pop() and None),
        plan("65 inputs", setting("inputs", to=list(range(65)))),
        plan("an input that is a weight", setting("inputs", to=[0, 1])),
        plan("an output twice", setting("outputs", to=[5, 5])),
        plan("a name twice, of a weight and of an operand", operand(1, name="y")),
        plan("a name that nobody can print", operand(0, name="x\u200b")),
        plan("a name of 513 letters", operand(0, name="é" * 513)),
        plan("a place and a weight", operand(0, weight="picked")),
        plan("a weight of another dtype", operand(1, weight="parts")),
        plan("a weight of another shape, and as many elements", operand(1, shape=[2, 2])),
        plan("a weight by a number", operand(1, weight=0)),
        plan("a weight of no bytes", shaped(1, [], 0)),
        plan("a kernel by a path", kernel(0, name="../kernels/pick")),
        plan("a define that ends the line", kernel(0, defines={"F16 1\n#include": 1})),
        plan("a define of 2^31", kernel(0, defines={"F16": 2**31})),
        plan("65 defines", kernel(0, defines=many(65, 1))),
        plan("an argument of another kind", kernel(0, scalars="ip"), call(0, scalars=[1, 1])),
        plan("65 scalars", kernel(0, scalars="i" * 65)),
        plan("a scalar that float32 cannot hold", call(0, scalars=[8, 3.5e38])),
        plan("a whole number with a fraction", call(0, scalars=[8.0, 2.0])),
        plan("a scalar that is true", call(0, scalars=[True, 2.0])),
        plan("a grid of 2^33", call(0, grid=[2**31 - 1, 4, 1])),
        plan("a grid of 2^93", call(0, grid=[2**31 - 4] * 3)),
        plan("a grid of none", call(0, grid=[0, 1, 1])),
        plan("a grid far above its operands", call(0, grid=[4096, 1, 1])),
        plan("a grid that is no multiple", call(0, grid=[6, 1, 1])),
        plan("a group of 2^30", call(0, grid=[1024] * 3, group=[1024] * 3)),
        plan("a group in four directions", call(0, group=[4, 1, 1, 1])),
        plan("as many operations as 2^64", call(0, flops=2**64)),
        plan("a node with an escape sequence", call(0, node="\x1b]0;owned\x07")),
        plan("a need of a later version", setting("needs", to=["half", "quantum"])),
        plan("17 needs", setting("needs", to=["half"] * 17)),
        plan("needs as a text", setting("needs", to="half")),
        plan("of another component", setting("component", to="tiny2")),
        plan("of another dtype", setting("dtype", to="f32")),
        plan("of another width", setting("sizes", "width", to=9)),
        plan("of a size more", setting("sizes", "batch", to=1)),
        plan("weights that it does not count", operand(6, name="ids2", weight="picked", dtype="i32", bytes=16)),
    ]
    return found + images() + targets()


def images() -> list[Hostile]:
    def image(what: str, *changes: Change) -> Hostile:
        return edited(f"image: {what}", IMAGES, IMAGE_PLAN, *changes)

    return [
        image("of itself", operand(4, view=4)),
        image("of a later operand", operand(4, view=5)),
        image("of an image", operand(5, view=4)),
        image("in a circle", operand(4, view=5), operand(5, view=4)),
        image("of 2^32 texels", operand(4, width=65536, height=65536)),
        image("of a row too many", operand(4, height=5)),
        image("of rows of no texels", operand(4, width=0)),
        image("by a real", operand(4, view=1.0)),
        image("of whole numbers", operand(1, dtype="i32")),
        image("of a plan that says nothing of it", setting("needs", to=["half"])),
        image("that is written", call(0, operands=[0, 4])),
        image("of what nothing wrote", operand(4, view=3, width=64, height=4)),
        image("whose buffer is overwritten by another", operand(3, offset=4096)),
        image("that is an input", setting("inputs", to=[0, 4])),
        image("that is an output", setting("outputs", to=[4])),
        image("in a buffer's place", lambda v: v["dispatches"].append(v["dispatches"][1] | {"operands": [1, 2, 3]})),
        image("written through its buffer in the same launch", call(1, operands=[4, 5, 1])),
        image("of another kind", operand(4, kind="image1d")),
    ]


def targets() -> list[Hostile]:
    fast = "plans/tiny_width8.fast.json"
    return [
        edited(
            "target: a plan with a larger group",
            TARGETS,
            fast,
            lambda v: v["dispatches"][0].update(grid=[1024, 1, 1], group=[1024, 1, 1]),
        ),
        edited("target: a plan that needs more", TARGETS, fast, setting("needs", to=["half", "subgroups"])),
        edited("target: a plan of another's arena", TARGETS, fast, setting("arena", to=8704)),
    ]


def port(index: int, *shape: int, **fields: Any) -> Change:
    """Another shape of a port; as many bytes, so that nothing but the ports finds it."""
    return operand(index, shape=list(shape), **fields)


def reads_two(value: Any) -> None:
    """The first picture too: three of its four rows beside five of the second's eight."""
    value["operands"][0].update(shape=[1, 5, 4, 4], bytes=320)
    value["operands"][1] = {"name": "a", "dtype": "f32", "shape": [1, 3, 2, 4], "bytes": 96, "offset": 512}
    value["inputs"] = [0, 1]


def ports() -> list[Hostile]:
    def unet(what: str, *changes: Change) -> Hostile:
        return edited(f"ports: {what}", PICTURE, UNET, *changes)

    def stage(number: int, what: str, *changes: Change) -> Hostile:
        return edited(f"stages: {what}", PICTURE, STAGE[number - 1], *changes)

    return [
        unet("latents turned on their side", port(0, 1, 4, 2, 4)),
        unet("latents as one row", port(0, 32)),
        unet("a timestep of each channel", port(1, 1, 1)),
        unet("a timestep as a whole number", operand(1, dtype="i32")),
        unet("states of another width", port(2, 1, 5, 3)),
        unet("an input of another name", operand(2, name="states")),
        unet("an input too few", setting("inputs", to=[0, 1])),
        unet("an output too many", setting("outputs", to=[3, 0])),
        unet("a prediction turned on its side", port(3, 1, 4, 2, 4)),
        unet("a prediction as whole numbers", operand(3, dtype="i32")),
        edited("ports: tokens as reals", PICTURE, "plans/text_encoder_b1.json", operand(0, dtype="f32")),
        edited("ports: states of two texts", PICTURE, "plans/text_encoder_b1.json", port(1, 3, 1, 5)),
        edited("ports: a picture with its channels last", PICTURE, DECODER, port(1, 1, 8, 4, 3)),
        edited("ports: a picture for the encoder with its channels last", PICTURE, ENCODER, port(0, 1, 8, 4, 3)),
        edited("ports: moments as two pictures", PICTURE, ENCODER, port(1, 2, 4, 4, 2)),
        stage(1, "latents of another shape", port(0, 1, 2, 4, 4)),
        stage(1, "a first picture of two", port(1, 2, 2, 2, 4)),
        stage(1, "a first picture of three dimensions", port(1, 1, 8, 4)),
        stage(1, "a first picture that is wider", port(1, 1, 4, 4, 2)),
        stage(2, "a picture that nobody made", operand(0, name="z")),
        stage(2, "a picture of another width", port(0, 1, 6, 1, 4)),
        stage(2, "a picture with other channels", port(0, 1, 3, 4, 2)),
        stage(2, "the name of a picture that is there", operand(1, name="a")),
        stage(2, "bands higher than the picture", port(0, 1, 6, 2, 2)),
        stage(3, "a mean without a variance", setting("inputs", to=[0, 1])),
        stage(3, "statistics of what nobody made", operand(1, name="z:mean"), operand(2, name="z:variance")),
        stage(3, "statistics of two dimensions", port(1, 1, 2), port(2, 1, 2)),
        stage(3, "an end that is no picture", port(3, 1, 6, 6, 2)),
        stage(3, "an end of another name", operand(3, name="c")),
        stage(3, "two ends", setting("outputs", to=[3, 0])),
        stage(2, "bands of two rows", port(0, 1, 2, 2, 4, bytes=64)),
        stage(2, "bands of more rows than there are", port(0, 1, 6, 2, 4, bytes=192)),
        stage(2, "seven rows of three", port(1, 1, 7, 4, 4, bytes=448)),
        stage(3, "three groups of four channels", port(1, 3, bytes=12), port(2, 3, bytes=12)),
        stage(3, "a picture of another dtype", operand(0, dtype="f16", bytes=192)),
        stage(3, "statistics alone", setting("inputs", to=[1, 2]), call(0, operands=[1, 3])),
        stage(3, "a picture that is made twice", operand(3, name="a", shape=[1, 6, 4, 3])),
        stage(3, "pictures that are cut at different rows", reads_two),
        edited("stages: the last is not there", PICTURE, MANIFEST, lambda m: m["plans"].pop() and None),
        edited("stages: more passes than one", PICTURE, MANIFEST, setting("plans", 6, "sizes", "batch", to=2)),
    ]


def pipelines() -> list[Hostile]:
    def pipeline(what: str, *changes: Change) -> Hostile:
        return edited(
            f"pipeline: {what}", PICTURE, MANIFEST, lambda m: [one(m["pipeline"]) for one in changes] and None
        )

    text, unet = ("before", 0), ("denoise", 0, "roles", 0)
    return [
        pipeline("a number by its own name", setting("numbers", "a", to={"default": "a"})),
        pipeline("numbers in a circle", setting("numbers", to={"a": {"default": "b"}, "b": {"default": "a"}})),
        pipeline(
            "a number by a later one",
            setting("numbers", to={"a": {"default": "guidance_scale"}, "guidance_scale": {"default": 1}}),
        ),
        pipeline("a window of itself", setting("numbers", "strength", "window", to=["strength", "strength"])),
        pipeline(
            "a ramp of a ramp",
            setting("numbers", "r", to={"ramp": ["strength", "strength"]}),
            setting("numbers", "s", to={"ramp": ["r", "r"]}),
        ),
        pipeline("a range without an inside", setting("numbers", "strength", to={"default": 0, "low": 1, "high": -1})),
        pipeline("65 numbers", setting("numbers", to=many(65, {"default": 1}))),
        pipeline("17 texts", setting("texts", to=many(17, {}))),
        pipeline("a number that float32 cannot hold", setting("numbers", "strength", "default", to=1e39)),
        pipeline("a text with a value's name", setting("texts", "context", to={})),
        pipeline(
            "a picture of itself", setting("pictures", "image", to={"prepare": "masked", "of": ["image", "image"]})
        ),
        pipeline("a mask of three pictures", setting("pictures", "m", to={"prepare": "masked", "of": ["image"] * 3})),
        pipeline("latents of 65 channels", setting("latents", "channels", to=65)),
        pipeline("latents divided by 0", setting("latents", "scaling", to=0)),
        pipeline("latents that begin from the prediction", setting("latents", "begin", to="prediction")),
        pipeline("latents that begin from themselves", setting("latents", "begin", to="latents")),
        pipeline("a value that reads itself", setting(*text, "feed", "more", to={"value": "context"})),
        pipeline("a value that a later role makes", setting(*text, "feed", "more", to={"value": "image_latents"})),
        pipeline("latents before there are any", setting(*text, "feed", "more", to={"value": "latents"})),
        pipeline("a timestep after the loop", setting("after", 0, "feed", "t", to={"value": "timestep"})),
        pipeline("the prediction after the loop", setting("after", 0, "feed", "p", to={"value": "prediction"})),
        pipeline("a value that takes the place of latents", setting(*unet, "keep", "more", to="latents")),
        pipeline("a value twice", setting(*unet, "keep", "more", to="context")),
        pipeline("a feed of two kinds", setting(*text, "feed", "input_ids", "picture", to="image")),
        pipeline("a tokenizer that is not there", setting(*text, "feed", "input_ids", "tokens", to="tokenizer_2")),
        pipeline("a component that is not there", setting(*unet, "run", to="unet2")),
        pipeline(
            "zeros where there must be a picture",
            setting(*unet, "feed", "p", to={"picture": "image", "absent": "zeros"}),
        ),
        pipeline("65 roles", lambda p: p["before"].extend([{"noise": "latents"}] * 65)),
        pipeline("9 loops", lambda p: p["denoise"].extend(p["denoise"] * 8)),
        pipeline("the same loop twice", lambda p: p["denoise"].extend(p["denoise"])),
        pipeline("17 passes", lambda p: p["denoise"][0].update(passes=[{"text": "prompt"}] * 17)),
        pipeline("a pass of a text that is not there", setting("denoise", 0, "passes", 0, "text", to="poem")),
        pipeline("zeros of a number", setting("denoise", 0, "passes", 0, "zeros", to=["strength"])),
        pipeline("65 feeds", setting(*unet, "feed", to=many(65, {"value": "latents"}))),
        pipeline("a sum with pass 2^32", setting("denoise", 0, "combine", "add", to=[["guidance_scale", 2**32, 0]])),
        pipeline("a sum with pass -1", setting("denoise", 0, "combine", "first", to=-1)),
        pipeline("17 sums", setting("denoise", 0, "combine", "add", to=[["guidance_scale", 1, 0]] * 17)),
        pipeline("guided by a text", setting("denoise", 0, "guided", "number", to="prompt")),
        pipeline("guided to a pass that is not there", setting("denoise", 0, "guided", "alone", to=2)),
        pipeline("no end", setting("after", to=[])),
        pipeline("an end that makes another thing", setting("after", 0, "keep", "sample", to="sound")),
        pipeline("a sampler of 2^32 steps", setting("sampler", "steps", to=2**32)),
        pipeline("a sampler by a path", setting("sampler", "name", to="../tiny")),
        pipeline("a sampler that is not there", setting("sampler", "steps", to=3)),
        pipeline("a need", setting("needs", to=["a_thing_to_come"])),
        pipeline("noise twice", lambda p: p["before"].append({"noise": "latents"})),
        pipeline(
            "257 values",
            *(setting("before", 0, "keep", f"p{i}", to=f"v{i}") for i in range(60)),
            lambda p: p["before"].extend(
                p["before"][0] | {"keep": {f"p{i}": f"v{n}_{i}" for i in range(64)}} for n in range(4)
            ),
        ),
    ]
