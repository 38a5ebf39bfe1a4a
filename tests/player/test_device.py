"""The C++ player's device on the OpenCL devices that Python has: the same facts, kernels, files and refusals."""

import hashlib
import os
import re

import pytest
from player.opencl_environment import environment

from ondevice.cli import main
from ondevice.run.cache import KernelCache
from ondevice.run.discovery import OPTIONS, discover, find_device
from ondevice.run.opencl import OpenCLDevice

TWICE = """#line 1 "twice.cl"
__kernel void twice(__global const float* x, __global float* y, int n, float plus) {
  const int i = get_global_id(0);
  if (i < n) y[i] = 2.0f * x[i] + plus;
}"""
FETCH = """__constant sampler_t nearest = CLK_NORMALIZED_COORDS_FALSE | CLK_FILTER_NEAREST | CLK_ADDRESS_NONE;
__kernel void fetch(__read_only image2d_t x, __global float4* y, int width) {
  const int2 at = (int2)(get_global_id(0), get_global_id(1));
  y[at.y * width + at.x] = read_imagef(x, nearest, at);
}"""
# clGetDeviceInfo: of a phone's GPU
PHONE = "0x1000=4 0x102B=:Adreno+750 0x104A=64 0x1010=1000000 0x1030=:cl_khr_fp16+cl_qcom_subgroup_constant_load"


@pytest.fixture
def device(tool, tmp_path):
    """`device(*commands, spec="", cache=..., **variables)`: lines that check_device answers, without the first."""

    def call(*commands, spec="", cache=tmp_path / "kernels", **variables):
        text = "".join(command.replace("\n", "~") + "\n" for command in commands)
        done = tool("check_device", spec, cache, input=text, env=environment(**variables))
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return call


def without_unit(caps):
    """A CPU's matrix unit is Python's alone: players run the kernels that use it in plain C."""
    return [name for name in caps if name != "matrix_unit"]


def test_devices_are_those_of_python(tool):
    *rows, remarks = tool("check_device", "list", env=environment()).stdout.splitlines()
    keys = [
        "name", "platform", "vendor", "version", "driver", "compute_units", "global_bytes", "max_alloc_bytes",
        "max_work_group", "local_bytes", "max_image_width", "max_image_height", "alignment",
    ]  # fmt: skip
    expected = []
    for found in discover()[0]:
        facts = found.facts()
        expected.append(
            [
                found.index,
                found.kind,
                *(str(facts[key]) for key in keys),
                without_unit(facts["caps"]),
                found.refused or "",
            ]
        )
    got = []
    for row in rows:
        cells = row.split("|")
        got.append([*cells[:15], sorted(cells[16].split()), cells[17]])
    assert got == expected
    assert remarks == "remarks: "


def test_the_list_of_devices_is_in_the_words_of_python(tool, capfd):
    assert main(["devices"]) == 0
    expected = re.sub("used (by default|because of ONDEVICE_DEVICE);", "usable;", capfd.readouterr().out)
    expected = re.sub(r", matrix_unit|; products in bf16 [^\n]*|--target auto [^\n]*\n", "", expected)  # as above
    assert tool("od_player", "devices", env=environment()).stdout == expected


def test_a_kernel_runs_on_parts_of_a_buffer(device):
    assert [line.partition(",")[0] for line in device(f"twice.cl {TWICE}", "twice", "twice")[1:]] == ["ok"] * 3


def test_compiled_kernels_are_shared_with_python(device, tmp_path):
    assert device(f"twice.cl {TWICE}", f"twice.cl {TWICE}", "twice")[1:] == [
        "ok, 0 hits, 1 misses", "ok, 1 hits, 1 misses", "ok, 1 hits, 1 misses",
    ]  # fmt: skip
    python = OpenCLDevice(find_device(), KernelCache(tmp_path / "kernels"))
    python.build(TWICE, "twice", "twice.cl")
    assert (python.cache.hits, python.cache.misses) == (1, 0)
    python.build(FETCH, "fetch", "fetch.cl")
    assert device(f"fetch.cl {FETCH}")[1:] == ["ok, 1 hits, 0 misses"]


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda data: data[:-1], "is damaged; it is built again"),
        (lambda data: data[:30] + b"\0" + data[31:], "is damaged; it is built again"),
        (lambda data: b"", "is damaged; it is built again"),
        (lambda data: data[:18] + hashlib.sha256(b"text").digest() + b"text", "the driver refused a cached kernel"),
    ],
)
def test_a_damaged_kernel_is_built_again(device, tmp_path, damage, said):
    device(f"twice.cl {TWICE}")
    key = KernelCache.key(TWICE, *OPTIONS, *find_device().identity)
    path = tmp_path / "kernels" / f"{key}.bin"
    path.write_bytes(damage(path.read_bytes()))
    _, warning, built, ran = device(f"twice.cl {TWICE}", "twice")
    assert said in warning and built.startswith("ok") and ran.startswith("ok")
    assert device(f"twice.cl {TWICE}")[1:] == ["ok, 1 hits, 0 misses"]


