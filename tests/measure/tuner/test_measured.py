"""Measurements become a file and come back out of it: defaults by cost, rows that differ, one layout for a weight."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ondevice.lower.kernel_file import load_all
from ondevice.lower.tunables import check_tuning
from ondevice.measure.tuner.measured import Measured, about, device_family, tuning_of
from ondevice.target.tuning import Tuning, read_tuning

KERNELS = load_all()
MATMUL, UNARY, STRIPS = KERNELS["matmul"], KERNELS["unary"], KERNELS["winograd_strips"]


def product(m, n, us, was_us, runs=1.0, **choice):
    at = {"F16": 1, "batch": 1, "k": 64, "k1": 64, "m": m, "n": n}
    return Measured(MATMUL, at, MATMUL.tuning(**choice), us, was_us, runs)


def made(rows, before=None):
    tuning = tuning_of("t", {"kind": "cpu"}, {"device": "x"}, rows, KERNELS, before)
    check_tuning(tuning, KERNELS)
    return tuning


def looked_up(tuning, row):
    variant = row.kernel.variant(row.at)
    return row.kernel.tuning(row.at, **tuning.kernels[row.kernel.name].choice(row.at, row.weight_at, variant)[0])


def test_the_default_is_what_most_time_falls_under():
    rows = [product(1, 64, 9, 10, MR=4), product(2, 128, 90, 100, MR=8), product(3, 256, 9, 10, runs=2, MR=4)]
    table = made(rows).kernels["matmul"]
    assert table.default["MR"] == 8
    assert [dict(row.use) for row in table.weights] == [{"MR": 4}, {}, {"MR": 4}]
    assert [dict(row.use) for row in table.shapes] == [{}, {}, {}], "what a weight's row says is not said again"
    assert [(row.us, row.was_us, row.runs) for row in table.shapes] == [(9, 10, 1), (90, 100, 1), (9, 10, 2)]


def strips(ic, us, was_us, fly=0, half=0, **choice):
    at = {name: 1 for name, on in (("F16", half), ("FLY", fly)) if on} | {"h": 8, "ic": ic, "n": 1, "oc": 64, "w": 8}
    return Measured(STRIPS, at, STRIPS.tuning(at, **choice), us, was_us, 1)


def test_a_default_for_each_of_the_headers_own():
    """What was measured in single precision says nothing of half, for which the header has other tunables."""
    plain = [strips(64, 90, 100, STRIP=16), strips(32, 9, 10, MR=4)]
    table = made(plain).kernels["winograd_strips"]
    assert table.default == STRIPS.tuning(STRIP=16) and not table.variants
    unknown = strips(77, 0, 0, half=1)
    assert looked_up(made(plain), unknown) == unknown.choice, "the header's own"
    fly = [strips(64, 90, 100, fly=1, DEPTH=64), strips(96, 9, 10, fly=1, half=1, DEPTH=128)]
    tuning = made([*plain, *fly])
    assert [dict(row.at) for row in tuning.kernels["winograd_strips"].variants] == [{"F16": 1, "FLY": 1}, {"FLY": 1}]
    assert all(looked_up(tuning, row) == row.choice for row in (*plain, *fly, unknown))
    assert looked_up(tuning, strips(77, 0, 0, fly=1)) == fly[0].choice
    assert looked_up(tuning, strips(77, 0, 0)) == plain[0].choice
    assert made([], tuning) == tuning, "and a second run keeps them"
    assert made(fly).kernels["winograd_strips"].default == {}, "none of the calls that it is for was measured"


def test_every_measurement_is_what_its_shape_gets():
    rows = [product(1, 64, 9, 10, MR=4, NV=2), product(2, 64, 90, 100, MR=8, NV=2), product(5, 128, 9, 10, KC=16)]
    rows.append(Measured(UNARY, {"F16": 1, "n": 7}, UNARY.tuning(V=4), 1, 2, 1))
    tuning = made(rows)
    for row in rows:
        assert looked_up(tuning, row) == row.choice
    other_size = product(77, 64, 0, 0)
    assert looked_up(tuning, other_size) == MATMUL.tuning(MR=8, NV=2), (
        "the costliest call's, at a size that was not measured"
    )


def test_a_second_run_keeps_what_it_did_not_measure():
    first = made(
        [
            product(1, 64, 9, 10, MR=4),
            product(2, 64, 9, 10, MR=8),
            Measured(UNARY, {"n": 7}, UNARY.tuning(V=4), 1, 2, 1),
        ]
    )
    again = made([product(2, 64, 5, 10, MR=4)], first)
    assert set(again.kernels) == {"matmul", "unary"} and [row.us for row in again.kernels["matmul"].shapes] == [9, 5]
    stored_otherwise = made([product(2, 64, 5, 10, V=8)], first)
    assert [row.us for row in stored_otherwise.kernels["matmul"].shapes] == [5], (
        "measured with another layout of the same weight"
    )
    assert made([], again) == again


def test_rows_of_kernels_that_changed_are_dropped():
    first = made([product(1, 64, 9, 10), Measured(UNARY, {"n": 7}, UNARY.tuning(V=4), 1, 2, 1)])
    gone = dict(first.kernels) | {"gone": first.kernels["unary"]}
    assert set(made([product(2, 64, 1, 2)], Tuning("t", {}, {}, gone)).kernels) == {"matmul", "unary"}
    text = first.to_toml().replace("16, V = 4", "16, V = 5")
    assert text != first.to_toml() and tuning_of("t", {}, {}, [], KERNELS, _read(text)).kernels.keys() == {"matmul"}


def _read(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.toml"
        path.write_text(text)
        return read_tuning(path)


choices = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in MATMUL.header["tune"].items()})


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.tuples(st.integers(1, 4), st.integers(1, 3)), st.tuples(choices, st.integers(1, 99)), min_size=1, max_size=8
    )
)
def test_any_measurements_come_back(found):
    stored = {}
    rows = []
    for (m, n), (choice, cost) in found.items():
        stored.setdefault(n, {name: choice[name] for name in MATMUL.stored_by})
        rows.append(product(m, 16 * n, cost / 2, cost, **(choice | stored[n])))
    tuning = made(rows)
    assert all(looked_up(tuning, row) == row.choice for row in rows)
    assert made([], tuning) == tuning


def test_names_of_devices():
    cpu = {"kind": "cpu", "name": "A CPU", "platform": "Intel(R) OpenCL", "vector_floats": 16, "driver": "2"}
    assert device_family(cpu) == (
        "intel-opencl-cpu-16",
        {"kind": "cpu", "platform": "Intel(R) OpenCL", "vector_floats": 16},
    )
    with_unit = cpu | {"matrix_unit": "dpbf16"}
    assert device_family(with_unit) == device_family(cpu) == device_family(cpu, "bf16"), (
        "of products in float32, or none"
    )
    name, match = device_family(with_unit, "bf16")
    assert name == "intel-opencl-cpu-16-dpbf16" and match == device_family(cpu)[1] | {"matrix_unit": "dpbf16"}
    assert Tuning(name, match, {}, {}).fits(with_unit) and not Tuning(name, match, {}, {}).fits(cpu)
    xeon = cpu | {"name": "Intel(R) Xeon(R) Processor"}
    assert device_family(xeon) == ("intel-opencl-cpu-16-intel", device_family(cpu)[1] | {"name": "Intel"})
    gpu = {"kind": "gpu", "name": "QUALCOMM Adreno(TM) 740", "platform": "QUALCOMM Snapdragon(TM)", "vector_floats": 1}
    assert device_family(gpu) == ("qualcomm-adreno-740", {"name": gpu["name"], "platform": gpu["platform"]})
    assert device_family({"name": "???"})[0] == "device"
    assert about(cpu).keys() == {"device", "platform", "driver", "version"} and Tuning(
        "t", device_family(cpu)[1], {}, {}
    ).fits(cpu)
