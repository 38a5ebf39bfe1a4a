"""CLIP's byte-pair tokenizer: text -> 77 ids.

Gives the ids of Hugging Face's CLIPTokenizer (transformers 4.57's fast one, which is transformers 5's only one): NFC,
runs of white space become one space, lower case, CLIP's word pattern, byte-level pairs with `</w>` at a word's end.
Where other implementations differ is in docs/tokenizer.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.diffusion.text.chunks import check_unicode, first_ids
from ondevice.errors import UsageError
from ondevice.vocabulary.settings import LENGTH
from ondevice.vocabulary.vocabulary import Vocabulary, read_vocabulary

_MAX_TEXT = 1 << 20  # characters of a prompt after tokens of several vectors are spelled out


class Tokenizer:
    """Ids of a prompt. Make one with `Tokenizer.from_files`.

    `size` is one more than the highest id; `bos`, `eos` and `pad` are the ids of the start, the end and the filling,
    `comma` that of a comma, if it has one; `length` is how many ids a text encoder takes.
    """

    def __init__(self, vocabulary: Vocabulary, length: int | None = None) -> None:
        self._backend = vocabulary.backend
        self._added = self._backend.get_added_tokens_decoder()
        ids = [
            int(self._backend.token_to_id(vocabulary.roles[role]) or 0)
            for role in ("bos_token", "eos_token", "pad_token")
        ]
        self.bos, self.eos, self.pad = ids
        self.size = vocabulary.size
        self.comma: int | None = self._backend.token_to_id(",</w>")  # one that ends a word, as most do
        self.length = length or vocabulary.length or LENGTH

    @classmethod
    def from_files(cls, source: str | Path | Mapping[str, bytes], length: int | None = None) -> Tokenizer:
        """Reads a tokenizer as transformers 4 or 5 saves it, or as a bundle holds it.

        `source` is a folder, or the files' bytes by name; `length` is what the files say, or CLIP's, where it is None.
        Raises CheckpointError for anything a tokenizer cannot be made of.
        """
        return cls(read_vocabulary(source), length)

    def encode(self, text: str) -> list[int]:
        """All ids of `text`, start and end included, however long."""
        return [self.bos, *self._encode(text).ids, self.eos]

    def spelled_out(self, text: str) -> str:
        """`text` with each added token of several vectors (`<a>`, `<a>_1`, ...) written as all of them,
        as diffusers' pipelines do.

        Raises UsageError where the text would become too long.
        """
        names = {token.content for token in self._added.values()}
        for token in [self._added[index] for index in dict.fromkeys(self._encode(text).ids) if index in self._added]:
            name, vectors = token.content, [token.content]
            if token.normalized and self._backend.normalizer.normalize_str(name) != name:
                continue  # transformers 5 tells its name in lower case, by which diffusers does not know it
            while f"{name}_{len(vectors)}" in names:
                vectors.append(f"{name}_{len(vectors)}")
            text = text.replace(name, " ".join(vectors))
            if len(text) > _MAX_TEXT:
                raise UsageError(
                    f"it is too long with all vectors of {name!r}.", where="prompt", fix="name the token less often"
                )
        return text

    def piece(self, text: str) -> tuple[str, list[int], list[int]]:
        """A text spelled out, its ids without start and end, and where in it each begins."""
        text = self.spelled_out(text)
        encoding = self._encode(text)
        return text, list(encoding.ids), [start for start, _ in encoding.offsets]

    def __call__(self, text: str) -> np.ndarray:
        """int32 [length] of a plain text. Words that it has no room for are left out, and the log names them."""
        return first_ids(text, self)

    def tokens(self, ids: list[int]) -> list[str]:
        """The vocabulary's spelling of each id."""
        return [self._added[i].content if i in self._added else str(self._backend.id_to_token(i)) for i in ids]

    def _encode(self, text: str) -> Any:
        check_unicode(text)
        return self._backend.encode(text, add_special_tokens=False)