def test_the_least_recently_used_kernels_go_first(tool, tmp_path):
    for number, key in enumerate("abc"):
        tool("check_device", "cache", tmp_path, 1000, input=f"save {key} {key * 200}\n")
        os.utime(tmp_path / f"{key}.bin", (number + 1, number + 1))
    (tmp_path / "a.bin.partial-1").touch()
    os.utime(tmp_path / "a.bin.partial-1", (1, 1))
    (tmp_path / "mine.txt").touch()
    lines = "load a\nsave d 1234\nload a\nload b\nload c\nload d\n"
    assert tool("check_device", "cache", tmp_path, 600, input=lines).stdout.split() == [
        "a" * 200, "a" * 200, "missing", "c" * 200, "1234",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "c.bin", "d.bin", "mine.txt"]


def test_without_a_folder_kernels_are_built_each_time(device, tmp_path):
    (tmp_path / "file").touch()
    said = device(f"twice.cl {TWICE}", f"twice.cl {TWICE}", "twice", cache=tmp_path / "file" / "kernels")
    assert [line for line in said if line.startswith("log: ")] == [
        f"log: compiled kernels are not kept: {tmp_path}/file/kernels: the folder cannot be made.; "
        "set ONDEVICE_CACHE to a folder that can be written"
    ]
    assert said[-1] == "ok, 0 hits, 2 misses"
    assert device(f"twice.cl {TWICE}", "twice", cache="")[-1] == "ok, 0 hits, 1 misses"


def test_a_wrong_kernel_is_refused_by_file_and_line(device):
    line = next(line for line in device(f"twice.cl {TWICE.replace('plus;', 'minus;')}") if line.startswith("11 "))
    name = re.escape(find_device().name)
    assert re.match(
        rf"11 twice.cl WIDTH=4: the driver of {name} \(.*\) refused it: line 3 of twice.cl: use of .*minus", line
    )


def test_what_a_device_has_not_is_refused(device):
    said = device(
        f"fetch.cl {FETCH}", "fetch 64", "fetch 128", "fetch 60", "fetch 20000", "allocate 90000000000", "twice"
    )[2:]
    name = find_device().name
    assert [line.partition(",")[0] for line in said[:2]] == ["ok", "ok"]
    target = "Fix: convert for a --target of this device, or use another --device."
    assert said[2:4] == [
        f"12 plan: x: it is read as an image of {size} texels, and {name} takes {most}. {target}"
        for size, most in (("60 by 3", "rows of multiples of 64 texels"), ("20000 by 3", "at most 16384 by 16384"))
    ]
    assert said[4].startswith(f"12 unet: arena: it needs 90,000.0 MB at once, and {name} gives at most ")
    assert said[5] == (
        "12 plan: /node (Mul): its arguments (2 buffers, 2 numbers) do not fit the kernel (INVALID_ARG_INDEX). "
        "Fix: convert the checkpoint again."
    )


def test_weights_are_mapped_on_a_cpu_and_copied_in_parts_elsewhere(device, odd, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(1000) * (33 << 10))
    lines = (f"upload {path}", f"upload-odd {path}")
    assert [line.partition(" ok")[0] for line in device(*lines)[1:]] == ["mapped 0", "copied 3"]
    assert [line.partition(" ok")[0] for line in device(*lines, **odd("0x1000=4"))[1:]] == ["copied 3", "copied 3"]
    (refused,) = device(lines[0], **odd("0x1000=4 0x1010=1000000"))[1:]
    assert "weights.bin: it needs 33.8 MB at once, and" in refused and "gives at most 1.0 MB" in refused


