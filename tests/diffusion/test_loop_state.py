"""A run that goes on from a state of its loop: the same picture to the bit, from every call of every sampler; and files
of states that cannot be gone on from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusion.fake_networks import HostSession, Letters, OtherDevice, plans_at, spec_of
from diffusion.sampler_helpers import config_of
from diffusion.test_pipeline_shapes import golden, network, pipeline

from ondevice.diffusion.loop_state import MAGIC, Kept, LoopState, read_kept, write_kept
from ondevice.diffusion.noise import Noise
from ondevice.diffusion.pipeline import Pipeline
from ondevice.diffusion.request import Request
from ondevice.diffusion.samplers import SAMPLERS, SamplerTable, make_table
from ondevice.drawing.resume import Resumed, StateFile, keys_of
from ondevice.errors import UsageError

KEYS = {"request": "a", "model": "b"}
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
MASK = np.repeat((np.arange(24) > 9)[None, :, None] * np.uint8(255), 16, 0).repeat(3, 2)


class Killed(BaseException):
    """The process is gone."""


class Networks(HostSession):
    """Short formulas, in which each call matters; killed in front of pass `until` of the UNet."""

    def __init__(self, until: int | None = None) -> None:
        self.until, self.passes = until, 0

    def run(self, component: str, inputs: dict[str, np.ndarray], **sizes: int) -> dict[str, np.ndarray]:
        if component == "text_encoder":
            return {"last_hidden_state": np.repeat(inputs["input_ids"][:, :, None].astype(np.float32) / 100, 3, axis=2)}
        if component == "unet":
            if self.passes == self.until:
                raise Killed
            self.passes += 1
            x, states = inputs["sample"], inputs["encoder_hidden_states"]
            return {"out_sample": np.tanh(x * np.float32(0.7) + states.mean(axis=(1, 2))[:, None, None, None])}
        if component == "vae_encoder":
            small = inputs["sample"][:, :1, ::8, ::8]
            return {"latent_parameters": np.repeat(small, 8, 1)}
        return {"sample": np.repeat(np.repeat(inputs["latent_sample"][:, :3], 8, 2), 8, 3)}


def painter(session: Networks, config: dict[str, Any]) -> Pipeline:
    return Pipeline(spec_of(), session, {"tokenizer": Letters(77)}, config, plans=plans_at(2, 3), size=(24, 16))


def killed_and_resumed(request: Request, config: dict[str, Any], path: Path, every: int = 1) -> int:
    """Kill a run in front of every call, go on each time, and compare; the number of calls."""
    whole = Networks()
    expected = painter(whole, config).draw(request)
    for until in range(1, whole.passes):
        path.unlink(missing_ok=True)
        with pytest.raises(Killed):
            painter(Networks(until), config).draw(request, keeper=StateFile(path, every, False, KEYS, False))
        session = Networks()
        went_on = StateFile(path, every, True, KEYS, False)
        found = painter(session, config).draw(request, keeper=went_on)
        assert session.passes == whole.passes - until // every * every
        assert np.array_equal(found.latents, expected.latents) and np.array_equal(found.pixels, expected.pixels)
        assert found.parameters == expected.parameters and np.array_equal(found.start, expected.start)
    return whole.passes


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_goes_on_from_every_call(sampler: str, tmp_path: Path) -> None:
    request = Request(prompt="a cat", negative_prompt="x", num_inference_steps=5, seed=3, sampler=sampler)
    assert killed_and_resumed(request, config_of(sampler), tmp_path / "a.resume") >= 5


@pytest.mark.parametrize(
    "more",
    [
        {"image": IMAGE, "strength": 0.8},
        {"image": IMAGE, "mask": MASK, "strength": 0.8},
        {"seed_mode": "cuda", "variation_seed": 3, "variation_strength": 0.3},
        {"seed_mode": "a1111", "noise_seed_delta": 31337},
        {"noise_seed_delta": 5, "sampler": "dpmpp_sde"},
        {"guidance_scale": 1.0, "sampler_options": {"timestep_spacing": "trailing"}},
        {"denoising_end": 0.7},
    ],
    ids=["image", "mask", "cuda", "a1111", "ensd", "options", "begun"],
)
def test_whatever_is_asked_for_goes_on(more: dict[str, Any], tmp_path: Path) -> None:
    request = Request(**{"prompt": "a", "num_inference_steps": 6, "sampler": "euler_a", "seed": 1, **more})
    if request.denoising_end is not None:
        expected = painter(Networks(), config_of("euler_a")).draw(request)
        keeper = StateFile(tmp_path / "a", 100, True, KEYS, True)  # only the last state, which a second model needs
        painter(Networks(), config_of("euler_a")).draw(request, keeper=keeper)
        found = painter(Networks(until=0), config_of("euler_a")).draw(request, keeper=keeper)
        assert np.array_equal(found.latents, expected.latents)
    else:
        assert killed_and_resumed(request, config_of("euler_a"), tmp_path / "a", every=2) >= 4


@pytest.mark.parametrize("mode", ["torch", "cuda", "a1111"])
def test_noise_goes_on_from_where_it_was(mode: str) -> None:
    """Of fewer than 16 numbers two come at a time, and one may wait for the next short draw."""
    for shapes in ([(3,), (40,), (2,)], [(17,), (1,), (1,)], [(1 << 20,), (5,), (1,)]):
        first, other = Noise(7, mode, delta=3), Noise(7, mode, delta=3)
        first.enter_loop(), other.enter_loop()
        for shape in shapes:
            first.randn(shape)
        assert mode != "torch" or (first.position[1] is not None) == (shapes[0] == (3,))
        other.skip_to(first.position)
        for shape in ((1,), (20,), (3,)):
            assert np.array_equal(first.randn(shape), other.randn(shape))


def test_the_number_of_a_call_goes_on() -> None:
    """Stretches of the schedule, and numbers with a window, are those of the call's number."""

    class After:
        """Ends a run after a call, or gives what it had then."""

        state: LoopState | None = None

        def __init__(self, until: int | None) -> None:
            self.until = until

        def begin(self, table: SamplerTable, shape: tuple[int, ...]) -> LoopState | None:
            return After.state if self.until is None else None

        def keep(self, state: LoopState, calls: int) -> None:
            if state.call == self.until:
                After.state = state
                raise Killed

    request = Request(prompt="x", num_inference_steps=4, sampler="euler_a", numbers={"handover": 0.5})
    whole = pipeline(golden("sdxl_refiner"), OtherDevice(network)).draw(request)
    for until in (1, 3):
        with pytest.raises(Killed):
            pipeline(golden("sdxl_refiner"), OtherDevice(network)).draw(request, keeper=After(until))
        device = OtherDevice(network)
        found = pipeline(golden("sdxl_refiner"), device).draw(request, keeper=After(None))
        assert np.array_equal(found.latents, whole.latents)
        loop = [name for name, *_ in device.runs if name.endswith("unet")]
        assert loop == ["unet", "unet", "refiner_unet", "refiner_unet"][until:]


