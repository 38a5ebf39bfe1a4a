"""Phones' programs have as few bands as an arena of about the same size allows."""

from dataclasses import replace

import numpy as np
import pytest

from ondevice.compiler import programs as module
from ondevice.compiler.jobs import largest_jobs
from ondevice.compiler.recipe import Recipe
from ondevice.converters import build
from ondevice.converters.random_weights import random_checkpoint
from ondevice.plan import placed
from ondevice.target import load_target

WINOGRAD = {"min_channels": 1, "min_outputs": 1, "min_tiles": 1}
PHONE = replace(load_target("mali_g715"), winograd=WINOGRAD, flash={"max_head": 0}, scratch=100_000)


@pytest.fixture(scope="module")
def pair():
    """The demo decoder with the target's own scratch, and with what is idle."""
    model = build(random_checkpoint("demo", 0))
    jobs = [job for job in largest_jobs(model, (256, 192)) if job.component == "vae_decoder"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_roomier", lambda program, lowered: (program, None))
        (own,) = module.programs(model, Recipe("f16", target=PHONE), jobs)
    (roomy,) = module.programs(model, Recipe("f16", target=PHONE), jobs)
    return own.program, roomy.program


def test_fewer_bands_in_about_the_same_arena(pair):
    own, roomy = pair
    assert len(roomy.calls) < 0.8 * len(own.calls)
    assert placed(roomy).arena <= module.MORE * placed(own).arena


def test_the_same_nodes_in_the_same_order_of_kernels(pair):
    own, roomy = pair
    assert list(dict.fromkeys(call.node for call in own.calls)) == list(
        dict.fromkeys(call.node for call in roomy.calls)
    )
    assert own.weights.keys() == roomy.weights.keys() and own.tensors.keys() >= set(roomy.inputs)
    assert np.isclose(sum(call.flops for call in own.calls), sum(call.flops for call in roomy.calls))
