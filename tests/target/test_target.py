"""Targets: every file names real kernels and listed values;
a plan for another target draws the same picture on the host."""

import errno
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ondevice import cli, target
from ondevice.base import matrix_unit
from ondevice.errors import PlanError, UsageError
from ondevice.lower.kernel_file import load_all
from ondevice.target import tuning
from ondevice.target.tuning import Tuning, write_tuning

HOSTS = {"host": 32, "host-amx": 32, "host-avx2": 16, "host-bf16": 32, "host-neon": 32}  # registers of a vector


@pytest.mark.parametrize("name", target.target_names())
def test_tunables_are_listed_in_the_kernels_headers(name):
    kernels = load_all()
    for kernel, chosen in target.load_target(name).tune.items():
        assert kernels[kernel].tuning(**chosen).items() >= chosen.items()


@pytest.mark.parametrize(
    "machine, flags, name, why",
    [
        (
            "x86_64",
            "fpu avx2 avx512f",
            "host",
            "its vectors hold 16 floats, and it has no matrix unit: the CPU has no avx512_bf16",
        ),
        ("x86_64", "avx2 avx512f avx512_bf16", "host-bf16", "the CPU has avx512_bf16"),
        ("x86_64", "avx512f avx512_bf16 amx_tile", "host-bf16", "the CPU has avx512_bf16"),
        ("AMD64", "fpu avx2", "host-avx2", "its vectors hold 8 floats"),
        ("arm64", "", "host-neon", "its vectors hold 4 floats"),
        ("aarch64", "asimd", "host-neon", "its vectors hold 4 floats"),
    ],
)
def test_auto_goes_by_the_cpu(machine, flags, name, why, tmp_path, monkeypatch):
    monkeypatch.setattr(target, "cpu_maker", lambda: "AuthenticAMD")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    given = target._cpu_flags(tmp_path / "cpuinfo")
    assert given == set(flags.split()) and target._cpu_flags(tmp_path / "none") == set()
    monkeypatch.setattr(target, "_cpu_flags", lambda: given)
    monkeypatch.setattr(target.platform, "machine", lambda: machine)
    assert target.load_target("auto").name == target.host_target() == name
    assert target.host_choice()[1].startswith(why)
    assert target.load_target("host").name == "host", "a name is the same target on any machine"


