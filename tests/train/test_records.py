"""What a run has written and reads again, whole and damaged."""

import json

import pytest

from ondevice.errors import CheckpointError
from ondevice.train.records import read_state, steps_of

STATE = {"format": 1, "recipe": "lora", "step": 6, "seed": 7, "averaged": None, "scaler": None, "settings": {"rank": 4}}


def test_a_state(tmp_path):
    for more in ({}, {"averaged": 5, "scaler": {"scale": 65536.0, "_growth_tracker": 3}}):
        (tmp_path / "state.json").write_text(json.dumps(STATE | more))
        found = read_state(tmp_path / "state.json", "lora")
        assert found == {"step": 6, "seed": 7, "averaged": None, "scaler": None} | more


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "state.json: it cannot be read (JSONDecodeError("),
        (b"\xff", "state.json: it cannot be read (UnicodeDecodeError("),
        (" " * (1 << 20) + "{}", "state.json: it cannot be read (JSONDecodeError("),  # larger than any state
        ("[1]", "state.json: it is of another version of this package."),
        (json.dumps(STATE | {"format": 2}), "state.json: it is of another version of this package."),
        (json.dumps(STATE | {"step": True}), "state.json: its numbers are none of a run."),
        (json.dumps(STATE | {"seed": -1}), "state.json: its numbers are none of a run."),
        (json.dumps(STATE | {"seed": 1 << 63}), "state.json: its numbers are none of a run."),
        (json.dumps(STATE | {"averaged": "5"}), "state.json: its numbers are none of a run."),
        (json.dumps(STATE | {"scaler": {"scale": "x"}}), "state.json: its numbers are none of a run."),
        (json.dumps(STATE | {"scaler": [1]}), "state.json: its numbers are none of a run."),
        (json.dumps(STATE | {"recipe": 3}), ": it is of another recipe (got 3, expected lora)."),
    ],
)
def test_a_state_that_is_refused(text, message, tmp_path):
    (tmp_path / "state.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError) as caught:
        read_state(tmp_path / "state.json", "lora")
    assert message in str(caught.value)
    assert "Fix: go on from another checkpoint, or begin anew without --resume_from_checkpoint." in str(caught.value)


def test_the_steps_of_a_log(tmp_path):
    path = tmp_path / "log.jsonl"
    assert not list(steps_of(path, 3))
    rows = [{"begun": 0}, {"step": 1, "loss": 2.0}, {"step": "2"}, {"step": 3}, {"step": 4}, [1]]
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + b'\xff\n{"step": 2, "lo')
    assert list(steps_of(path, 3)) == [{"step": 1, "loss": 2.0}, {"step": 3}]
