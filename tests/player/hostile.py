"""Some four hundred bundles that are made to break a player. How each is refused is in the golden hostile.json.

What one changed value breaks is in the golden refused.json and its neighbours; these are attacks: sums that overflow,
places that lie in each other, files that are none, JSON without an end, names that are paths, and plans, stages and
pipelines whose parts are right, and do not fit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle.setting import setting
from bundle.tiny_bundle import edit_json, replace_file

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bundle"
TINY, IMAGES, TARGETS, PICTURE = "tiny", "images", "targets", "picture"
MANIFEST, PLAN, WIDE_PLAN = "bundle.json", "plans/tiny_width8.json", "plans/tiny_width1000.json"
DIGEST = "0" * 64
Change = Callable[[Any], Any]


@dataclass(frozen=True)
class Hostile:
    """One of them: what it is, and what makes it in an empty folder and gives its path."""

    what: str
    make: Callable[[Path], Path]


def copied(base: str, folder: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / f"{base}.ondevice", folder / "b"))


def edited(what: str, base: str, file: str, *changes: Change) -> Hostile:
    """A JSON file of a golden bundle with changes, its digest made right again."""

    def change(value: Any) -> Any:
        for one in changes:
            value = new if (new := one(value)) is not None else value
        return value

    return damaged(what, base, lambda path: edit_json(path, file, change))


def raw(what: str, base: str, file: str, change: Callable[[bytes], bytes]) -> Hostile:
    """Other bytes in a file, its size and digest made right again."""
    return damaged(what, base, lambda path: replace_file(path, file, change((path / file).read_bytes())))


def damaged(what: str, base: str, change: Callable[[Path], Any]) -> Hostile:
    """Any change of a golden bundle's folder."""

    def make(folder: Path) -> Path:
        path = copied(base, folder)
        change(path)
        return path

    return Hostile(what, make)


def file_row(size: int = 1) -> dict[str, Any]:
    return {"bytes": size, "sha256": DIGEST}


def many(count: int, value: Any) -> dict[str, Any]:
    return {f"k{i}": value for i in range(count)}


def weight(shape: list[int], size: int, **more: Any) -> Change:
    entry = {"dtype": "f16", "shape": shape, "file": "weights/tiny-000.bin", "offset": 0, "bytes": size}
    return setting("weights", "w", to=entry | more)


# Numbers where one is expected that a 64-bit reader would wrap, round or take for another.
NUMBERS: dict[str, Any] = {
    "2^64": 1 << 64,
    "2^64 + 1536": (1 << 64) + 1536,
    "2^63": 1 << 63,
    "less than -2^63": -(1 << 63) - 1,
    "a real": 1536.5,
    "a huge real": 1e300,
    "true": True,
    "a text": "1536",
    "a list": [1536],
    "40 digits": 10**39,
}
PATHS = {
    "the parent": "..",
    "a way up and back": "kernels/../bundle.json",
    "itself": ".",
    "a dot between": "kernels/./pick.cl",
    "from the root": "/etc/passwd",
    "an empty part": "kernels//pick.cl",
    "a folder": "kernels/",
    "nothing": "",
    "a flag": "-rf",
    "a hidden file": ".ssh/config",
    "a space": "kernels/pick .cl",
    "a zero byte": "kernels/pick.cl\0.txt",
    "a backslash": "kernels\\pick.cl",
    "a drive": "C:/x",
    "a stream": "pick.cl:stream",
    "a full-width dot": "\uff0e\uff0e/x",
    "a letter with an accent": "kernels/pïck.cl",
    "a Kelvin sign": "\u212aernels/x",
    "a line feed": "a\nb",
    "a tilde": "~/x",
    "a wildcard": "kernels/*",
    "a variable": "$HOME/x",
    "four parts": "a/b/c/d",
    "129 letters": "a" * 129,
    "the manifest in capitals": "BUNDLE.JSON",
    "a file in capitals": "KERNELS/PICK.CL",
    "a mark of direction": "a\u202eb",
}