TABLE: SamplerTable = make_table("dpmpp_2m", 3, config_of("dpmpp_2m"))
SHAPE = (1, 4, 2, 3)


def state(call: int = 1) -> LoopState:
    made = {0} | {row.slot for one in TABLE.calls[:call] for row in one.rows}
    value = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    return LoopState(
        call, tuple(value if i in made else np.empty(0, np.float32) for i in range(TABLE.slots)), (40, 0.5)
    )


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    for call in range(1, len(TABLE.calls) + 1):
        write_kept(tmp_path / "a", Kept(KEYS, state(call)))
        found = read_kept(tmp_path / "a", KEYS, TABLE, SHAPE).state
        assert found is not None and (found.call, found.position) == (call, (40, 0.5))
        assert all(np.array_equal(one, other) for one, other in zip(found.slots, state(call).slots, strict=True))
    write_kept(tmp_path / "b", Kept(KEYS, files={"a.png": "00"}))
    assert read_kept(tmp_path / "b", KEYS).files == {"a.png": "00"}
    assert [path.name for path in tmp_path.iterdir()] in (["a", "b"], ["b", "a"])


def changed(header: dict[str, Any], more: bytes = b"") -> bytes:
    """A file whose checksum is right, with another header."""
    whole = {"keys": KEYS, "files": {}, "call": 1, "position": [40, None], "slots": [True, False, True]} | header
    text = json.dumps({name: value for name, value in whole.items() if value != "gone"}).encode()
    data = MAGIC + len(text).to_bytes(4, "little") + text + (more or bytes(2 * 96))
    return data + hashlib.sha256(data).digest()


