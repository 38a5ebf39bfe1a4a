"""Core ML packages evaluated as they were saved, in NumPy, on any machine: what a package means, not how fast it is.

Values that a program declares as float16 are rounded to it; in between everything is float32. Core ML itself, which
only macOS has, may round elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ondevice.errors import BundleError, GraphError
from ondevice.export.manifest import Entry
from ondevice.export.runtimes.in_a_row import InARow
from ondevice.export.runtimes.mil_arithmetic import ARITHMETIC
from ondevice.export.runtimes.mil_file import Operation, Program, Type, Weight, read_package
from ondevice.export.runtimes.mil_moves import MOVES
from ondevice.export.runtimes.mil_ops import Given

OPERATIONS = ARITHMETIC | MOVES
CONSTANT, COMPRESSED = "const", "constexpr_"
LISTS = {"values"}  # parameters that are several values


def load(folder: Path, entry: Entry) -> InARow:
    """A component of an export in `folder`.

    Raises:
        BundleError: a package of it is damaged.
        GraphError: it has an op that is not known here, or is no ML program of fixed sizes.
    """
    return InARow([package(folder, name) for name in entry.files])


def package(folder: Path, name: str) -> Package:
    """One of its packages. Raises as `load` does."""
    return Package(name, read_package(folder / name))


class Package:
    """A package that is evaluated. `types`: of its inputs and of every result.

    Raises:
        GraphError: an op is not known here.
        BundleError: a result is nobody's.
    """

    def __init__(self, name: str, program: Program) -> None:
        self.name, self._program, self.inputs, self.types = name, program, [*program.inputs], program.types
        computed = {*program.inputs}
        for operation in program.operations:
            if operation.kind != CONSTANT and operation.kind not in OPERATIONS:
                what = f"the op {operation.kind} is not evaluated here."
                where = f"{name}, {operation.outputs[0][0]}"
                raise GraphError(what, where=where, fix="run the package with Core ML, on macOS")
            if operation.kind != CONSTANT and not operation.kind.startswith(COMPRESSED):
                computed |= {value for value, _ in operation.outputs}
        for value in program.outputs:
            if value not in computed:
                raise BundleError(f"no op computes {value}.", where=name, fix="write the package again")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output by name.

        Args:
            inputs: by the package's names, in its shapes and types.

        Raises:
            GraphError: an input is missing, or of another shape or type.
            BundleError: an op cannot be computed, or gives something else than the program says.
        """
        found = dict(inputs)
        found |= {name: array for name, array in self.values(inputs) if name in self._program.outputs}
        return {name: found[name] for name in self._program.outputs}

    def values(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """Each op's results in the order of computation, by the program's names; constants are none.

        Raises:
            GraphError, BundleError: as `run`.
        """
        return _values(self.name, self._program, inputs)


def _values(package: str, program: Program, given: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """What ops give, in order; each value is let go after the last op that takes it."""
    constants: dict[str, Weight | Operation] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, type in program.inputs.items():
        if name not in given or given[name].shape != type.shape or given[name].dtype != type.held:
            found = f"{given[name].dtype} {list(given[name].shape)}" if name in given else "nothing"
            what = f"the input {name} is another (got {found}, expected {type.dtype} {list(type.shape)})."
            raise GraphError(what, where=package, fix="give it as export.json says")
        arrays[name] = given[name]
    last = {
        value: i
        for i, operation in enumerate(program.operations)
        for several in operation.inputs.values()
        for value in several
        if isinstance(value, str)
    }
    for i, operation in enumerate(program.operations):
        if operation.kind == CONSTANT:
            constants[operation.outputs[0][0]] = _constant(operation)
            continue
        if operation.kind.startswith(COMPRESSED):
            constants[operation.outputs[0][0]] = _compressed(package, operation, constants)
            continue
        for (name, _), array in zip(operation.outputs, _evaluated(package, operation, constants, arrays), strict=True):
            arrays[name] = array
            yield name, array
        taken = {value for several in operation.inputs.values() for value in several if isinstance(value, str)}
        for name in taken | {name for name, _ in operation.outputs}:
            if last.get(name, i) == i:
                arrays.pop(name, None)


def _constant(operation: Operation) -> Weight:
    value = operation.inputs.get("val", ("",))[-1]
    if not isinstance(value, Weight) or len(operation.outputs) != 1 or value.type != operation.outputs[0][1]:
        raise BundleError("is no constant.", where=f"constant {operation.outputs[0][0]}", fix="write the package again")
    return value


def _compressed(package: str, operation: Operation, constants: Mapping[str, Weight | Operation]) -> Operation:
    for several in operation.inputs.values():
        if not all(isinstance(constants.get(one) if isinstance(one, str) else one, Weight) for one in several):
            what = f"{operation.kind} of what is no constant is not evaluated here."
            raise GraphError(what, where=f"{package}, {operation.outputs[0][0]}", fix="run the package with Core ML")
    return operation


def _evaluated(
    package: str,
    operation: Operation,
    constants: Mapping[str, Weight | Operation],
    arrays: Mapping[str, np.ndarray],
) -> list[np.ndarray]:
    """An op's results in their declared types. Constants are read, and weights made of compressed ones, when they are
    used: never more than an op's at once."""

    def read(value: str | Weight) -> np.ndarray:
        found = constants.get(value, value) if isinstance(value, str) else value
        if isinstance(found, Operation):
            return _evaluated(package, found, constants, arrays)[0]
        return found.array() if isinstance(found, Weight) else arrays[found]

    where = f"{package}, {operation.outputs[0][0]} ({operation.kind})"
    types = [type for _, type in operation.outputs]
    try:
        inputs: Given = {}
        for name, several in operation.inputs.items():
            widened = [_wide(read(value)) for value in several]
            inputs[name] = widened if name in LISTS else widened[0]
        with np.errstate(all="ignore"):
            found = OPERATIONS[operation.kind](inputs, types)
            results = found if isinstance(found, list) else [found]
            arrays_out = [_narrow(np.asarray(one), type) for one, type in zip(results, types, strict=True)]
    except BundleError as error:
        raise BundleError(error.what, where=where, fix=error.fix) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # its parameters are no such
        what = f"cannot be computed ({error!r})."
        raise BundleError(what, where=where, fix="write the package again") from None
    for array, type in zip(arrays_out, types, strict=True):
        if array.shape != type.shape:
            what = f"gives {list(array.shape)} (expected {list(type.shape)})."
            raise BundleError(what, where=where, fix="write the package again")
    return arrays_out


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _narrow(array: np.ndarray, type: Type) -> np.ndarray:
    return array.astype(type.held, copy=False)
