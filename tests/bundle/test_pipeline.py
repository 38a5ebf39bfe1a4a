"""The pipeline of a manifest: those of families to come are read,
and whatever is wrong in one is refused with its place."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from bundle.fast_changes import FAST_CHANGES
from bundle.pipeline_changes import PIPELINE_CHANGES
from bundle.setting import Setting

from ondevice.bundle.format import Checker
from ondevice.bundle.pipeline import RATES, PipelineSpec, Role, feed_rate
from ondevice.bundle.pipeline_file import parse_pipeline
from ondevice.errors import BundleError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "pipeline"
NAMES = ("sd1", "keys_values", "sdxl_refiner", "lcm", "inpaint", "controlnet", "sd3", "sd3_without_t5", "svd")
OF_2_3 = ("control",)  # which Python reads, and the other players do not yet


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def parsed(whole: Any) -> PipelineSpec:
    return parse_pipeline(
        Checker("bundle.json"), whole["pipeline"], whole["components"], whole["tokenizers"], whole["samplers"]
    )


@pytest.mark.parametrize("name", (*NAMES, *OF_2_3))
def test_pipelines_by_hand_are_read(name: str) -> None:
    spec = parsed(golden(name))
    assert (
        spec.rates["latents"] == spec.rates[spec.denoise[-1].prediction] == "call"
        and spec.decoder.keep["sample"] == spec.gives
    )
    assert set(spec.rates.values()) <= {*RATES}


def rates_of(spec: PipelineSpec, role: Role) -> dict[str, str]:
    return {port: feed_rate(feed, spec.rates, spec.numbers) for port, feed in role.feed.items()}


def test_how_often_ports_change() -> None:
    """What depends on the text or the picture alone can be taken out of the loop."""
    for name, rates in {
        "sd1": {"sample": "call", "timestep": "call", "encoder_hidden_states": "text"},
        "keys_values": {"sample": "call", "timestep": "call", "keys_values_0": "text", "keys_values_1": "text"},
        "lcm": {"sample": "call", "timestep": "call", "encoder_hidden_states": "text", "guidance": "picture"},
        "svd": {
            "sample": "call",
            "timestep": "call",
            "encoder_hidden_states": "picture",
            "added": "picture",
            "image_latents": "picture",
        },
    }.items():
        spec = parsed(golden(name))
        unet = spec.denoise[0].roles[-1]
        assert rates_of(spec, unet) == rates
    refiner = parsed(golden("sdxl_refiner"))
    rates = [rates_of(refiner, role).get("time_ids") for role in refiner.roles()]
    assert [rate for rate in rates if rate] == ["picture", "text"]  # a score per text
    spec = parsed(golden("controlnet"))
    control, unet = (rates_of(spec, role) for role in spec.denoise[0].roles)
    assert (control["scale"], control["control"], unet["residual_3"]) == ("call", "picture", "call")


@pytest.mark.parametrize(("change", "expected"), PIPELINE_CHANGES + FAST_CHANGES)
def test_refusals(change: Setting, expected: str) -> None:
    whole = copy.deepcopy(golden("sdxl_refiner"))
    change(whole["pipeline"])
    if not expected:
        parsed(whole)
        return
    with pytest.raises(BundleError) as caught:
        parsed(whole)
    assert str(caught.value).startswith(f"bundle.json: pipeline{expected}")


def test_counts_are_bounded() -> None:
    whole = golden("sd1")
    role = whole["pipeline"]["before"][0]
    whole["pipeline"]["before"][:0] = [role | {"keep": {f"x{i}": f"x{n}_{i}" for i in range(60)}} for n in range(5)]
    with pytest.raises(BundleError, match=r"pipeline keeps 257 values \(expected at most 256\)"):
        parsed(whole)


def test_the_last_role_of_a_loop_reads_nothing_that_may_be_missing() -> None:
    """Those before it may depend on a picture that is optional."""
    whole = golden("control")
    net, unet = (whole["pipeline"]["denoise"][0]["roles"][at] for at in (1, 2))
    assert [one["run"] for one in whole["pipeline"]["denoise"][0]["roles"]] == ["controlnet_2", "controlnet", "unet"]
    unet["feed"]["residual_3"].pop("absent")
    expected = r"denoise\[0\].roles\[2\].feed reads what is not made where an optional picture is not given"
    with pytest.raises(BundleError, match=expected):
        parsed(whole)
    whole["pipeline"]["pictures"]["control"].pop("optional")
    parsed(whole)
    net["feed"]["sum_1"].pop("absent")  # the first net then runs with the second alone
    with pytest.raises(BundleError, match=expected):
        parsed(whole)


def row(change: Setting) -> dict[str, Any]:
    new = {} if change.to is ... else {"value": change.to}
    return {"path": list(change.path)} | new | ({"also": [row(other) for other in change.also]} if change.also else {})


def test_refused_json_is_the_list_of_here(request: pytest.FixtureRequest) -> None:
    rows = [row(change) | {"message": message} for change, message in PIPELINE_CHANGES + FAST_CHANGES if message]
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    if request.config.getoption("--bless", default=False):
        (GOLDEN / "refused.json").write_text(text)
    assert (GOLDEN / "refused.json").read_text() == text
