"""Core ML packages as they were saved: each way to store a weight, several programs, damage."""

import json
import struct

import numpy as np
import pytest
from mil_packages import load, mb, save_package, types

from ondevice.errors import BundleError, GraphError, PeerError
from ondevice.export.manifest import Entry
from ondevice.export.runtimes import coreml, mil, mil_file

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


SMALL = RNG.integers(-8, 8, (6, 8))  # an element of a blob is not a whole number of bytes
HALVES = RNG.standard_normal((1, 4)).astype(np.float16)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_weights_of_every_width_of_index(tmp_path, bits):
    """Palettes, of which iOS 18 has one per block of channels."""
    indices = RNG.integers(0, 1 << bits, (6, 5)).astype(types.string_to_nptype(f"uint{bits}"))
    table = random(3, 1, 1 << bits, 1)

    def build(x):
        return [mb.linear(x=x, weight=mb.constexpr_lut_to_dense(indices=indices, lut=table), name="y")]

    given = {"x": random(2, 5)}
    found = load(save_package(tmp_path / "a.mlpackage", build, given)).run(given)["y"]
    weight = table[np.arange(6) // 2, 0, :, 0][np.arange(6)[:, None], indices.astype(int)]
    np.testing.assert_allclose(found, given["x"] @ weight.T, rtol=1e-5, atol=1e-6)


def test_weights_of_few_bits(tmp_path):
    scale, offset = np.abs(random(6, 2)) + 1, RNG.integers(-3, 3, (6, 2))
    data = SMALL.astype(types.np_int4_dtype)
    palette, packed = random(16), RNG.integers(0, 256, 20).astype(np.uint8)

    def blockwise(x):
        shifted = mb.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=offset.astype(types.np_int4_dtype))
        return [
            mb.linear(x=x, weight=shifted, name="shifted"),
            mb.linear(x=x, weight=mb.constexpr_blockwise_shift_scale(data=data, scale=scale[:, :1]), name="scaled"),
        ]

    def earlier(x):
        affine = mb.constexpr_affine_dequantize(
            quantized_data=SMALL.astype(np.int8), zero_point=np.int8(2), scale=scale[:, 0], axis=0
        )
        table = mb.constexpr_lut_to_dense(indices=packed, lut=palette, shape=np.array([5, 8], np.uint32))
        return [mb.linear(x=x, weight=affine, name="affine"), mb.linear(x=x, weight=table, name="table")]

    given = {"x": random(2, 8)}
    found = load(save_package(tmp_path / "a.mlpackage", blockwise, given)).run(given)
    found |= load(save_package(tmp_path / "b.mlpackage", earlier, given, ios=16)).run(given)
    nibbles = np.stack([packed & 15, packed >> 4], 1).reshape(5, 8)
    for name, weight in {
        "shifted": (SMALL - offset.repeat(4, 1)) * scale.repeat(4, 1),
        "scaled": SMALL * scale[:, :1],
        "affine": (SMALL - 2) * scale[:, :1],
        "table": palette[nibbles],
    }.items():
        np.testing.assert_allclose(found[name], given["x"] @ weight.T, rtol=1e-5, atol=1e-5, err_msg=name)


def test_halves_are_rounded_where_the_program_says_so(tmp_path):
    given = {"x": (1 + HALVES) * np.float16(500)}

    def build(x):
        squared = mb.square(x=mb.cast(x=x, dtype="fp32"))
        return [mb.cast(x=squared, dtype="fp16", name="narrow"), mb.add(x=x, y=np.float16(0.3), name="sum")]

    component = load(save_package(tmp_path / "a.mlpackage", build, given, ios=17))
    found, wide = component.run(given), given["x"].astype(np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found["narrow"], (wide**2).astype(np.float16))
    np.testing.assert_array_equal(found["sum"], (wide + np.float32(np.float16(0.3))).astype(np.float16))
    assert np.isinf(found["narrow"]).any() and {a.dtype.name for a in found.values()} == {"float16"}
    assert [name for name, _ in component.values(given)][-2:] == ["narrow", "sum"]


def test_programs_in_turn(tmp_path):
    """The second takes what the first gives, and an input of the whole."""
    given = {"x": random(2, 3), "y": random(2, 3)}
    one = save_package(tmp_path / "one.mlpackage", lambda x: [mb.exp(x=x, name="mid")], {"x": given["x"]})
    two = save_package(
        tmp_path / "two.mlpackage", lambda y, mid: [mb.mul(x=mid, y=y, name="z")], {"y": given["y"], "mid": given["x"]}
    )
    component = load(one, two)
    np.testing.assert_allclose(component.run(given)["z"], np.exp(given["x"]) * given["y"], rtol=1e-6)
    assert [name for name, _ in component.values(given)] == ["mid", "z"]


@pytest.fixture
def package(tmp_path):
    weight = np.arange(40, dtype=np.float32).reshape(5, 8)
    build = lambda x: [mb.linear(x=x, weight=weight, name="y")]  # noqa: E731
    return save_package(tmp_path / "a.mlpackage", build, {"x": random(2, 8)})


def program_file(package):
    return package / "Data/com.apple.CoreML/model.mlmodel"


def changed(package, change):
    """The package after `change(main block)`."""
    model = mil_file._model_proto().Model.FromString(program_file(package).read_bytes())
    (block,) = model.mlProgram.functions["main"].block_specializations.values()
    change(block)
    program_file(package).write_bytes(model.SerializeToString())
    return package