def test_a_library_of_a_phone_is_used_and_its_gpu_comes_first(device, odd, tool):
    said = device("twice.cl " + TWICE, "twice", "allocate 1000001", **odd(PHONE))
    assert said[0].startswith("Adreno 750 [") and said[2].startswith("ok")
    assert said[3].startswith("12 unet: arena: it needs 1.0 MB at once, and Adreno 750 gives at most 1.0 MB.")
    row = tool("check_device", "list", env=environment(**odd(PHONE))).stdout.splitlines()[0].split("|")
    assert row[1] == "gpu" and row[15] == "64" and set(row[16].split()) == {"half", "wave_constants"}


@pytest.mark.parametrize(
    "told, why",
    [
        ("0x1027=0", "its driver says it is not available, or has no compiler"),
        ("0x1026=0", "it is big-endian"),
        ("0x102B=:FPGA+board", "an FPGA emulator"),
    ],
)
def test_devices_that_cannot_be_used_are_passed_over(device, odd, told, why):
    (said,) = device(**odd(told))
    assert said.startswith("10 no usable OpenCL device (0 ") and why in said


def test_a_device_is_chosen_by_number_kind_place_or_name(device):
    found = discover()[0]
    for number, one in enumerate(found):
        for spec in (str(number), one.index, one.platform[:9].upper()):
            assert device(spec=spec) == [f"{one.name} [{one.platform}]"]
        assert device(ONDEVICE_DEVICE=one.index) == [f"{one.name} [{one.platform}]"]
    assert device(spec="cpu") == [f"{found[0].name} [{found[0].platform}]"]
    (said,) = device(spec="Adreno")
    assert said.startswith("10 --device: no device fits 'Adreno' (found: 0 ")
    assert said.endswith("Fix: name one that `od_player devices` lists.")
    (said,) = device(ONDEVICE_DEVICE="17")
    assert said.startswith("10 ONDEVICE_DEVICE: no device fits '17'")
    assert said.endswith("Fix: unset ONDEVICE_DEVICE.")


def test_a_missing_library_is_said_with_where_it_was_looked_for(device, odd, tmp_path):
    (said,) = device(ONDEVICE_OPENCL=str(tmp_path / "none.so"))
    assert said.startswith(
        f"10 ONDEVICE_OPENCL: no OpenCL library can be used of what it names ({tmp_path}/none.so: cannot"
    )
    (said,) = device(ONDEVICE_OPENCL="libm.so.6")
    assert "(libm.so.6: it has no clGetPlatformIDs)" in said
    (said,) = device(**odd(ODD_MISSING="clCreateImage"))
    assert "odd_opencl.so: it has no clCreateImage)" in said
    (said,) = device(**odd(), OCL_ICD_VENDORS=f"{tmp_path}/")
    assert said.startswith("10 no usable OpenCL device (no driver is installed). Fix: install")


def test_no_library_at_all_names_all_places(player_build, tool):
    # A folder of the search path that has only broken libraries stands for a machine without one.
    folder = player_build / "broken"
    folder.mkdir(exist_ok=True)
    for name in ("libOpenCL.so", "libOpenCL.so.1"):
        (folder / name).write_bytes(b"nothing")
    env = {name: value for name, value in os.environ.items() if name != "ONDEVICE_OPENCL"}
    said = tool("check_device", "list", env={**env, "LD_LIBRARY_PATH": str(folder)}).stdout
    assert said.startswith("10 OpenCL: there is no OpenCL library (libOpenCL.so: ")
    assert "/vendor/lib64/egl/libGLES_mali.so: cannot open" in said and "libOpenCL-pixel.so: cannot open" in said
    assert "Fix: install" in said


def test_pocl_is_a_second_driver(device):
    if not any(found.platform == "Portable Computing Language" and not found.refused for found in discover()[0]):
        pytest.skip("PoCL is not installed")
    first, *ran, image = device(f"twice.cl {TWICE}", "twice", f"fetch.cl {FETCH}", "fetch 64", spec="pocl")
    assert first.endswith("[Portable Computing Language]") and all(line.startswith("ok") for line in ran)
    assert "could not read f32 as an image of 64 by 3 texels over a buffer: clCreateImage failed: " in image
