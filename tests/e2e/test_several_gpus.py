"""One bundle for the GPUs of Android phones: a device, or --plans, chooses its plans, and all draw one picture."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ondevice import cli
from ondevice.api import Pipeline
from ondevice.bundle import open_bundle
from ondevice.compiler import costs
from ondevice.errors import UsageError
from ondevice.target import load_targets

NAMES = [target.name for target in load_targets("android")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gpus") / "demo.ondevice"
    assert cli.main(["convert", "demo", "--target", "android", "--size", "64x48", "--out", str(path)]) == 0
    return path


def test_convert_says_what_it_costs(bundle, tmp_path, capsys):
    opened = open_bundle(bundle, verify=True)
    rows = costs.costs(opened)
    text = "\n".join(costs.to_text(opened, rows))
    assert [row.target for row in rows] == NAMES and all(row.plans >= row.own_plans for row in rows)
    stored = sum(weight.bytes for weight in opened.manifest.weights.values())
    assert max(row.weights for row in rows) <= stored < sum(row.weights for row in rows)
    assert "plans for 6 targets, in MB; all of them take " in text and "adreno_750" in text
    path = tmp_path / "one.ondevice"
    assert cli.main(["convert", "demo", "--target", "ios", "--size", "64x48", "--out", str(path)]) == 0
    assert "plans for 3 targets" in capsys.readouterr().err
    assert costs.costs(open_bundle(path))[0].own_plans == 0, "Apple's targets have one set of plans"


def test_show_lists_targets_and_takes_their_plans(bundle, capsys):
    def shown(*words):
        assert cli.main(["show", str(bundle), "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)

    whole = shown()
    assert [row["target"] for row in whole["targets"]] == NAMES
    assert whole["components"] == shown("--plans", "adreno_6xx")["components"], "the last, unless another is asked for"
    assert whole["components"] != shown("--plans", "adreno_740")["components"]
    assert cli.main(["show", str(bundle), "--plans", "gpu"]) == UsageError.exit_code
    assert "it has those of adreno_830, adreno_750" in capsys.readouterr().err
    assert cli.main(["show", "demo", "--plans", "gpu"]) == UsageError.exit_code
    assert "--plans: a model is compiled for one target" in capsys.readouterr().err


@pytest.mark.device
@pytest.mark.phones
def test_a_device_of_no_kind_takes_the_last_targets_plans_and_all_draw_one_picture(bundle, tmp_path):
    def drawn(*words):
        out = str(tmp_path / f"{len(words)}.png")
        assert cli.main(["generate", str(bundle), "a red circle", "--steps", "2", "--out", out, *words]) == 0
        return np.asarray(Image.open(out), np.int64)

    last, other = drawn(), drawn("--plans", "adreno_740")
    psnr = 10 * np.log10(255**2 / max(np.mean((last - other) ** 2), 1e-9))
    assert psnr >= 40, f"{psnr:.1f} dB; as alike as half storage is"
    pipe = Pipeline.from_bundle(bundle, plans=NAMES[-1])
    assert np.array_equal(np.asarray(pipe("a red circle", num_inference_steps=2).images[0]), last)