@pytest.mark.parametrize(
    "code, name, why",
    [
        (0, "host-amx", "the CPU has amx_tile and amx_bf16 and avx512_bf16"),
        (
            errno.EPERM,
            "host",
            "AMX cannot be used: the system does not permit its tiles (EPERM); the CPU has avx512_bf16, ",
        ),
    ],
)
def test_auto_goes_by_the_matrix_unit(code, name, why, monkeypatch):
    """Where its tiles are refused, AVX512_BF16 is left, which is fast on its makers' CPUs alone."""
    monkeypatch.setattr(target, "_cpu_flags", lambda: {"avx512f", "avx512_bf16", "amx_tile", "amx_bf16"})
    monkeypatch.setattr(target.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(target, "cpu_maker", lambda: "GenuineIntel")
    monkeypatch.setattr(matrix_unit, "permission", lambda: code)
    chosen = target.host_choice()
    assert chosen[0] == name and chosen[1].startswith(why)
    assert name == "host-amx" or chosen[1].endswith("known to be fast on AuthenticAMD only (got GenuineIntel)")


@pytest.mark.parametrize(
    "maker, unit, names",
    [
        ("AuthenticAMD", "", ["cpus-amd", "cpus"]),
        ("AuthenticAMD", "dpbf16", ["cpus-amd-dpbf16", "cpus-amd", "cpus"]),
        ("AuthenticAMD", "amx", ["cpus-amd", "cpus"]),
        ("GenuineIntel", "", ["cpus"]),
        ("unknown", "dpbf16", ["cpus"]),
    ],
)
def test_auto_prefers_what_was_measured_on_cpus_of_this_maker(maker, unit, names, tmp_path, monkeypatch):
    host = target.load_target("host")
    for name in ("cpus", "cpus-amd", "cpus-amd-dpbf16", "cpus-other"):
        write_tuning(Tuning(name, {}, {}, {}), tmp_path / f"{name}.toml")
    monkeypatch.setattr(tuning, "TUNING", tmp_path)
    host = replace(host, tuning=(tuning.named("cpus"),))
    here = target.tuned_by(host, tuning.made_for([own.name for own in host.tuning], maker, unit))
    assert [file.name for file in here.tuning] == names


@pytest.mark.parametrize("name", ["host-bf16", "host-amx"])
def test_a_matrix_unit_is_all_that_its_targets_differ_by(name):
    """Without --math their plans are those of `host`."""
    host, own = target.load_target("host"), target.load_target(name)
    beside = {key: getattr(host, key) for key in ("name", "why", "caps", "maths", "outruns", "device_words")}
    assert replace(own, **beside) == host and own.caps == {"matrix_unit"} and "bf16" in own.maths


def test_measured_files_that_are_named_come_before_the_targets_own():
    host = target.load_target("host")
    own = [tuning.name for tuning in host.tuning]
    given, newer = replace(host.tuning[0], name="mine"), replace(host.tuning[0], measured={"device": "newer"})
    assert own and [tuning.name for tuning in target.tuned_by(host, [given]).tuning] == ["mine", *own]
    assert target.tuned_by(host, [newer]).tuning[0] == newer and len(target.tuned_by(host, [newer]).tuning) == len(own)


def test_each_target_says_whether_it_is_for_cpus():
    assert {name for name in target.target_names() if target.is_for_cpus(name)} == set(HOSTS)
    assert not any(map(target.is_for_cpus, ("of a later version", None, 3, ["host"])))


def test_tiles_of_host_targets_fit_their_registers():
    """MR rows of NV vectors, NV of the weight and one to broadcast."""
    for name, registers in HOSTS.items():
        tiled = (file for file in load_all().values() if {"MR", "NV"} <= file.header["tune"].keys())
        for kernel in (file for file in tiled if file.kernel_class != "mobile"):
            values = kernel.tuning(**target.load_target(name).tune.get(kernel.name, {}))
            assert values["MR"] * values["NV"] + values["NV"] + 1 <= registers, (name, kernel.name)


def test_a_gpu_gets_groups_of_its_own_for_every_kernel():
    portable = {name for name, kernel in load_all().items() if kernel.kernel_class == "portable"}
    assert target.load_target("gpu").tune.keys() == portable


LIMITS_EXPECTED = (
    r"\[limits\] has whole numbers of allocation, image_height, image_width, local_memory, pitch_alignment"
)
DAMAGED_TABLES = {
    "no_such_limit": ("[limits]\nspeed = 3\n", LIMITS_EXPECTED),
    "no_group": ("[limits]\nwork_group = 0\n", LIMITS_EXPECTED),
    "no_source": (
        "[roofline]\nfp32_tflops = 1\n",
        r"\[roofline\] has numbers above 0, fp32_tflops, fp16_tflops, gb_per_s",
    ),
    "at_no_speed": (
        '[roofline]\nfp32_tflops = 1\nfp16_tflops = 1.0\ngb_per_s = 0\nlaunch_us = 1\nsource = ""\n',
        r"\[roofline\] has numbers above 0",
    ),
    "no_words": ('[device]\nwords = [""]\n', r"\[device\] has `words`"),
    "other_words": ('[device]\nname = "x"\n', r"\[device\] has `words`"),
    "outruns_what": (
        'outruns = ["fast"]',
        r"`outruns` lists some of flash, winograd, two_commands \(got \['fast'\]\)",
    ),
    "unknown_math": ('maths = ["fp32"]', r"`maths` lists some of bf16, bf16x3 \(got \['fp32'\]\)"),
    "outruns_one": ('outruns = "flash"', r"`outruns` lists .* \(got 'flash'\)"),
    "no_base": ('base = "none"', r"`base` names another target .* \(got 'none'\)"),
    "base_outside": ('base = "../targets/good"', r"`base` names another target"),
    "its_own_base": ('base = "its_own_base"', r"`base` names another target"),
}
PHONES = {name for name in target.target_names() if target.load_target(name).kernel_class == "mobile"}


def test_a_target_starts_from_the_tunables_of_its_base(tmp_path, monkeypatch):
    good = 'why = "x"\nclass = "mobile"\ncaps = []\nscratch = 1\n[winograd]\n[flash]\n[group_norm]\n[tune]\n'
    (tmp_path / "old.toml").write_text(
        f"{good}matmul = {{X = 1, Y = 1}}\nunary = {{X = 1}}\n[limits]\nwork_group = 9\n"
    )
    (tmp_path / "mid.toml").write_text(f'base = "old"\n{good}matmul = {{Y = 2}}\n')
    (tmp_path / "new.toml").write_text(f'base = "mid"\n{good}cast = {{X = 3}}\n')
    monkeypatch.setattr(target, "TARGETS", tmp_path)
    new = target.load_target("new")
    assert new.tune == {"matmul": {"X": 1, "Y": 2}, "unary": {"X": 1}, "cast": {"X": 3}}
    assert new.limits == target.Limits(), "nothing but tunables"


@pytest.mark.parametrize("name", sorted(PHONES))
def test_a_phones_target_is_whole(name):
    """All that lowering, choosing a plan and predicting ask of it."""
    phone = target.load_target(name)
    assert phone.roofline and phone.roofline.source and phone.device_words
    limits = phone.limits
    assert limits.work_group and limits.local_memory and limits.allocation
    assert limits.allocation >= 1 << 28, "a shard of the weights is one buffer"
    images = (limits.image_width, limits.image_height, limits.pitch_alignment)
    assert all(images) if "image2d" in phone.caps else not any(images)
    assert bool(limits.sub_group) == ("subgroups" in phone.caps)
    gpu = target.load_target("gpu")
    assert phone.tune.keys() >= gpu.tune.keys() and phone.flash == {"max_head": 160, "min_queries": 64, "min_keys": 4}
    least = 128 if name.startswith("adreno") else 64
    assert phone.panels, "weights as the product's tiles read them"
    assert all(phone.tune[kernel]["V"] * phone.tune[kernel]["NV"] == 16 for kernel in ("matmul", "conv2d_nhwc"))
    assert phone.winograd == {"min_channels": least, "min_outputs": least, "min_tiles": 128}


def test_a_set_has_the_targets_of_its_kind():
    assert target.set_names() == ["android", "ios"] and not set(target.set_names()) & set(target.target_names())
    android, ios = ([one.name for one in target.load_targets(name)] for name in ("android", "ios"))
    assert {*android, *ios} == PHONES and [one.name for one in target.load_targets("gpu")] == ["gpu"]
    least = target.load_target(android[-1])
    assert all(least.caps <= one.caps for one in target.load_targets("android")[:3]), "the last asks for least"
    for name in (android, ios):
        words = [word for one in name for word in target.load_target(one).device_words]
        hidden = [(a, b) for i, a in enumerate(words) for b in words[i + 1 :] if a in b]
        assert not hidden, "a device takes the first of the set that has its name"


SETS = {
    "not_toml": ("why = ", r"not_toml\.toml: it is not TOML"),
    "no_targets": ('why = ""', r"a set has `why` and `targets`"),
    "empty": ('why = ""\ntargets = []', r"a set has `why` and `targets`"),
    "numbers": ('why = ""\ntargets = [3]', r"a set has `why` and `targets`"),
    "twice": ('why = ""\ntargets = ["a", "a"]', r"a set has `why` and `targets`"),
    "unknown": ('why = ""\ntargets = ["toaster"]', r"`targets` names targets only \(got 'toaster'\)"),
}


@pytest.mark.parametrize(("name", "content", "match"), [(name, *row) for name, row in SETS.items()])
def test_damaged_sets(tmp_path, monkeypatch, name, content, match):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / f"{name}.toml").write_text(content)
    monkeypatch.setattr(target, "TARGETS", tmp_path)
    with pytest.raises(PlanError, match=match):
        target.load_targets(name)


