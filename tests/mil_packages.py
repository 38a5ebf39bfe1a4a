"""Core ML packages made with coremltools' own builder, for tests of what reads them."""

import logging

logging.getLogger("coremltools").setLevel(logging.CRITICAL)

import coremltools as ct  # noqa: E402
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import Function, Program, types  # noqa: E402

from ondevice.export.manifest import Entry  # noqa: E402
from ondevice.export.runtimes import mil  # noqa: E402

IOS = {16: ct.target.iOS16, 17: ct.target.iOS17, 18: ct.target.iOS18}
TYPES = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}


def save_package(path, build, inputs, *, ios=18):
    """A package of the results of `build(**inputs)`, which gets the builder's values; no passes go over it.

    Args:
        build: gives a list of values, which the package's outputs are named after.
        inputs: arrays by name; floats of either type.
    """
    places = {name: mb.placeholder(shape=a.shape, dtype=TYPES[a.dtype.name]) for name, a in inputs.items()}
    with Function(places, opset_version=IOS[ios]) as function:
        function.set_outputs(build(**function.inputs))
    program = Program()
    program.add_function("main", function)
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=IOS[ios],
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def load(*packages):
    """A component of packages that are in one folder, as the evaluator has it."""
    files = tuple(one.name for one in packages)
    return mil.load(packages[0].parent, Entry("unet", files, {}, {}, {}))
