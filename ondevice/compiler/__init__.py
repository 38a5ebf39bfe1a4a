"""A checkpoint becomes a bundle: a recipe says how, jobs say which plans, and programs come of both."""

from ondevice.compiler.compile import compile_bundle
from ondevice.compiler.jobs import Job
from ondevice.compiler.recipe import Recipe

__all__ = ["Job", "Recipe", "compile_bundle"]