def test_hosts_have_no_limits():
    assert {name for name in target.target_names() if target.load_target(name).limits == target.Limits()} == (
        set(target.target_names()) - PHONES
    )


def test_unknown_and_damaged_targets(tmp_path, monkeypatch):
    with pytest.raises(
        UsageError,
        match=r"--target: target 'toaster' is unknown \(expected one of adreno_6xx, .*gpu, host, host-amx, host-avx2, ",
    ):
        target.load_target("toaster")
    (tmp_path / "a.toml").write_text("why = ")
    good = 'why = "x"\nclass = "cpu"\ncaps = ["half"]\nscratch = 1\n[winograd]\n[flash]\n[group_norm]\n[tune]\n'
    (tmp_path / "b.toml").write_text(f"speed = 3\n{good}")
    (tmp_path / "c.toml").write_text(good.replace("[flash]", "[flash]\nmax_head = -1"))
    (tmp_path / "d.toml").write_text(good.replace("scratch = 1", "scratch = 0"))
    (tmp_path / "e.toml").write_text(good.replace("[tune]", "[tune]\nmatmul = 3"))
    (tmp_path / "f.toml").write_text(f"tuned = [3]\n{good}")
    (tmp_path / "g.toml").write_text(f'tuned = ["none"]\n{good}')
    (tmp_path / "h.toml").write_text(good.replace('"half"', '"wings"'))
    (tmp_path / "good.toml").write_text(good)
    for name, (extra, _) in DAMAGED_TABLES.items():
        (tmp_path / f"{name}.toml").write_text(good + extra if extra.startswith("[") else f"{extra}\n{good}")
    monkeypatch.setattr(target, "TARGETS", tmp_path)
    with pytest.raises(PlanError, match=r"a\.toml: it is not TOML"):
        target.load_target("a")
    for damaged in "bcdh":
        classes = r"`why`, `class` \(one of portable, cpu, mobile\)"
        wanted = rf"{classes}, `caps` \(some of half, image2d, matrix_unit, subgroups, wave_constants\)"
        with pytest.raises(PlanError, match=rf"{damaged}\.toml: it needs {wanted}, `scratch` in bytes"):
            target.load_target(damaged)
    with pytest.raises(PlanError, match=r"e\.toml: \[tune\] holds tables"):
        target.load_target("e")
    with pytest.raises(PlanError, match=r"f\.toml: `tuned` lists names of measured files \(got \[3\]\)"):
        target.load_target("f")
    with pytest.raises(UsageError, match=r"tuning 'none': .*none\.toml cannot be read"):
        target.load_target("g")
    (tmp_path / "hen.toml").write_text(f'base = "egg"\n{good}')
    (tmp_path / "egg.toml").write_text(f'base = "hen"\n{good}')
    with pytest.raises(PlanError, match=r"egg\.toml: `base` names another target .* \(got 'hen'\)"):
        target.load_target("hen")
    for name, (_, match) in DAMAGED_TABLES.items():
        with pytest.raises(PlanError, match=rf"{name}\.toml: {match}"):
            target.load_target(name)
    assert target.load_target("good").scratch == 1
    assert target.load_target(target.load_target("good")).name == "good"


@pytest.mark.device
def test_a_plan_for_a_gpu_draws_the_same_picture_on_the_host(tmp_path):
    def draw(name):
        bundle, out = str(tmp_path / f"{name}.ondevice"), str(tmp_path / f"{name}.png")
        assert (
            cli.main(["convert", "demo", "--target", name, "--dtype", "fp32", "--size", "64x72", "--out", bundle]) == 0
        )
        assert cli.main(["generate", bundle, "a red circle", "--steps", "3", "--out", out]) == 0
        return np.asarray(Image.open(out), np.int64)

    assert np.abs(draw("gpu") - draw("host")).max() <= 1
