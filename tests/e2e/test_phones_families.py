"""Stable Diffusion 3 and Stable Video Diffusion as bundles for phones, each network once on what stands for phones:
Metal's text on the CPU, Oclgrind, PoCL. What the host's own kernels give in float32 is the reference."""

from dataclasses import replace

import numpy as np
import pytest
from family_files import TINY, TINY_VIDEO
from kernels.phones import CONDITIONS

from ondevice.bundle.reader import open_bundle
from ondevice.compiler import Recipe, compile_bundle
from ondevice.compiler.jobs import Frames
from ondevice.converters.random_weights import random_checkpoint_from_configs
from ondevice.run.check import NUMPY
from ondevice.run.opencl import choose_device
from ondevice.run.session import Session
from ondevice.target import load_target

pytestmark = [pytest.mark.device, pytest.mark.phones]
MODELS = {"sd3": (TINY["sd3"], (16, 8)), "svd": (TINY_VIDEO, (16, 8))}  # configs; width, height in pixels
WAYS = [("metal", "apple_a16"), ("pocl", "mali_g715"), ("oclgrind", "adreno_740")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """`bundle(family, recipe)`: the tiny model's."""

    def made(family, recipe):
        configs, size = MODELS[family]
        source = random_checkpoint_from_configs(**configs, seed=5, family=family)
        path = tmp_path_factory.mktemp(family) / "m.ondevice"
        film = Frames((3,), 2) if family == "svd" else Frames()
        return open_bundle(compile_bundle(source, path, replace(recipe, film=film), sizes=[size]))

    return made


@pytest.fixture(scope="module")
def expected(bundle):
    """`expected(family)`: of each component (sizes of a plan for one pass, its inputs, what it makes of them)."""
    found = {}

    def made(family):
        if family not in found:
            opened = bundle(family, Recipe("f32"))
            session, found[family] = Session(opened, choose_device()), {}
            for entry in opened.plans:
                if entry.sizes.get("batch", 1) == 1 and "stage" not in entry.sizes:
                    inputs = feed(opened.plan(entry.component, **entry.sizes))
                    made = session.run(entry.component, inputs, **entry.sizes)
                    found[family].setdefault(entry.component, (entry.sizes, inputs, made))
        return found[family]

    return made


def feed(plan):
    """Numbers around zero that half holds, ids of words, a timestep."""
    rng = np.random.default_rng(0)
    ports = [plan.operands[index] for index in plan.inputs]
    floats, ids = ([one for one in ports if NUMPY[one.dtype].kind == kind] for kind in "fi")
    made = {one.name: rng.standard_normal(one.shape).astype(np.float16).astype(np.float32) for one in floats}
    made |= {one.name: rng.integers(1, 99, one.shape, np.int32) for one in ids}
    return made | {one.name: np.full(one.shape, 500, np.float32) for one in ports if one.name == "timestep"}


@pytest.mark.parametrize("condition, target", WAYS)
@pytest.mark.parametrize("family", MODELS)
def test_each_network_gives_what_it_gives_on_the_host(family, condition, target, bundle, expected):
    if (family, condition) == ("svd", "oclgrind"):
        pytest.skip("it interprets: convolutions over frames would take minutes, and kernels have tests of their own")
    about = CONDITIONS[condition]
    device, target = about.make(), load_target(target)
    opened = bundle(family, Recipe("f16", target=replace(target, caps=target.caps & {*about.caps})))
    session = Session(opened, device)
    for component, (sizes, inputs, wanted) in expected(family).items():
        plan = opened.plan(component, **sizes)
        stored = {plan.operands[index].name: NUMPY[plan.operands[index].dtype] for index in plan.inputs}
        given = {name: values.astype(stored[name]) for name, values in inputs.items()}
        for port, values in session.run(component, given, **sizes).items():
            error = np.abs(values - wanted[port]).max() / np.abs(wanted[port]).max()
            assert error <= 2e-2, (component, port, error)