WRITTEN = [bool(slot.size) for slot in state().slots]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is no file of --checkpoint-every"),
        (b"\x80\x04pickle", "it is no file of --checkpoint-every"),
        (changed({"slots": WRITTEN})[:-1], "it is cut or damaged"),
        (changed({"slots": WRITTEN})[:-33] + b"\1" + changed({"slots": WRITTEN})[-32:], "it is cut or damaged"),
        (changed({"keys": {"request": "a", "model": "c"}}), "it is of a run with another model)"),
        (changed({"keys": {}}), "it is of a run with another request and another model)"),
        (changed({"keys": 1}), "its header is damaged"),
        (changed({"call": 0}), "its numbers are damaged"),
        (changed({"call": 4}), "its numbers are damaged"),
        (changed({"call": True}), "its numbers are damaged"),
        (changed({"position": [-1, None]}), "its numbers are damaged"),
        (changed({"position": [2**63, None]}), "its numbers are damaged"),
        (changed({"position": [1, "x"]}), "its noise is damaged"),
        (changed({"position": 1}), "(cannot unpack"),
        (changed({"slots": [True] * 3}), "its slots are those of another sampler"),
        (changed({"slots": [True]}), "its slots are those of another sampler"),
        (changed({"slots": WRITTEN}, bytes(95)), "its slots are of another size (got 95 bytes"),
        (changed({"slots": WRITTEN}, np.full(24 * sum(WRITTEN), np.nan, "<f4").tobytes()), "that are not finite"),
        (changed({"files": {"a": 1}}), "its files are damaged"),
        (changed({"files": "gone"}), "'files'"),
    ],
)
def test_what_is_no_state_of_this_run_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_kept(tmp_path / "a", KEYS, TABLE, SHAPE)
    assert words in str(caught.value) and str(caught.value).endswith("Fix: leave --resume out to begin anew.")


def test_a_file_that_is_larger_than_any_state_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(MAGIC + bytes(1 << 20))
    with pytest.raises(UsageError, match="1048592 bytes, at most 65876 are read"):
        read_kept(tmp_path / "a", KEYS, TABLE, SHAPE)


def test_noise_that_is_ahead_of_the_run_is_refused() -> None:
    with pytest.raises(UsageError, match="its noise is at 40"):
        state().check((41, None), 24)
    with pytest.raises(UsageError, match="its noise is at 40000"):
        replace(state(), position=(40_000, None)).check((24, None), 24)
    state().check((40, None), 24)


def test_keys_tell_requests_apart() -> None:
    base = Request(prompt="a", image=IMAGE)
    from ondevice.diffusion.memory_budget import Way

    one = keys_of(base, Way(), "m", "d")
    assert keys_of(replace(base, image=IMAGE.copy()), Way(), "m", "d") == one
    for other, name in (
        (keys_of(replace(base, image=IMAGE[::-1]), Way(), "m", "d"), "request"),
        (keys_of(replace(base, seed=1), Way(), "m", "d"), "request"),
        (keys_of(base, Way(split=True), "m", "d"), "request"),
        (keys_of(base, Way(), "n", "d"), "model"),
        (keys_of(base, Way(), "m", "e"), "device or version of ondevice"),
    ):
        assert [key for key in one if one[key] != other[key]] == [name]


def test_pictures_of_a_series_that_are_done_are_known(tmp_path: Path) -> None:
    paths, keys = [tmp_path / "a-1.png", tmp_path / "a-2.png"], [KEYS, KEYS]
    paths[0].write_bytes(b"picture")
    first = Resumed(5, False, paths, keys)
    first.wrote(0, [paths[0]])
    again = Resumed(5, True, paths, keys)
    assert (again.done(0), again.done(1), first.done(0)) == ([paths[0]], [], [])
    paths[0].write_bytes(b"another")
    assert again.done(0) == []
    again.over()
    assert [path.name for path in tmp_path.iterdir()] == ["a-1.png"]
