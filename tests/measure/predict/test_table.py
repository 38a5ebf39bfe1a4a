"""What a prediction says of itself and of a picture: text, plain data, and the table of the paper's steps."""

import json

import pytest

from ondevice.measure.predict import paper, table
from ondevice.measure.predict.constants import Constants, Efficiencies, Published
from ondevice.measure.predict.prediction import Part, Prediction, Total

FIGURES = (
    Published("the paper", "arXiv", "sd14", "phone", "picture", 10.0, True, 10.0),
    Published("the paper", "arXiv", "sd14", "phone", "reduction", 50.0, True, 50.0),
    Published("others", "a page", "sd14", "phone", "picture", 10.0, False, 11.0),
    Published("others", "a page", "sdxl", "phone", "step", 2.0, False, 1.9),
    Published("the paper", "arXiv", "sd14", "other", "reduction", 30.0, False, 41.6),
)
ABOUT = (
    "A model, not a measurement: fitted on the published 10.00 s and -50.0 % of phone; "
    "its error on other published figures is -5 to +10 % (2 times) and +12 points (1 reduction)."
)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    known = Constants(Efficiencies(0.5, 0.4), Efficiencies(0.4, 0.4), Efficiencies(0.8, 0.8), FIGURES)
    for module in (table, paper):
        monkeypatch.setattr(module, "constants", lambda: known)


@pytest.fixture
def prediction():
    products = Total(10, 4_000_000_000, 90_000_000, 0.0061, 0.004, 0.002, 0.0015)
    moves = Total(2, 0, 10_000_000, 0.0009, 0.0, 0.0007, 0.0)
    both = Total(12, 4_000_000_000, 100_000_000, 0.007, 0.004, 0.0027, 0.0015)
    unet = Part("unet", {"batch": 2}, 20, {"products": products, "element-wise, moves": moves}, both)
    stage = Part("vae_decoder", {"stage": 2, "rows": 64}, 8, {"element-wise, moves": moves}, moves)
    return Prediction("phone", 20, (512, 256), [unet, stage])


def test_text(prediction):
    assert table.to_text(prediction).splitlines() == [
        ABOUT,
        "A picture of 512x256 in 20 steps on phone: 0.15 s, 20 of unet, 8 of vae_decoder stage 2.",
        "component            ops                  launches  GFLOP  MB moved   ms  arithmetic  bytes  launching  share",
        "unet                 products                   10   4.00      90.0  6.1         4.0    2.0        0.1  82.9%",
        "unet                 element-wise, moves         2   0.00      10.0  0.9         0.0    0.7        0.2  12.2%",
        "unet                 one run                    12   4.00     100.0  7.0         4.0    2.7        0.3  95.1%",
        "vae_decoder stage 2  element-wise, moves         2   0.00      10.0  0.9         0.0    0.7        0.2   4.9%",
        "vae_decoder stage 2  one run                     2   0.00      10.0  0.9         0.0    0.7        0.2   4.9%",
        "Launches that mostly read weights, and wait for their bytes, take 0.03 s of the picture: "
        "that is what fewer bits shorten (--weights int8 or int4).",
    ]


def test_plain_data(prediction):
    found = json.loads(json.dumps(table.to_json(prediction), allow_nan=False))
    assert found["model"] == ABOUT and found["efficiencies"] == {"arithmetic": 0.5, "memory": 0.4}
    assert (found["target"], found["size"], found["steps"]) == ("phone", [512, 256], 20)
    assert found["seconds"] == pytest.approx(sum(part["seconds"] for part in found["parts"])) == pytest.approx(0.1472)
    assert found["parts"][0]["times"] == 20 and found["parts"][0]["classes"]["products"]["flops"] == 4_000_000_000


def test_the_papers_steps():
    totals = [Total(9, 2_000_000_000, 8_000_000, seconds, 0, 0, 0) for seconds in (0.01, 0.005)]
    steps = [
        paper.PaperStep("baseline", ("attention", "winograd"), totals[0], 0.0, None),
        paper.PaperStep("+ Winograd", (), totals[1], 50.0, 52.2),
    ]
    assert paper.to_markdown(steps).splitlines()[2:] == [
        "| baseline | attention winograd | 9 | 2.0 | 8.0 | 10.0 |  |  |",
        "| + Winograd |  | 9 | 2.0 | 8.0 | 5.0 | -50.0 % | -52.2 % |",
    ]
    assert paper.to_text(steps).startswith(ABOUT) and paper.to_json(steps)["steps"][1]["published"] == 52.2
