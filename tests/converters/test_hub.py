"""A hub id, against a server on this machine that answers as the hub does:
only what is needed, resumed, and every refusal explained."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from checkpoint_files import arrays_of, tiny_checkpoint, write_folder, write_json, write_safetensors
from control_files import with_nets

from ondevice.converters.families import family_of
from ondevice.converters.read.checkpoint import open_checkpoint
from ondevice.converters.read.controlnets import with_controlnets
from ondevice.converters.read.hub import wanted_part
from ondevice.errors import CheckpointError, DownloadError, OnDeviceError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny"


class Hub(http.server.ThreadingHTTPServer):
    """One repository. `cut` drops the connection once, after that many bytes of a file over 1,000 bytes;
    `status` refuses everything."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.commit = COMMIT
        self.cut = 0
        self.status = 0
        self.code = ""
        self.broken = ""  # a file that cannot be fetched
        self.fetched: list[tuple[str, str]] = []  # (path, Range header)
        self.waits: list[float] = []
        self.asked: list[str] = []  # paths

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    """The endpoints that huggingface_hub asks: model info, tree, and resolve with HEAD and ranges."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep stderr clean."""

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlparse(self.path).path)
        hub.asked.append(path)
        if hub.status:
            self.answer(hub.status, b"{}", {"X-Error-Code": hub.code} if hub.code else {})
        elif path == f"/api/models/{REPO}/revision/main":
            info = {"id": REPO, "sha": hub.commit, "siblings": [{"rfilename": name} for name in hub.files]}
            self.answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/api/models/{REPO}/tree/"):
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in hub.files.items()
            ]
            self.answer(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/{REPO}/resolve/") and (name := path.split("/", 5)[5]) in hub.files:
            self.send_file(name, hub.files[name])
        else:
            code = "RevisionNotFound" if "/revision/" in path or "/tree/" in path else "RepoNotFound"
            self.answer(404, b"{}", {"X-Error-Code": code if REPO in path else "RepoNotFound"})

    def send_file(self, name: str, data: bytes) -> None:
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": self.server.commit,
            "Accept-Ranges": "bytes",
        }
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if self.command == "GET":
            self.server.fetched.append((name, asked))
        if self.command == "GET" and self.server.broken == name:
            self.answer(503, b"")
            return
        if self.command == "GET" and self.server.cut and len(data) > 1000:
            cut, self.server.cut = self.server.cut, 0
            self.send_response(200)
            for key, value in ({"Content-Length": str(len(data))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data[:cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.answer(206 if asked else 200, data[start:], headers)


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the tiny model in fp32 and fp16, and files that nobody needs."""
    from huggingface_hub import constants

    tiny = tiny_checkpoint()
    write_folder(tmp_path / "repo", tiny)
    for name, stem in (
        ("text_encoder", "model"),
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
    ):
        halves = {key: array.astype(np.float16) for key, array in arrays_of(tiny, name).items()}
        write_safetensors(tmp_path / "repo" / name / f"{stem}.fp16.safetensors", halves)
        (tmp_path / "repo" / name / f"{stem}.non_ema.bin").write_bytes(b"never fetched")
    write_json(tmp_path / "repo" / "model_index.json", {})
    write_json(tmp_path / "repo" / "safety_checker" / "config.json", {})
    server = Hub(files_under(tmp_path / "repo"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # the waits between tries, ours and its own
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", server.waits.append)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def assert_tiny(source: str, half: bool = False, **options: str) -> None:
    found, tiny = open_checkpoint(source, family="sd14", **options), tiny_checkpoint()
    assert found.source == source  # what the user named, not the cache's folder
    for name in tiny.components:
        expected = arrays_of(tiny, name)
        for key, array in arrays_of(found, name).items():
            np.testing.assert_array_equal(array, expected[key].astype(np.float16) if half else expected[key])


def test_only_the_needed_files_are_fetched_and_only_once(hub: Hub) -> None:
    assert_tiny(REPO)
    fetched = {name for name, _ in hub.fetched}
    needed = {
        name
        for name in hub.files
        if not name.endswith(("non_ema.bin", "fp16.safetensors")) and "safety_checker" not in name
    }
    assert fetched == needed
    before = len(hub.fetched)
    assert_tiny(REPO)
    assert len(hub.fetched) == before


def test_a_variant_is_fetched_instead_of_the_plain_files(hub: Hub) -> None:
    assert_tiny(REPO, half=True, variant="fp16")
    assert not [name for name, _ in hub.fetched if name.endswith("model.safetensors")]


def test_sharded_weights_are_fetched_after_their_index(hub: Hub) -> None:
    whole = "unet/diffusion_pytorch_model.safetensors"
    hub.files["unet/part-1.safetensors"] = hub.files.pop(whole)
    names = list(arrays_of(tiny_checkpoint(), "unet"))
    index = {"weight_map": dict.fromkeys(names, "part-2.safetensors")}
    hub.files[f"{whole}.index.json"] = json.dumps(index).encode()
    assert (
        str(refusal())
        == f"{REPO}: unet/part-2.safetensors could not be fetched. Fix: try again later, or name another --revision."
    )
    hub.files[f"{whole}.index.json"] = json.dumps(index).replace("part-2", "part-1").encode()
    hub.commit = "b" * 40
    assert_tiny(REPO)


def test_a_lost_connection_resumes_where_it_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 256)  # 10 MB in earnest
    hub.cut = 700
    assert_tiny(REPO)
    assert [asked for _, asked in hub.fetched if asked] == ["bytes=512-"]


def test_files_fetched_before_an_interruption_are_kept(hub: Hub) -> None:
    last = "vae/diffusion_pytorch_model.safetensors"
    hub.broken = last
    assert isinstance(refusal(), DownloadError)
    hub.broken, before = "", len(hub.fetched)
    assert_tiny(REPO)
    assert [name for name, _ in hub.fetched[before:]] == [last]


def test_without_a_network_the_copy_in_the_cache_is_used(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert_tiny(REPO)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert_tiny(REPO)
    assert "cannot reach the hub; using the copy in" in caplog.text


@pytest.mark.parametrize(
    ("status", "code", "revision"),
    [
        (404, "RepoNotFound", None),
        (401, "RepoNotFound", None),
        (403, "GatedRepo", "main"),
        (404, "RevisionNotFound", "main"),
        (429, "", None),
        (451, "", None),
        (500, "", COMMIT),
        (503, "", None),
    ],
)
def test_a_server_that_refuses_or_fails_is_not_waited_for_where_the_cache_has_all(
    hub: Hub, caplog: pytest.LogCaptureFixture, status: int, code: str, revision: str | None
) -> None:
    assert_tiny(REPO)
    hub.status, hub.code = status, code
    assert_tiny(REPO, **({"revision": revision} if revision else {}))
    assert "; using the copy in " in caplog.text and "(HF_HUB_OFFLINE=1 does so without asking)" in caplog.text
    assert hub.waits == []


def test_what_is_in_the_cache_asks_one_question(hub: Hub) -> None:
    assert_tiny(REPO)
    hub.asked.clear()
    assert_tiny(REPO)
    assert hub.asked == [f"/api/models/{REPO}/revision/main"]


def test_what_an_older_version_did_not_fetch_is_fetched(hub: Hub, tmp_path: Path) -> None:
    assert_tiny(REPO)
    lost = "tokenizer/special_tokens_map.json"  # a checkpoint can do without; this one has it
    next((tmp_path / "cache").glob(f"*/snapshots/*/{lost}")).unlink()
    hub.fetched.clear()
    assert_tiny(REPO)
    assert next((tmp_path / "cache").glob(f"*/snapshots/*/{lost}")).is_file()


def test_a_newer_commit_that_cannot_be_fetched_leaves_the_older_copy_in_use(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert_tiny(REPO)
    hub.commit, hub.broken = "f" * 40, "vae/config.json"
    hub.files["vae/config.json"] += b" "
    assert_tiny(REPO)
    assert f"{hub.url} answered 503; using the copy in" in caplog.text
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert_tiny(REPO)


@pytest.mark.parametrize(
    "lost", ["unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json", "tokenizer/merges.txt"]
)
def test_a_copy_that_lacks_a_file_is_not_used(hub: Hub, tmp_path: Path, lost: str) -> None:
    if lost.startswith("scheduler"):  # as transformers 5 saves a tokenizer
        vocab, merges = (hub.files.pop(f"tokenizer/{name}").decode() for name in ("vocab.json", "merges.txt"))
        model = {
            "type": "BPE",
            "end_of_word_suffix": "</w>",
            "vocab": json.loads(vocab),
            "merges": merges.splitlines()[1:],
        }
        hub.files["tokenizer/tokenizer.json"] = json.dumps({"version": "1.0", "model": model}).encode()
    assert_tiny(REPO)
    next((tmp_path / "cache").glob(f"*/snapshots/*/{lost}")).unlink()
    hub.status = 500
    assert str(refusal()) == f"{REPO}: {hub.url} answered 500. Fix: try again later."
    assert hub.waits == [1, 2]  # it may have come back


def refusal(source: str = REPO, **options: str) -> OnDeviceError:
    with pytest.raises(OnDeviceError) as caught:
        open_checkpoint(source, family="sd14", **options)
    return caught.value


def test_refusals_are_explained(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal("someone/else")
    assert isinstance(error, DownloadError)
    assert (
        str(error)
        == f"someone/else: {hub.url} has no such repository, or it is private. Fix: check the name, or set HF_TOKEN."
    )
    assert str(refusal(revision="v9")) == (
        f"{REPO}@v9: the repository has no such revision. Fix: name a branch, tag or commit that exists."
    )
    hub.status, hub.code = 403, "GatedRepo"
    assert str(refusal()) == f"{REPO}: the repository is gated. Fix: accept its licence on its page and set HF_TOKEN."
    hub.status, hub.code = 401, ""
    reads = "set HF_TOKEN to a token that may read it, or unset one that has expired"
    assert str(refusal()) == f"{REPO}: {hub.url} answered 401. Fix: {reads}."
    hub.status = 429
    assert (
        str(refusal())
        == f"{REPO}: {hub.url} answered 429. Fix: wait some minutes, or set HF_TOKEN, which raises the limit."
    )
    hub.status = 451
    assert str(refusal()) == f"{REPO}: {hub.url} answered 451. Fix: name another repository, or give a local folder."
    hub.status = 500
    assert str(refusal()) == f"{REPO}: {hub.url} answered 500. Fix: try again later."
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert str(refusal()) == (
        f"{REPO}: cannot reach http://127.0.0.1:9 (ConnectError)."
        " Fix: check the network, or give a local folder; files already fetched are kept."
    )


def test_a_cache_that_cannot_be_written(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refusing)
    assert str(refusal()) == (
        f"{REPO}: the cache cannot be written (Permission denied). Fix: set HF_HOME to a folder that you may write in."
    )


def test_offline_by_choice(hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert str(refusal()) == (
        f"{REPO}: HF_HUB_OFFLINE is set, and the cache has no whole copy. Fix: "
        "unset HF_HUB_OFFLINE to fetch it, or give a local folder."
    )
    assert hub.waits == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert_tiny(REPO)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_tiny(REPO)
    assert "using the copy" not in caplog.text


def test_a_repository_without_the_layout_or_the_variant_is_refused(hub: Hub) -> None:
    error = refusal(variant="int8")
    assert isinstance(error, CheckpointError)
    assert error.where == f"{REPO}/text_encoder"
    assert "no weights of variant 'int8'" in error.what
    del hub.files["vae/config.json"]
    assert str(refusal()) == (
        f"{REPO}: the repository has no vae/config.json, so it is not in diffusers' layout."
        " Fix: name another repository, or download its .safetensors file and give the file's path."
    )


@pytest.mark.parametrize("folder", ["vae/", ""], ids=["in a folder", "alone"])
def test_a_vae_of_its_own_has_a_hub_id(hub: Hub, tmp_path: Path, folder: str) -> None:
    write_folder(tmp_path / "own", tiny_checkpoint())
    theirs = {name.removeprefix("vae/"): data for name, data in hub.files.items() if name.startswith("vae/")}
    hub.files = {f"{folder}{name}": data for name, data in theirs.items()}
    hub.files |= {"README.md": b"", "more.safetensors": b""}
    found = open_checkpoint(tmp_path / "own", family="sd14", vae=REPO).components["vae"]
    assert {name for name, _ in hub.fetched} == {f"{folder}config.json", f"{folder}diffusion_pytorch_model.safetensors"}
    assert len(found.weights) == len(tiny_checkpoint().components["vae"].weights)
    with pytest.raises(CheckpointError, match=r"no vae/config\.json and no config\.json, so it has no VAE"):
        wanted_part(["README.md"], family_of("sd14"), "vae", REPO)


def test_a_controlnet_has_a_hub_id(hub: Hub, tmp_path: Path) -> None:
    made = with_nets("sd15")
    write_json(
        tmp_path / "net" / "config.json", made.components["controlnet"].config | {"_class_name": "ControlNetModel"}
    )
    write_safetensors(tmp_path / "net" / "diffusion_pytorch_model.safetensors", arrays_of(made, "controlnet"))
    hub.files = {path.name: path.read_bytes() for path in (tmp_path / "net").iterdir()} | {"README.md": b""}
    base = replace(made, components={name: one for name, one in made.components.items() if name != "controlnet"})
    found = with_controlnets(base, [REPO]).components["controlnet"]
    assert {name for name, _ in hub.fetched} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert list(found.weights) == list(made.components["controlnet"].weights)
