"""Tuning files: written and read alike, damage refused by name, matched with devices by their facts."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ondevice.base.paths import TUNING
from ondevice.errors import PlanError, UsageError
from ondevice.lower.kernel_file import load_all
from ondevice.lower.tunables import check_tuning
from ondevice.target import tuning
from ondevice.target.tuning import KernelTuning, Row, Tuning, measured_for, read_tuning, write_tuning

CPU = {"kind": "cpu", "name": "A CPU", "platform": "Some(R) OpenCL", "vendor": "Some Corporation", "vector_floats": 16}
names = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,5}\Z")
tables = st.dictionaries(names, st.integers(0, 9999), max_size=4)
times = st.integers(1, 10_000_000).map(lambda tenths: tenths / 10)
rows = st.builds(Row, tables, tables, times, times, st.integers(1, 500).map(float))
distinct = st.lists(rows, max_size=4, unique_by=lambda row: frozenset(row.at.items())).map(
    lambda found: sorted(found, key=tuning._order)
)
kernels = st.dictionaries(names, st.builds(KernelTuning, tables, distinct, distinct, distinct), max_size=3)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
matches = st.fixed_dictionaries({}, optional={"name": texts, "vector_floats": st.integers(0, 64)})


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(matches, st.dictionaries(st.sampled_from(["device", "driver"]), texts), kernels)
def test_what_is_written_is_read(tmp_path_factory, match, measured, kernels):
    tuned = Tuning("x", match, measured, kernels)
    path = tmp_path_factory.mktemp("t") / "x.toml"
    write_tuning(tuned, path)
    assert read_tuning(path) == tuned
    assert read_tuning(path).to_toml() == tuned.to_toml(), "stable"
    assert [p.name for p in path.parent.iterdir()] == ["x.toml"], "nothing is left beside it"


def test_the_most_specific_row_wins():
    weight = {"n": 8, "k": 4}
    table = KernelTuning({"V": 4, "MR": 4}, [Row(weight, {"V": 8, "MR": 6})], [Row(weight | {"m": 3}, {"MR": 8})])
    assert table.choice(weight | {"m": 3}, weight, {}) == ({"V": 8, "MR": 8}, tuning.BY_SHAPE)
    assert table.choice(weight | {"m": 4}, weight, {}) == ({"V": 8, "MR": 6}, tuning.BY_WEIGHT)
    assert table.choice({"n": 9, "k": 4, "m": 3}, {"n": 9, "k": 4}, {}) == ({"V": 4, "MR": 4}, tuning.BY_DEFAULT)
    assert table.choice({"n": 9}, {}, {}) == ({"V": 4, "MR": 4}, tuning.BY_DEFAULT)


def test_a_default_is_for_calls_without_the_defines_of_the_headers_with():
    """Whose own tunables differ: those of two defines together are neither's."""
    half, both, size = {"F16": 1}, {"F16": 1, "FLY": 1}, {"n": 3}
    table = KernelTuning({"V": 4, "MR": 4}, (), [Row(size | both, {"MR": 2})], [Row(half, {"MR": 6}), Row(both, {})])
    assert table.choice({}, {}, {}) == ({"V": 4, "MR": 4}, tuning.BY_DEFAULT)
    assert table.choice(half, {}, half) == ({"V": 4, "MR": 6}, tuning.BY_DEFAULT)
    assert table.choice(both, {}, both) == ({"V": 4, "MR": 4}, tuning.BY_DEFAULT)
    assert table.choice(size | both, {}, both) == ({"V": 4, "MR": 2}, tuning.BY_SHAPE)
    assert table.choice({"FLY": 1}, {}, {"FLY": 1}) == ({}, tuning.NOT_SAID)