def of_kind(block, kind):
    return next(one for one in block.operations if one.type == kind)


def test_an_unknown_op_is_named(package):
    changed(package, lambda block: setattr(of_kind(block, "linear"), "type", "fft"))
    with pytest.raises(GraphError) as caught:
        load(package)
    said = "a.mlpackage, y: the op fft is not evaluated here. Fix: run the package with Core ML, on macOS."
    assert str(caught.value) == said


def blob(package):
    return next(package.rglob("weight.bin"))


def weights(block):
    return next(
        one.attributes["val"].blobFileValue
        for one in block.operations
        if one.attributes["val"].HasField("blobFileValue")
    )


def patched(path, at, data):
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)


DAMAGE = {
    "past the end": (lambda p: changed(p, lambda b: setattr(weights(b), "offset", 1 << 40)), "is at 1099511627776 of"),
    "no metadata": (lambda p: patched(blob(p), 64, b"xxxx"), "has other metadata at 64"),
    "another type": (lambda p: patched(blob(p), 68, b"\x04"), r"got type 4, expected 2"),
    "a huge weight": (lambda p: patched(blob(p), 72, struct.pack("<Q", 1 << 63)), "has 9223372036854775808 bytes"),
    "data elsewhere": (lambda p: patched(blob(p), 80, struct.pack("<Q", 1 << 62)), "has 160 bytes at 46116860184"),
    "too little": (lambda p: patched(blob(p), 72, struct.pack("<Q", 156)), "has 156 bytes at 128"),
    "a link": (
        lambda p: changed(p, lambda b: setattr(weights(b), "fileName", "@model_path/../../../other")),
        "which is no file in it",
    ),
    "a huge result": (
        lambda p: changed(
            p,
            lambda b: setattr(of_kind(b, "linear").outputs[0].type.tensorType.dimensions[0].constant, "size", 1 << 62),
        ),
        "y: is too large",
    ),
    "no result": (
        lambda p: changed(p, lambda b: b.outputs.append("nothing")),
        "gives 'nothing', which nothing computes",
    ),
    "no model": (lambda p: program_file(p).write_bytes(b"\xff" * 9), "is no Core ML model"),
    "a path of its own": (
        lambda p: (p / "Manifest.json").write_text(
            json.dumps({"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "../../secret"}}})
        ),
        "which is no file in it",
    ),
    "no manifest": (lambda p: (p / "Manifest.json").write_text("[]"), "does not say where the model is"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_packages_are_refused_before_anything_runs(package, damage):
    (package.parent / "secret").write_bytes(program_file(package).read_bytes())
    (package.parent / "other").write_bytes(blob(package).read_bytes())
    change, message = DAMAGE[damage]
    change(package)
    with pytest.raises(BundleError, match=message):
        load(package)


def test_what_an_op_cannot_do_is_an_error_of_the_package(package):
    def shorter(block):
        linear = of_kind(block, "linear")
        del linear.inputs["weight"]

    changed(package, shorter)
    with pytest.raises(BundleError, match=r"a.mlpackage, y \(linear\): cannot be computed \(KeyError\('weight'\)\)"):
        load(package).run({"x": random(2, 8)})


def test_results_are_as_the_program_says(package):
    changed(
        package, lambda b: setattr(of_kind(b, "linear").outputs[0].type.tensorType.dimensions[0].constant, "size", 9)
    )
    with pytest.raises(BundleError, match=r"y \(linear\): gives \[2, 5\] \(expected \[9, 5\]\)"):
        load(package).run({"x": random(2, 8)})


def test_core_ml_itself_is_asked_where_it_is_there(package, monkeypatch):
    """It compiles when it loads, and predicts; what is inside comes from the file."""
    said = []

    class MLModel:
        def __init__(self, path):
            said.append(path)

        def get_spec(self):
            return mil_file._model_proto().Model.FromString(program_file(package).read_bytes())

        def predict(self, given):
            if len(said) > 1:
                raise RuntimeError("Error computing NN outputs.\nmore")
            said.append(given)
            return {"y": np.zeros((2, 5))}

    monkeypatch.setattr("coremltools.models.MLModel", MLModel)
    monkeypatch.setattr(coreml, "on_macos", lambda: True)
    component, given = coreml.load(package.parent, Entry("unet", (package.name,), {}, {}, {})), {"x": random(2, 8)}
    assert component.run(given)["y"].shape == (2, 5) and said == [str(package), given]
    np.testing.assert_array_equal(dict(component.values(given))["y"], load(package).run(given)["y"])
    with pytest.raises(PeerError, match=r"^a.mlpackage: Core ML failed \(Error computing NN outputs.\). Fix: convert"):
        component.run(given)
    monkeypatch.setattr(coreml, "on_macos", lambda: False)
    assert isinstance(coreml.load(package.parent, Entry("unet", (package.name,), {}, {}, {}))._files[0], mil.Package)


def test_inputs_are_checked(package):
    with pytest.raises(GraphError, match=r"the input x is another \(got float32 \[1, 8\], expected float32 \[2, 8\]\)"):
        load(package).run({"x": random(1, 8)})
    with pytest.raises(PeerError, match=r"a.mlpackage: it takes x, which nothing before it gives"):
        load(package).run({})
