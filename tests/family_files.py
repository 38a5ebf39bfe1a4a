"""Tiny checkpoints of every family: configs of its own for a family, and its single file in the original layout."""

from dataclasses import replace

import numpy as np
from checkpoint_files import SCHEDULER, arrays_of, write_json


def tiny_of(family, folder, configs):
    """`family` with the tiny `configs`, for single files."""
    for part, config in configs.items():
        write_json(folder / part / "config.json", config)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    for tokenizer in family.tokenizers:
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            write_json(folder / tokenizer / name, {})
    return replace(family, folder=folder)


def original(checkpoint, family):
    """All weights as the single file has them: parts of rows stacked again."""
    stacks = {}
    for part, component in checkpoint.components.items():
        for name, place in family.parts[part].original_names(component.config).items():
            array = component.weights[name].numpy()
            stacks.setdefault(place.name, {})[place.part] = array.T if place.transposed else array
    return {name: np.concatenate([rows[i] for i in range(len(rows))]) for name, rows in stacks.items()}


def same(found, expected):
    for part in expected.components:
        theirs = arrays_of(found, part)
        assert list(theirs) == list(expected.components[part].weights)
        for name, array in arrays_of(expected, part).items():
            np.testing.assert_array_equal(theirs[name], array, err_msg=name)