GOOD = 'match = {kind = "cpu"}\nmeasured = {device = "x"}\n[kernel.unary]\ndefault = {V = 4}\n'
GOOD += "shape = [{at = {n = 5}, use = {X = 64}, us = 2}]\n"
DAMAGED = {
    "not TOML": ("kernel = ", r"t\.toml: it is not TOML"),
    "not text": (b"\xff\xfe", r"t\.toml: it is not TOML: byte 0 is not UTF-8"),
    "unknown table": (f"speed = 3\n{GOOD}", r"t\.toml: it has tables .* \(got also \['speed'\]\)"),
    "unknown fact": (GOOD.replace("kind", "colour"), r"`match` has texts and whole numbers of kind, name, .*colour"),
    "measured by a number": (GOOD.replace('"x"', "3"), "`measured` has texts only"),
    "no default": (GOOD.replace("default = {V = 4}", ""), r"t\.toml: kernel\.unary: it needs `default`"),
    "default of text": (GOOD.replace("V = 4", 'V = "4"'), "it needs `default`, tunables with whole numbers"),
    "unknown list": (GOOD.replace("shape =", "shapes ="), "may have lists `with`, `weight` and `shape`"),
    "no list": (GOOD.replace("[{", "{").replace("}]", "}"), r"kernel\.unary\.shape: it is no list"),
    "row without use": (GOOD.replace("use = {X = 64}", "us = 3"), "TOML|needs `at` and `use`"),
    "use of text": (GOOD.replace("use = {X = 64}", 'use = {X = "64"}'), "row 0 needs `at` and `use`"),
    "negative time": (GOOD.replace("us = 2", "us = -2"), "row 0 needs `at` and `use`"),
    "infinite time": (GOOD.replace("us = 2", "us = inf"), "row 0 needs"),
    "endless time": (GOOD.replace("us = 2", f"us = 1{'0' * 400}"), "row 0 needs"),
    "5000 digits": (GOOD.replace("us = 2", f"us = {'9' * 5000}"), r"t\.toml: it is not TOML: Exceeds the limit"),
    "time of text": (GOOD.replace("us = 2", 'us = "2"'), "row 0 needs"),
    "time true": (GOOD.replace("us = 2", "us = true"), "row 0 needs"),
    "nested": (f"a = {'[' * 5000}{']' * 5000}", r"t\.toml: it is not TOML: it is nested too deeply"),
    "nested in a row": (GOOD.replace("us = 2", f"us = {'[' * 300}{']' * 300}"), "row 0 needs"),
    "long text": (GOOD.replace("us = 2", f'us = "{"x" * 20_000}"'), "row 0 needs"),
    "unknown key of a row": (GOOD.replace("us = 2", "speed = 2"), "row 0 needs"),
    "row of numbers": (GOOD.replace("[{at = {n = 5}, use = {X = 64}, us = 2}]", "[3]"), "row 0 needs"),
    "sizes of text": (GOOD.replace("n = 5", 'n = "5"'), "row 0 needs"),
    "tunable past 32 bits": (GOOD.replace("V = 4", "V = 2147483648"), "it needs `default`"),
    "tunables of text": (GOOD.replace("X = 64", 'X = "64"'), "row 0 needs"),
    "negative tunable": (GOOD.replace("V = 4", "V = -4"), "it needs `default`"),
    "tunable of another name": (GOOD.replace("V = 4", '"a b" = 4'), "it needs `default`"),
    "kernel is a number": ("[kernel]\nunary = 3\n", "it needs `default`"),
    "kernel of another name": (
        GOOD.replace("kernel.unary", 'kernel."a b"'),
        "a kernel's name is letters, digits and _ .got 'a b'",
    ),
    "kernels are a list": ("kernel = []\n", r"t\.toml: it has tables `match`"),
    "fact past 32 bits": (
        GOOD.replace('kind = "cpu"', "vector_floats = 2147483648"),
        "`match` has texts and whole numbers",
    ),
    "same row twice": (GOOD.replace("}]", "}, {at = {n = 5}, use = {}}]"), r"two rows are for \{n = 5\}"),
}


