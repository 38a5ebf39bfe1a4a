"""Fetch the files of a hub id that a checkpoint needs, and no others."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from ondevice.converters.configs import COMPONENTS
from ondevice.converters.diffusers_folder import choose_weights, shards_of
from ondevice.converters.families import TOKENIZER_FILES
from ondevice.errors import CheckpointError, DownloadError, OnDeviceError

log = logging.getLogger(__name__)

_SMALL_FILES = ("model_index.json", "scheduler/scheduler_config.json", *(f"tokenizer/{name}" for name in TOKENIZER_FILES))


def download(repo: str, *, variant: str | None = None, revision: str | None = None) -> Path:
    """The local folder of `repo`'s snapshot in huggingface_hub's cache, in diffusers' layout.

    Files already there are not fetched again, a lost connection resumes inside a file, progress bars go to stderr. `HF_ENDPOINT` names
    another server; `HF_TOKEN` and `HF_HOME` work as in huggingface_hub. Without a network a snapshot in the cache is used.

    Raises DownloadError saying what to do; CheckpointError if the repository has no diffusers layout or not that variant.
    """
    from huggingface_hub import HfApi, snapshot_download  # slow to import, and of no use to a local checkpoint

    # Read here, not at import: huggingface_hub reads it once, before a caller had a chance to set it.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    where = repo + (f"@{revision}" if revision else "")

    def fetch(files: list[str], *, local: bool = False) -> Path:
        return Path(snapshot_download(repo, revision=revision, endpoint=endpoint, allow_patterns=files, local_files_only=local))

    try:
        names = HfApi(endpoint=endpoint).list_repo_files(repo, revision=revision)
    except Exception as error:
        explained = _explained(error, where, endpoint)
        if not _is_offline(error):
            raise explained from None
        try:
            folder = fetch(list(_SMALL_FILES), local=True)
        except OSError:
            raise explained from None
        log.warning("%s: cannot reach the hub; using the copy in %s", where, folder)
        return folder
    files = wanted_files(names, variant, where)
    try:
        folder = fetch(files)
        shards = [f"{parent}/{file}" for parent, index in _indices(files) for file in shards_of(folder / parent, index)]
        return fetch([*files, *shards]) if shards else folder
    except OnDeviceError:
        raise
    except Exception as error:
        raise _explained(error, where, endpoint) from None


def wanted_files(names: list[str], variant: str | None, where: str) -> list[str]:
    """The files of a repository (paths with "/") that make a checkpoint: configs, tokenizer, and one weight file or index a component.

    Raises CheckpointError if it has no diffusers layout.
    """
    wanted = [name for name in _SMALL_FILES if name in names]
    if "tokenizer/vocab.json" not in names:  # as transformers 5 saves it
        wanted += [name for name in ("tokenizer/tokenizer.json",) if name in names]
    for component in COMPONENTS:
        inside = [name.removeprefix(f"{component}/") for name in names if name.startswith(f"{component}/")]
        if "config.json" not in inside:
            raise CheckpointError(
                f"the repository has no {component}/config.json, so it is not in diffusers' layout.",
                where=where,
                fix="name another repository, or download its .safetensors file and give the file's path",
            )
        choice = choose_weights(component, inside, variant, f"{where}/{component}")
        wanted += [f"{component}/config.json", f"{component}/{choice.file}"]
    return wanted


def _indices(files: list[str]) -> list[tuple[str, str]]:
    """(folder, file) of every shard index among `files`."""
    pairs = [name.rpartition("/") for name in files]
    return [(folder, file) for folder, _, file in pairs if ".index." in file]


def _is_offline(error: Exception) -> bool:
    """No answer from the server, as opposed to an answer that says no. httpx names its own errors; none of them is an HfHubHTTPError."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return not isinstance(error, HfHubHTTPError | HFValidationError)


def _explained(error: Exception, where: str, endpoint: str | None) -> DownloadError:
    """The same in one sentence, with what to do. The order matters: a gated repository is also one that is not found."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    server = endpoint or "the hub"
    if isinstance(error, HFValidationError):
        return DownloadError("this is no hub id.", where=where, fix="write organisation/name")
    if isinstance(error, GatedRepoError):
        return DownloadError("the repository is gated.", where=where, fix="accept its licence on its page and set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return DownloadError(f"{server} has no such repository, or it is private.", where=where, fix="check the name, or set HF_TOKEN")
    if isinstance(error, RevisionNotFoundError):
        return DownloadError("the repository has no such revision.", where=where, fix="name a branch, tag or commit that exists")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        fix = "set HF_TOKEN to a token that may read it" if status in (401, 403) else "try again later"
        return DownloadError(f"{server} answered {status}.", where=where, fix=fix)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        fix = "free some space, or set HF_HOME to a folder on another disk; files already fetched are kept"
        return DownloadError("the disk is full.", where=where, fix=fix)
    fix = "check the network, or give a local folder; files already fetched are kept"
    return DownloadError(f"cannot reach {server} ({type(error).__name__}).", where=where, fix=fix)
