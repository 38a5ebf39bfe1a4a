"""Runs the roles of one picture: with which plans, what their ports are fed with and what their outputs become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ondevice.bundle.pipeline import PipelineSpec, Role
from ondevice.diffusion.text.chunks import Chunk
from ondevice.diffusion.text.encode import encoded
from ondevice.diffusion.values import Runner, Values
from ondevice.errors import NumericError


@dataclass(frozen=True, slots=True)
class Roles:
    """What running a role of one picture takes.

    Attributes:
        plans: sizes of each component's plans.
        place: height and width of the picture in latent units.
    """

    spec: PipelineSpec
    session: Runner
    plans: Mapping[str, Sequence[Mapping[str, int]]]
    values: Values
    place: Mapping[str, int]

    def run(self, role: Role, text: str | None = None) -> None:
        """Run a role outside the loop, and keep what it makes; once for each chunk of a text that it reads tokens of.
        Raises NumericError where that is not finite."""
        values, sizes = self.values, self.sizes(role.component, 1, text)

        def run(chunk: Chunk | None) -> Mapping[str, Any]:
            return self.session.run_on(role.component, values.feeds(role, text, chunk), **sizes)

        tokenizer = next((feed.name for feed in role.feed.values() if feed.kind == "tokens"), None)
        if tokenizer is None or text is None:
            outputs = run(None)
        else:
            chunks, length = values.texts.chunks(text, tokenizer), values.tokenizers[tokenizer].length
            outputs = encoded(chunks, run, self.session, length, values.texts.emphasis)
        for port, name in role.keep.items():
            check_finite(self.session.read(outputs[port]), f"{role.component}'s {port}")
            self.values.keep(name, outputs[port], text)

    def run_for_texts(self, role: Role, texts: Sequence[str]) -> None:
        """Run a role for each text (its parts' keys); what it would make of one that was not given may be zeros."""
        absent = [text for text in texts if self.values.stands_for_zeros(role, text)]
        given = [text for text in texts if text not in absent]
        for text in given:
            self.run(role, text)
        for name in role.keep.values():
            for text in absent:
                of_one_chunk = self.zeros_like(self.values.get(name, given[0]), self.values.texts.count(given[0]))
                self.values.keep(name, of_one_chunk, text)

    def sizes(self, component: str, batch: int, text: str | None = None) -> dict[str, int]:
        """The sizes of the plan to run; `text` says how many tokens it reads."""
        names = self.plans[component][0] if component in self.plans else self.place
        found = {name: size for name, size in {"batch": batch, **self.place}.items() if name in names}
        if "tokens" in names:
            length = max(tokenizer.length for tokenizer in self.values.tokenizers.values())
            found["tokens"] = length * self.values.texts.count(text)
        return found

    def has_plan(self, component: str, batch: int, text: str | None = None) -> bool:
        """Whether a component can run this many passes at once."""
        return self.sizes(component, batch, text) in self.plans.get(component, ())

    def zeros_like(self, value: Any, chunks: int = 1) -> Any:
        """Zeros like a value, and where it is; of a value that has states of several `chunks` those of one."""
        array = value if isinstance(value, np.ndarray) else self.session.read(value)
        zeros = np.zeros_like(array[:, : array.shape[1] // chunks] if chunks > 1 and array.ndim == 3 else array)
        return zeros if isinstance(value, np.ndarray) else self.session.put(zeros)


def check_finite(values: np.ndarray, where: str) -> None:
    """Raises NumericError where a value is NaN or infinite."""
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise NumericError(
            f"{bad} of {values.size} values are NaN or infinite",
            where=where,
            fix="find the op with --check, or convert with --dtype fp32",
        )