def manifests() -> list[Hostile]:
    """What the manifest alone shows."""
    found = [
        edited(f"arena: {what}", TINY, MANIFEST, setting("plans", 0, "arena", to=n)) for what, n in NUMBERS.items()
    ]
    found += [
        edited(f"bytes of a file: {what}", TINY, MANIFEST, setting("files", "kernels/pick.cl", "bytes", to=n))
        for what, n in NUMBERS.items()
    ]
    found += [
        edited(f"path: {what}", TINY, MANIFEST, setting("files", name, to=file_row())) for what, name in PATHS.items()
    ]
    found += [
        edited("weight: a product of 2^64", TINY, MANIFEST, weight([65536] * 4, 1)),
        edited("weight: a product of 2^64, and 0 bytes", TINY, MANIFEST, weight([65536] * 4, 0)),
        edited("weight: a product of 2^93", TINY, MANIFEST, weight([2**31 - 1] * 3, 8)),
        edited("weight: 2^65 by eight dimensions", TINY, MANIFEST, weight([256] * 7 + [512], 2)),
        edited("weight: as large as may be", TINY, MANIFEST, weight([2**31 - 1, 256], 2**40 - 512)),
        edited("weight: its end past 2^64", TINY, MANIFEST, weight([4], 8, offset=2**64 - 512)),
        edited("weight: its end past the shard", TINY, MANIFEST, weight([300], 600, offset=1024)),
        edited("weight: between multiples", TINY, MANIFEST, weight([4], 8, offset=513)),
        edited("weight: in a plan's file", TINY, MANIFEST, weight([4], 8, file=PLAN)),
        edited("weight: in a folder", TINY, MANIFEST, weight([4], 8, file="weights/")),
        edited("weight: in a file by a way up", TINY, MANIFEST, weight([4], 8, file="weights/../bundle.json")),
        edited("weight: a scalar of 4 bytes", TINY, MANIFEST, weight([], 4)),
        edited("weight: a dtype of two words", TINY, MANIFEST, weight([4], 8, dtype="f16 f16")),
        edited("components: 1,025", TINY, MANIFEST, setting("components", to=many(1025, {"dtype": "f16"}))),
        edited("plans: 1,025", TINY, MANIFEST, lambda m: m | {"plans": m["plans"][:1] * 1025}),
        edited(
            "plans: twice at sizes in another order",
            PICTURE,
            MANIFEST,
            lambda m: m["plans"].append(m["plans"][1] | {"sizes": {"width": 2, "height": 4, "batch": 1}}),
        ),
        edited("plans: one file for two sizes", TINY, MANIFEST, setting("plans", 1, "file", to=PLAN)),
        edited(
            "plans: another component's file",
            PICTURE,
            MANIFEST,
            setting("plans", 1, "file", to="plans/text_encoder_b1.json"),
        ),
        edited("plans: nine sizes", TINY, MANIFEST, setting("plans", 0, "sizes", to=many(9, 1))),
        edited("plans: a size of 2^32 + 8", TINY, MANIFEST, setting("plans", 0, "sizes", "width", to=2**32 + 8)),
        edited("plans: the manifest as a plan", TINY, MANIFEST, setting("plans", 0, "file", to="bundle.json")),
        edited("kernels: 4,097", TINY, MANIFEST, setting("kernels", to=["pick"] * 4097)),
        edited(
            "kernels: a keyword with a line", TINY, MANIFEST, setting("kernels", 0, to='pick"\n#include "/etc/passwd')
        ),
        edited("preludes: a way up", TINY, MANIFEST, setting("preludes", 0, to="../pick")),
        edited("samplers: a way up", TINY, MANIFEST, setting("samplers", 0, to="../bundle")),
        edited(
            "tokenizers: 17",
            TINY,
            MANIFEST,
            setting("tokenizers", to=many(17, {"kind": "bpe", "length": 1, "files": []})),
        ),
        edited("tokenizers: 65 files", TINY, MANIFEST, setting("tokenizers", "tiny", "files", to=["vocab.json"] * 65)),
        edited("tokenizers: a length of 2^32", TINY, MANIFEST, setting("tokenizers", "tiny", "length", to=2**32)),
        edited("tokenizers: a name with a slash", TINY, MANIFEST, setting("tokenizers", to={"a/b": {}})),
        edited("files: 16,385", TINY, MANIFEST, lambda m: m["files"].update(many(16_385, file_row()))),
        edited("files: a digest in capitals", TINY, MANIFEST, setting("files", PLAN, "sha256", to="A" * 64)),
        edited("files: a digest with a line feed", TINY, MANIFEST, setting("files", PLAN, "sha256", to=DIGEST + "\n")),
        edited("files: a digest of 63", TINY, MANIFEST, setting("files", PLAN, "sha256", to="0" * 63)),
        edited("model: 257 facts", TINY, MANIFEST, setting("model", to=many(257, 1))),
        edited("model: a name with an escape sequence", TINY, MANIFEST, setting("model", "source", to="\x1b[2Jgone")),
        edited("model: a name from right to left", TINY, MANIFEST, setting("model", "source", to="x\u202egnp.exe")),
        edited("producer: 513 letters", TINY, MANIFEST, setting("producer", to="\U0001f600" * 513)),
        edited("version: 2.10000", TINY, MANIFEST, setting("version", to="2.10000")),
        edited("version: 02.1", TINY, MANIFEST, setting("version", to="02.1")),
        edited("version: digits of another script", TINY, MANIFEST, setting("version", to="٢.١")),
        edited("rewrite: 257 rules", TINY, MANIFEST, setting("components", "tiny", "rewrite", "rules", to=[{}] * 257)),
        edited("targets: 65", TARGETS, MANIFEST, lambda m: m | {"targets": m["targets"][:1] * 65}),
        edited(
            "targets: a limit of 2^40 + 1",
            TARGETS,
            MANIFEST,
            setting("targets", 0, "limits", "allocation", to=2**40 + 1),
        ),
        edited("targets: 17 needs", TARGETS, MANIFEST, setting("targets", 0, "needs", to=["half"] * 17)),
        edited("targets: a plan of none", TARGETS, MANIFEST, setting("plans", 0, "targets", to=["fast", "Fast"])),
        edited(
            "targets: less than a plan's arena",
            TARGETS,
            MANIFEST,
            setting("targets", 2, "limits", "allocation", to=1535),
        ),
    ]
    return found