@pytest.mark.parametrize("content, match", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_by_name(tmp_path, content, match):
    path = tmp_path / "t.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PlanError, match=f"{match}.* Fix: write it again with `ondevice tune`") as caught:
        read_tuning(path)
    assert len(str(caught.value)) < 400


def test_a_good_file_is_read_and_a_missing_one_said(tmp_path):
    (tmp_path / "t.toml").write_text(GOOD)
    assert read_tuning(tmp_path / "t.toml").kernels["unary"].choice({"n": 5}, {}, {}) == (
        {"V": 4, "X": 64},
        tuning.BY_SHAPE,
    )
    with pytest.raises(UsageError, match=r"--tuning: .*none\.toml cannot be read \(No such file or directory\)"):
        read_tuning(tmp_path / "none.toml")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UsageError, match=r"--tuning: .* cannot be read \(it is no file\)"):
            read_tuning(path)


def test_a_file_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_MOST_BYTES", 9)
    (tmp_path / "t.toml").write_text(GOOD)
    with pytest.raises(PlanError, match=r"t\.toml: it is too large \(expected at most 9 bytes\)"):
        read_tuning(tmp_path / "t.toml")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--out: .* cannot be written .* Fix: choose a file of yours with --out"):
        write_tuning(Tuning("x", {}, {}, {}), tmp_path / "file" / "x.toml")


def test_values_and_rows_are_checked_against_the_headers():
    kernels = load_all()

    def check(name, table):
        check_tuning(Tuning("t", {}, {}, {name: table}), kernels)

    check("matmul", KernelTuning({"V": 8}, [Row({"n": 1, "k": 1}, {"NV": 2, "MR": 8})], [Row({"m": 1}, {"MR": 4})]))
    check("of another version", KernelTuning({"V": 8}))
    with pytest.raises(PlanError, match=r"t\.toml: kernel\.matmul: bad tunable \(got V=5, expected one of"):
        check("matmul", KernelTuning({"V": 5}))
    with pytest.raises(PlanError, match=r"bad tunable \(got SPEED=5, expected a tunable"):
        check("matmul", KernelTuning({}, [], [Row({}, {"SPEED": 5})]))
    with pytest.raises(PlanError, match=r"\['V'\] say how a weight is stored, so they stand in rows of `weight`"):
        check("matmul", KernelTuning({}, [], [Row({"m": 3}, {"V": 8})]))
    check("winograd_strips", KernelTuning({}, variants=[Row({"F16": 1}, {"V": 8}), Row({"F16": 1, "FLY": 1}, {})]))
    with pytest.raises(PlanError, match=r"bad tunable .got V=5"):
        check("winograd_strips", KernelTuning({}, variants=[Row({"F16": 1}, {"V": 5})]))
    for at, known in (({}, "F16, FLY"), ({"ic": 3}, "F16, FLY"), ({"F16": 2}, "F16, FLY")):
        with pytest.raises(PlanError, match=rf"goes by defines of the header's \(got .* expected of {known}\)"):
            check("winograd_strips", KernelTuning({}, variants=[Row(at, {})]))
    with pytest.raises(PlanError, match=r"a row of `with` .* \(got {'F16': 1}, expected of none\)"):
        check("matmul", KernelTuning({}, variants=[Row({"F16": 1}, {})]))


def test_a_device_before_its_family(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "TUNING", tmp_path)
    facts = {
        "family": 'kind = "cpu", vector_floats = 16',
        "device": 'kind = "cpu", vector_floats = 16, name = "a cpu"',
        "any": "",
    }
    for name, match in (facts | {"other": 'kind = "gpu"', "narrow": "vector_floats = 8"}).items():
        (tmp_path / f"{name}.toml").write_text(f"match = {{{match}}}\n")
    assert [found.name for found in measured_for(CPU)] == ["device", "family", "any"]
    assert [found.name for found in measured_for(CPU | {"name": "B CPU"})] == ["family", "any"]
    assert tuning.named("family").name == "family"
    with pytest.raises(UsageError, match="tuning 'none'"):
        tuning.named("none")


@pytest.mark.parametrize("path", sorted(TUNING.glob("*.toml")), ids=lambda path: path.stem)
def test_the_packages_files_fit_its_kernels(path):
    found = read_tuning(path)
    check_tuning(found, load_all())
    assert (
        found.match and found.measured.keys() >= {"device", "driver", "version"} and found.to_toml() == path.read_text()
    )
