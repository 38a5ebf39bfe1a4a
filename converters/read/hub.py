"""Fetch the files of a hub id that a checkpoint needs, and no others."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ondevice.converters.families import Family
from ondevice.converters.read.diffusers_folder import choose_weights, is_somewhere, shards_of
from ondevice.errors import CheckpointError, DownloadError
from ondevice.vocabulary.files import FILES, MERGES, SPIECE, VOCAB, WHOLE

log = logging.getLogger(__name__)
T = TypeVar("T")
TIMEOUT = 10.0  # seconds until a server that says nothing is given up
WAITS = (1, 2)  # seconds between tries

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FILE_SUFFIXES = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
_SMALL_FILES = ("model_index.json", "scheduler/scheduler_config.json")

_AGAIN = "try again later"
_READS_IT = "set HF_TOKEN to a token that may read it, or unset one that has expired"
_FIXES = {
    401: _READS_IT,
    403: _READS_IT,
    408: _AGAIN,
    429: "wait some minutes, or set HF_TOKEN, which raises the limit",
}


@dataclass(frozen=True, slots=True)
class _Need:
    """What is wanted of a repository: `files` chooses among its names, or raises CheckpointError. A copy in the cache
    has one of `marks`; it is whole if it also holds what `beside` says of its names."""

    files: Callable[[list[str]], list[str]]
    marks: tuple[str, ...]
    beside: Callable[[list[str]], list[str]] = lambda names: []


def download(repo: str, family: Family, *, variant: str | None = None, revision: str | None = None) -> Path:
    """The local folder of `repo`'s snapshot in huggingface_hub's cache, in diffusers' layout.

    Raises DownloadError saying what to do; CheckpointError if the repository has no diffusers layout or
    not that variant.
    """
    where = repo + (f"@{revision}" if revision else "")

    def beside(names: list[str]) -> list[str]:
        return ["scheduler/scheduler_config.json", *(_vocabulary(name, names) for name in family.tokenizers)]

    mark = f"{next(iter(family.parts))}/config.json"
    return _snapshot(
        repo, _Need(lambda names: wanted_files(names, family, variant, where), (mark,), beside), where, revision
    )


def _vocabulary(tokenizer: str, names: list[str]) -> str:
    """The file of a tokenizer's folder that it is nothing without, of those that there are."""
    if f"{tokenizer}/{VOCAB}" in names:
        return f"{tokenizer}/{MERGES}"
    return f"{tokenizer}/{SPIECE if f'{tokenizer}/{WHOLE}' not in names else WHOLE}"


def download_part(repo: str, family: Family, part: str) -> Path:
    """The local folder of one part of `repo`, which has it in a folder of its name, or is nothing else.
    Raises as `download` does."""
    marks = f"{part}/config.json", "config.json"
    folder = _snapshot(repo, _Need(lambda names: wanted_part(names, family, part, repo), marks), repo, None)
    return folder / part if (folder / part / "config.json").is_file() else folder


def is_hub_id(text: str) -> bool:
    """Whether a text can be the name of a repository, and is none of a file of weights."""
    return _HUB_ID.fullmatch(text) is not None and not text.endswith(_FILE_SUFFIXES)


def local_part(source: str, family: Family, part: str) -> Path:
    """Where a part that is given beside a checkpoint lies; one with a hub id is fetched.
    Raises as `download` does."""
    path = Path(source).expanduser()
    return download_part(source, family, part) if not path.exists() and is_hub_id(source) else path


def _snapshot(repo: str, need: _Need, where: str, revision: str | None) -> Path:
    """The folder of a snapshot that holds what is needed.

    Files already there are not fetched again, a lost connection resumes inside a file, progress bars go to stderr.
    `HF_ENDPOINT` names another server; `HF_TOKEN` and `HF_HOME` work as in huggingface_hub. Where there is no network,
    or the server refuses or fails, a whole snapshot in the cache is used, with a warning and at once.

    Raises DownloadError saying what to do; CheckpointError as `need` does.
    """
    from huggingface_hub import HfApi, snapshot_download  # slow to import, and of no use to a local checkpoint
    from huggingface_hub.errors import OfflineModeIsEnabled

    # Read here, not at import: huggingface_hub reads it once, before a caller had a chance to set it.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    name = revision or "main"

    def fetch(files: list[str], revision: str) -> Path:
        return Path(snapshot_download(repo, revision=revision, endpoint=endpoint, allow_patterns=files))

    copy: Path | None = None
    try:
        copy = _copy(repo, name, need)
        api = HfApi(endpoint=endpoint)
        info = _asked(lambda: api.model_info(repo, revision=name, timeout=TIMEOUT), tries=1 if copy else len(WAITS) + 1)
        files = need.files([file.rfilename for file in info.siblings or ()])
        if copy and copy.name == info.sha and all((copy / file).is_file() for file in files):
            return copy
        # By commit: the branch's name in the cache goes on leading to the whole copy until there is a new one.
        commit = info.sha or name
        folder = fetch(files, commit)
        shards = [f"{parent}/{file}" for parent, index in _indices(files) for file in shards_of(folder / parent, index)]
        folder = fetch([*files, *shards], commit) if shards else folder
        absent = [file for file in (*files, *shards) if not (folder / file).is_file()]
        if absent:
            raise DownloadError(
                f"{absent[0]} could not be fetched.", where=where, fix=f"{_AGAIN}, or name another --revision"
            )
        if commit != name:
            with suppress(Exception):  # what was asked for is here; this only lets the cache know the branch or tag
                fetch(files, name)
        return folder
    except CheckpointError:
        raise
    except Exception as error:
        explained = error if isinstance(error, DownloadError) else _explained(error, where, endpoint)
        if copy is None:
            raise explained from None
        if not isinstance(error, OfflineModeIsEnabled):  # which the user chose
            reason = (
                "cannot reach the hub"
                if explained.what.startswith("cannot reach")
                else explained.what.removesuffix(".")
            )
            log.warning("%s: %s; using the copy in %s (HF_HUB_OFFLINE=1 does so without asking)", where, reason, copy)
        return copy


