"""Install one package, `ondevice`. The top-level folders `converters/` and `shaders/` become parts of it,
so that a wheel never owns a top-level `converters`."""

from setuptools import setup

setup(
    package_dir={"ondevice": "ondevice", "ondevice.converters": "converters", "ondevice.shaders": "shaders"},
    packages=[
        "ondevice",
        "ondevice.base",
        "ondevice.base.process",
        "ondevice.base.publish",
        "ondevice.base.text",
        "ondevice.bundle",
        "ondevice.compiler",
        "ondevice.converters",
        "ondevice.converters.architectures",
        "ondevice.converters.families",
        "ondevice.converters.onnx_import",
        "ondevice.converters.read",
        "ondevice.diffusion",
        "ondevice.diffusion.samplers",
        "ondevice.export",
        "ondevice.graph",
        "ondevice.lower",
        "ondevice.measure",
        "ondevice.measure.doctor",
        "ondevice.measure.peers",
        "ondevice.measure.predict",
        "ondevice.measure.tuner",
        "ondevice.models",
        "ondevice.plan",
        "ondevice.rewrite",
        "ondevice.run",
        "ondevice.shaders",
        "ondevice.target",
        "ondevice.targets",
        "ondevice.vocabulary",
    ],
    include_package_data=False,  # `package_data` is the whole list: folders of data are no packages
    package_data={
        "ondevice": ["py.typed"],
        "ondevice.bundle": ["*.json"],
        "ondevice.measure.predict": ["*.toml"],
        "ondevice.models": ["**/*"],
        "ondevice.shaders": ["README.md", "portable/*.cl", "cpu/*.cl", "mobile/*.cl", "prelude/*.h", "tuning/*.toml"],
        "ondevice.targets": ["*.toml", "sets/*.toml"],
    },
)
