"""Runs the components of an export in another runtime: what a pipeline asks of a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ondevice.diffusion.roles import check_finite
from ondevice.errors import BundleError, PeerError
from ondevice.export.layout import from_file, to_file
from ondevice.export.manifest import MANIFEST, Entry
from ondevice.export.opened import Export
from ondevice.export.runtimes import Component, runtime_of


class ExportRunner:
    """A `Runner` (ondevice/diffusion/values.py). Values are arrays in the host's memory.

    A component is read when it first runs and kept until it is released.

    Args:
        finite: refuse results that are not.

    Raises:
        UsageError: a package that the runtime takes is not installed.
    """

    def __init__(self, export: Export, *, finite: bool = True) -> None:
        self._export, self._module, self._finite = export, runtime_of(export.kind).load(), finite
        self._loaded: dict[tuple[str, ...], tuple[str, Component]] = {}

    def run(self, component: str, inputs: Mapping[str, Any], **sizes: int) -> dict[str, np.ndarray]:
        """Every output of a component, float32, in our shapes.

        Args:
            inputs: by our names and in our shapes, float32 or int32.
            sizes: batch, and height and width in latent units. Of a component for more passes the first ones are
                given several times, and what is made of the others is dropped.

        Raises:
            BundleError: there is no such component at these sizes, or an input is not what the export says.
            PeerError: the runtime fails.
            NumericError: a result is not finite.
        """
        entry = self._export.entry(component, sizes)
        passes = entry.sizes["batch"] // sizes["batch"] if {"batch"} <= sizes.keys() & entry.sizes.keys() else 1
        made = self.loaded(entry).run(feeds(entry, inputs, passes))
        found = {}
        for name, port in entry.outputs.items():
            if port.name not in made:
                what = f"it gave {', '.join(made)} (expected {port.name} as in {MANIFEST})."
                raise PeerError(what, where=component, fix="convert the model again")
            array = from_file(port, entry.shapes[name], made[port.name], f"{component}'s {name}")
            if self._finite:
                check_finite(array, f"{component}'s {name}", f"`ondevice check --component {component}`")
            found[name] = array[: len(array) // passes] if passes > 1 and array.ndim else array
        return found

    run_on = run

    def read(self, value: np.ndarray) -> np.ndarray:
        """The value: it is here."""
        return value

    def put(self, array: np.ndarray) -> np.ndarray:
        """The array: it stays here."""
        return array

    def loaded(self, entry: Entry) -> Component:
        """A component of the runtime, read once. Raises PeerError where the runtime refuses it."""
        if entry.files not in self._loaded:
            self._loaded[entry.files] = entry.component, self._module.load(self._export.path, entry)
        return self._loaded[entry.files][1]

    def release(self, component: str) -> None:
        """Forget a component's files until it runs again."""
        self._loaded = {files: one for files, one in self._loaded.items() if one[0] != component}

    def release_all(self) -> None:
        """Forget all of them."""
        self._loaded.clear()


def feeds(entry: Entry, inputs: Mapping[str, Any], passes: int = 1) -> dict[str, np.ndarray]:
    """The inputs of a component by the names that its files have for them, and as they have them.

    Args:
        passes: of what is per pass, how often each is given.

    Raises:
        BundleError: they are not what the export says.
    """
    if inputs.keys() != entry.inputs.keys():
        what = f"{entry.component} takes {', '.join(entry.inputs)} (got {', '.join(inputs)})."
        raise BundleError(what, where=MANIFEST, fix="convert the model again")
    found = {}
    for name, port in entry.inputs.items():
        given, expected = inputs[name], entry.shapes[name]
        array = given if isinstance(given, np.ndarray) else np.concatenate(given)
        if passes > 1 and expected[:1] == (passes * len(array),):
            array = np.concatenate([array] * passes)
        if array.ndim != len(expected) or any(b not in (a, 0) for a, b in zip(array.shape, expected, strict=True)):
            what = f"{entry.component}'s {name} is {list(array.shape)} (expected {list(expected)})."
            raise BundleError(what, where=MANIFEST, fix="convert the model again")
        found[port.name] = to_file(port, array, f"{entry.component}'s {name}")
    return found