def _asked(request: Callable[[], T], tries: int) -> T:
    """What `request` returns; it is tried again after a wait where the server may come back."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    for wait in WAITS[: tries - 1]:
        try:
            return request()
        except (HFValidationError, OfflineModeIsEnabled):
            raise
        except HfHubHTTPError as error:
            if error.response.status_code not in (408, 429) and error.response.status_code < 500:
                raise
        except Exception as error:
            log.info("%s: trying again", type(error).__name__)
        time.sleep(wait)
    return request()


def _copy(repo: str, revision: str, need: _Need) -> Path | None:
    """The snapshot of `revision` in the cache if it holds all that is needed, whatever the server says of it now."""
    from huggingface_hub import try_to_load_from_cache

    cached = ((mark, try_to_load_from_cache(repo, mark, revision=revision)) for mark in need.marks)
    folder = next((Path(found).parents[mark.count("/")] for mark, found in cached if isinstance(found, str)), None)
    if folder is None:
        return None
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    try:
        files = need.files(names)
        files += [f"{parent}/{file}" for parent, index in _indices(files) for file in shards_of(folder / parent, index)]
    except CheckpointError:
        return None
    return folder if {*files, *need.beside(names)} <= set(names) else None


def wanted_files(names: list[str], family: Family, variant: str | None, where: str) -> list[str]:
    """The files of a repository (paths with "/") that make a checkpoint:
    configs, tokenizers, and one weight file or index per part.

    Raises CheckpointError if it has no diffusers layout.
    """
    small = (*_SMALL_FILES, *(f"{folder}/{name}" for folder in family.tokenizers for name in (*FILES, SPIECE)))
    wanted = [name for name in small if name in names]
    folders = {
        part: [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")] for part in family.parts
    }
    for component, inside in folders.items():
        if "config.json" not in inside:
            raise CheckpointError(
                f"the repository has no {component}/config.json, so it is not in diffusers' layout.",
                where=where,
                fix="name another repository, or download its .safetensors file and give the file's path",
            )
        stems, mixed = family.parts[component].architecture.stems, is_somewhere(variant, family, folders)
        choice = choose_weights(component, stems, inside, variant, f"{where}/{component}", mixed=mixed)
        wanted += [f"{component}/config.json", f"{component}/{choice.file}"]
    return wanted


def wanted_part(names: list[str], family: Family, part: str, where: str) -> list[str]:
    """The files of a repository that make one part: config and weight file or index.
    Raises CheckpointError if it has none."""
    network = family.parts[part].architecture
    for prefix in (f"{part}/", ""):
        inside = [
            name.removeprefix(prefix)
            for name in names
            if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
        ]
        if "config.json" in inside:
            choice = choose_weights(part, network.stems, inside, None, f"{where}/{prefix}".rstrip("/"))
            return [f"{prefix}config.json", prefix + choice.file]
    what = (
        f"the repository has no {part}/config.json and no config.json, "
        f"so it has no {network.word} in diffusers' layout."
    )
    raise CheckpointError(
        what, where=where, fix="name another repository, or download its .safetensors file and give the file's path"
    )


def _indices(files: list[str]) -> list[tuple[str, str]]:
    """(folder, file) of every shard index among `files`."""
    pairs = [name.rpartition("/") for name in files]
    return [(folder, file) for folder, _, file in pairs if ".index." in file]


def _explained(error: Exception, where: str, endpoint: str | None) -> DownloadError:
    """The same in one sentence, with what to do.
    The order matters: a gated repository is also one that is not found."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    server = endpoint or "the hub"
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what the server said, which a fetch that also looked into the cache wraps
    if isinstance(error, HFValidationError):
        return DownloadError("this is no hub id.", where=where, fix="write organisation/name")
    if isinstance(error, OfflineModeIsEnabled):
        fix = "unset HF_HUB_OFFLINE to fetch it, or give a local folder"
        return DownloadError("HF_HUB_OFFLINE is set, and the cache has no whole copy.", where=where, fix=fix)
    if isinstance(error, GatedRepoError):
        return DownloadError(
            "the repository is gated.", where=where, fix="accept its licence on its page and set HF_TOKEN"
        )
    if isinstance(error, RepositoryNotFoundError):
        return DownloadError(
            f"{server} has no such repository, or it is private.", where=where, fix="check the name, or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return DownloadError(
            "the repository has no such revision.", where=where, fix="name a branch, tag or commit that exists"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        fix = _FIXES.get(status, _AGAIN if status >= 500 else "name another repository, or give a local folder")
        return DownloadError(f"{server} answered {status}.", where=where, fix=fix)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        fix = "free some space, or set HF_HOME to a folder on another disk; files already fetched are kept"
        return DownloadError("the disk is full.", where=where, fix=fix)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what = f"the cache cannot be written ({os.strerror(error.errno)})."
        return DownloadError(what, where=where, fix="set HF_HOME to a folder that you may write in")
    fix = "check the network, or give a local folder; files already fetched are kept"
    return DownloadError(f"cannot reach {server} ({type(error).__name__}).", where=where, fix=fix)
