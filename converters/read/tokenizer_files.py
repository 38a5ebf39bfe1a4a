"""The tokenizer's files of a diffusers folder, as a bundle holds them, whichever version of transformers saved them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ondevice.errors import CheckpointError
from ondevice.vocabulary.files import EITHER
from ondevice.vocabulary.unigram import read_unigram
from ondevice.vocabulary.vocabulary import read_vocabulary

CLIP, T5 = "clip_tokenizer", "t5_tokenizer"  # `Architecture.tokenizer` of text encoders


def read_tokenizer(folder: Path, kind: str = CLIP) -> dict[str, bytes]:
    """Files by name: vocab.json, merges.txt, and tokenizer_config.json and special_tokens_map.json
    where there are such; of T5's what a bundle has of it.

    Added tokens (textual inversion) are in tokenizer_config.json, whichever file of the folder has them.

    Raises:
        CheckpointError: a file is missing or damaged, or it is no tokenizer that `generate` would read.
    """
    return read_unigram(folder).files() if kind == T5 else read_vocabulary(folder).files()


def check_vocabulary(tokenizer: Mapping[str, bytes], config: Mapping[str, Any], where: str, kind: str = CLIP) -> None:
    """Raise CheckpointError unless `generate` can read these files, ids have rows in the text encoder's table,
    and texts the length that the text encoder takes.

    A gather would clamp an id past the end, and the picture would be of another prompt.
    """
    if kind == T5:
        _check_size(read_unigram(tokenizer).size, config, where)
        return
    read = read_vocabulary(tokenizer)
    _check_size(read.size, config, where)
    taken = config["max_position_embeddings"]
    if read.length not in (None, taken):
        raise CheckpointError(
            f"its texts have {read.length} tokens, and the text encoder takes {taken}.",
            where=where,
            fix=f'write "model_max_length": {taken} into its tokenizer_config.json, or use the tokenizer that the text '
            "encoder came with",
        )


def _check_size(size: int, config: Mapping[str, Any], where: str) -> None:
    if size > config["vocab_size"]:
        what = f"it has the id {size - 1}, and the text encoder {config['vocab_size']} rows."
        raise CheckpointError(what, where=where, fix=EITHER)
