"""Several files of one component: each takes what those before it give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ondevice.errors import PeerError
from ondevice.run.waiting import Waiter


class File(Protocol):
    """A file that a runtime has read."""

    name: str

    @property
    def inputs(self) -> Sequence[str]: ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    def values(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]: ...


class InARow:
    """A component (`ondevice.export.runtimes.Component`) of one file or of several."""

    def __init__(self, files: Sequence[File]) -> None:
        self._files = files

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output of every file by name. Raises PeerError where the runtime fails."""
        known = dict(inputs)
        for file in self._files:
            known |= file.run(_given(file, known))
        return {name: value for name, value in known.items() if name not in inputs}

    def values(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """What each op makes, file by file. Raises PeerError where the runtime fails."""
        known = dict(inputs)
        for number, file in enumerate(self._files):
            given = _given(file, known)
            yield from file.values(given)
            if number + 1 < len(self._files):
                known |= file.run(given)


def _given(file: File, known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name in file.inputs:
        if name not in known:
            what = f"it takes {name[:60]}, which nothing before it gives."
            raise PeerError(what, where=file.name, fix="convert the model again")
    return {name: known[name] for name in file.inputs}


def asked(runtime: str, file: str, waiter: Waiter, call: Callable[[], Any]) -> Any:
    """What a runtime says of a file; Ctrl-C need not wait for it. Raises PeerError where it raises anything: runtimes'
    errors have no class of their own that would last."""
    try:
        return waiter(call)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        what = f"{runtime} failed ({first or type(error).__name__})."
        raise PeerError(what, where=file, fix="convert the model again") from None
