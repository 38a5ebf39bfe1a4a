"""Pipelines as the C++ player reads them: the golden ones are what Python reads, and it refuses what Python refuses."""

import copy
import dataclasses
import json

from bundle.fast_changes import FAST_CHANGES
from bundle.pipeline_changes import PIPELINE_CHANGES
from bundle.test_pipeline import NAMES, golden, parsed


def test_pipelines_by_hand_are_read_as_in_python(tool):
    wholes = [golden(name) for name in NAMES]
    out = tool("check_pipeline", input="".join(json.dumps(whole) + "\n" for whole in wholes)).stdout.splitlines()
    for whole, line in zip(wholes, out, strict=True):
        assert json.loads(line) == json.loads(json.dumps(dataclasses.asdict(parsed(whole))))


def test_what_is_no_pipeline_is_refused_with_the_same_words(tool):
    changes, changed = PIPELINE_CHANGES + FAST_CHANGES, []
    for change, _ in changes:
        whole = copy.deepcopy(golden("sdxl_refiner"))
        change(whole["pipeline"])
        changed.append(json.dumps(whole) + "\n")
    out = tool("check_pipeline", input="".join(changed)).stdout.splitlines()
    for (_, message), line in zip(changes, out, strict=True):
        assert line.startswith(f"refused: bundle.json: pipeline{message}" if message else "{")
