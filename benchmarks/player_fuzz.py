"""Feed the C++ player's readers with damaged and hostile files: `python -m benchmarks.player_fuzz --seconds 60`.

Builds android_demo/player/fuzz with Clang's libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer, makes seeds of
the golden files, and runs each target for its share of the time. Exits with 1 where something was found; the input is
then in `--out`, and `build/player-fuzz/fuzz_TARGET FILE` shows it again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ondevice.bundle import TokenizerFiles, open_bundle
from ondevice.bundle.packer import pack_bundle

ROOT = Path(__file__).resolve().parents[1]
if (tests := str(ROOT / "tests")) not in sys.path:
    sys.path.append(tests)  # builders of small bundles, which the tests use too
GOLDEN = ROOT / "tests" / "golden"
BUNDLES = ("tiny", "images", "targets", "picture")
Seeds = Iterator[bytes]


def compact(path: Path) -> bytes:
    """A JSON file without spaces: the shorter an input, the more of its bytes mean something."""
    return json.dumps(json.loads(path.read_text()), separators=(",", ":"), ensure_ascii=False).encode()


def manifests() -> Seeds:
    for name in (*BUNDLES, "adapters"):
        yield compact(GOLDEN / "bundle" / f"{name}.ondevice" / "bundle.json")
    whole = json.loads((GOLDEN / "bundle" / "picture.ondevice" / "bundle.json").read_text())
    for path in sorted((GOLDEN / "pipeline").glob("*.json")):
        if path.name == "refused.json":
            continue
        part = json.loads(path.read_text())
        # What the pipeline names, with files that are there already: nothing but the pipeline is to be refused.
        whole["components"] |= {name: {"dtype": "f16"} for name in part["components"]}
        whole["tokenizers"] = {name: {"kind": "bpe", "length": 77, "files": []} for name in part["tokenizers"]}
        whole["samplers"] = part["samplers"]
        whole["files"] |= {f"samplers/{name}.json": {"bytes": 1, "sha256": "0" * 64} for name in part["samplers"]}
        yield json.dumps(whole | {"pipeline": part["pipeline"]}, separators=(",", ":")).encode()


def plans() -> Seeds:
    for name in BUNDLES:
        folder = GOLDEN / "bundle" / f"{name}.ondevice"
        manifest = compact(folder / "bundle.json")
        for plan in sorted((folder / "plans").glob("*.json")):
            yield manifest + b"\0" + compact(plan)


def samplers() -> Seeds:
    for path in sorted((GOLDEN / "samplers").glob("*.json")):
        if path.name != "refused.json":
            yield json.dumps(json.loads(path.read_text())["table"], separators=(",", ":")).encode()


def archives() -> Seeds:
    """What `ondevice pack` writes, and the same with the fields of ZIP64."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tiny", "picture"):
            bundle = open_bundle(GOLDEN / "bundle" / f"{name}.ondevice")
            yield pack_bundle(bundle, Path(folder) / f"{name}.odpack").read_bytes()
    for path in sorted((GOLDEN / "bundle").glob("*.odpack")):
        yield path.read_bytes()


def pictures() -> Seeds:
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"):
        for size in ((1, 1), (7, 5), (20, 3)):
            picture = Image.effect_noise(size, 64).convert("L" if mode == "I;16" else mode).convert(mode)
            with io.BytesIO() as file:
                picture.save(file, "PNG")
                yield file.getvalue()


def tokenizers() -> Seeds:
    """A vocabulary of a few letters, with and without added tokens."""
    tokens = [
        *"abcdef !",
        *(f"{letter}</w>" for letter in "abcdef!"),
        "ab",
        "abc</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = json.dumps({token: number for number, token in enumerate(tokens)})
    merges, text = "#version: 0.2\na b\nab c</w>\n", "abc (fade:1.2) ABC! BREAK [<cat> <cat>_1 AND \u00e9\u0130: .5"
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    more = {"single_word": True, "lstrip": True, "rstrip": False, "normalized": True, "special": False}
    added = {"<cat>": more, "<cat>_1": plain | {"special": False}, "<Dog>": more | {"single_word": False}}
    special = dict.fromkeys(("eos_token", "unk_token", "pad_token"), tokens[-1]) | {"bos_token": tokens[-2]}
    rows = [(token, plain) for token in tokens[-2:]] + list(added.items())
    decoder = {str(len(tokens) - 2 + i): {"content": token} | flags for i, (token, flags) in enumerate(rows)}
    config = json.dumps(special | {"added_tokens_decoder": decoder})
    for after in (["", ""], [json.dumps(special), ""], ["", config]):
        yield "\0".join([vocabulary, merges, *after, text]).encode()


def unigrams() -> Seeds:
    """A small tokenizer of T5's kind, with and without its table of replacements."""
    from unigram_files import bundle_files

    files = bundle_files()
    small = json.loads(files["unigram.json"])
    text = "a cat\u00e9 \ufb01<extra_id_0> </s> zz".encode()
    for table in (files["charsmap.bin"], b""):
        yield b"\0".join([json.dumps(small, ensure_ascii=False).encode(), text, table])


def expressions() -> Seeds:
    """How stored weights are made (docs/adapters.md): every op, in the order in which weights are packed."""
    leaf = {"weight": "unet/a.weight", "shape": [6, 40]}
    turned = {"op": "transpose", "perm": [1, 0], "of": [leaf]}
    taps = {"op": "transpose", "perm": [2, 3, 1, 0], "of": [{"weight": "unet/b.weight", "shape": [3, 2, 3, 3]}]}
    both = {"op": "concat", "axis": 1, "of": [turned, {"op": "scale", "by": 0.125, "of": [turned]}]}
    eight = {"op": "int8", "of": [both]}
    four = {"op": "int4", "of": [turned]}
    for dtype, shape, made in (
        ("f16", [2, 40, 8], {"op": "panels", "width": 8, "halves": 2, "of": [both]}),
        ("f32", [36, 2, 3], {"op": "winograd", "of": [taps]}),
        ("f16", [240], {"op": "reshape", "shape": [240], "of": [leaf]}),
        ("i8", [40, 16], {"op": "pad", "columns": 16, "of": [eight]}),
        ("f32", [2, 1, 8], {"op": "panels", "width": 8, "halves": 1, "of": [eight | {"op": "int8_scales"}]}),
        (
            "u4x2",
            [2, 40, 2],
            {"op": "pairs", "of": [{"op": "panels", "width": 4, "halves": 1, "fill": 8, "of": [four]}]},
        ),
        ("f16", [2, 8], {"op": "pad", "columns": 8, "of": [four | {"op": "int4_scales"}]}),
    ):
        yield json.dumps({"dtype": dtype, "shape": shape, "made": made}, separators=(",", ":")).encode()


def doctors() -> Seeds:
    """A golden file and a list of programs to avoid, as docs/doctor.md has them."""
    results = [{"operand": 2, "block": 1, "odd": 0, "sums": [0.5, -1.0], "slack": [0.0, 0.25]}]
    launches = [
        {"plan": "plans/tiny_width8.json", "dispatch": dispatch, "fill": fill, "results": results}
        for dispatch, fill in enumerate(("signed", "positive"))
    ]
    golden = {"format": "ondevice-golden", "version": 1, "bundle": "digest", "target": "", "launches": launches}
    program = {"kernel": "pick", "sha256": "0" * 64, "defines": {"F16": 1, "V": -4}, "why": "wrong"}
    avoid = {"format": "ondevice-avoid", "version": 1, "device": {"name": "GPU"}, "programs": [program]}
    manifest = compact(GOLDEN / "bundle" / "tiny.ondevice" / "bundle.json")
    yield b"\0".join([manifest, json.dumps(golden).encode(), json.dumps(avoid).encode()])


def pipelines() -> Seeds:
    """Requests and pipelines of `drawn_bundle`."""
    from bundle.picture_bundle import PIPELINE

    base = PIPELINE | {"sampler": {"name": "euler", "steps": 4}}
    fast = {"sampler": {"name": "ddim", "steps": 3}, "numbers": base["numbers"] | {"w": {"default": "width"}}}
    image, mask = base["pictures"]["image"], {"prepare": "mask", "optional": True}
    masked = {
        "pictures": {"image": image, "mask": mask, "edged": {"prepare": "edges", "of": ["image"]}},
        "outside": {"picture": "image", "mask": "mask"},
        "latents": base["latents"] | {"mask": {"picture": "mask", "strength": 1.0}},
        "before": [
            step | {"below": ["strength", 1]} if step.get("run") == "vae_encoder" else step for step in base["before"]
        ],
    }
    quick = {"fast": base["after"], "pictures": {"image": image, "edged": {"prepare": "unit", "of": ["image"]}}}
    requests: list[dict[str, Any]] = [
        {"prompt": "a red cat", "fast": 1, "previews": 1, "by": 2, "image": [50.5], "side": 16},
        {"prompt": "a red cat"}, {"prompt": "red", "negative_prompt": "cat", "image": [], "side": 9, "strength": 0.7},
        {"prompt": "(red:1.5) BREAK [a] AND b:0.5", "emphasis": 2, "long": 2, "mode": 2, "varied": 3, "delta": 7},
        {"prompt": "red", "image": [], "mask": [], "side": 9, "strength": 0.5, "emphasis": 1, "mode": 1},
        {"prompt": "red", "noise": 32, "start": 5}, {"prompt": "red", "end": 5},
        {"prompt": "red", "bands": 1, "alone": 1, "unload": 1, "guidance_scale": 1.5, "width": 4},
    ]  # fmt: skip
    for request in requests:
        for pipeline in (base, base | fast, base | masked, base | quick):
            yield json.dumps(request).encode() + b"\0" + json.dumps(pipeline, separators=(",", ":")).encode()


def drawn_bundle() -> bytes:
    """The bundle that `fuzz_draw` puts pipelines into."""
    from bundle.picture_bundle import PLACE, STATES, component_plan, picture_plans, write_picture
    from small_tokenizer import small_files

    two = (2, 4, 4, 2)
    ports = [("sample", "f32", two), ("timestep", "f32", (1,)), ("encoder_hidden_states", "f32", (2, *STATES[1:]))]
    tables = {
        path.stem: json.loads(path.read_text())["table"]
        for path in sorted((GOLDEN / "samplers").glob("*.json"))
        if path.stem in ("euler_4", "ddim_3", "euler_a_3", "dpmpp_2m_5")
    }
    with tempfile.TemporaryDirectory() as folder:
        both = component_plan("unet", PLACE | {"batch": 2}, ports, ("out_sample", "f32", two))
        path = write_picture(
            Path(folder) / "base",
            plans=[*picture_plans(), both],
            samplers=tables,
            tokenizers={"tokenizer": TokenizerFiles(small_files(), 3)},
            pipeline=None,
        )
        manifest = json.loads((path / "bundle.json").read_text())
        manifest["pipeline"] = manifest.pop("pipeline")
        (path / "bundle.json").write_text(json.dumps(manifest, separators=(",", ":")))
        return pack_bundle(open_bundle(path), Path(folder) / "base.odpack").read_bytes()


TARGETS: dict[str, tuple[int, Callable[[], Seeds]]] = {
    "manifest": (1 << 14, manifests),
    "plan": (1 << 13, plans),
    "sampler": (1 << 12, samplers),
    "tokenizer": (1 << 12, tokenizers),
    "unigram": (1 << 13, unigrams),
    "packed": (1 << 16, archives),
    "png": (1 << 12, pictures),
    "doctor": (1 << 13, doctors),
    "made": (1 << 12, expressions),
    "draw": (1 << 13, pipelines),
}
"""Of each target the longest input, and what its inputs are made from."""


def build(folder: Path) -> None:
    """Build all targets. Needs Clang 14 or newer with libFuzzer, and CMake."""
    compiler = next((found for name in ("clang++", "clang++-14") if (found := shutil.which(name))), None)
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if compiler is None or cmake is None:
        raise SystemExit("player_fuzz: Clang and CMake are needed: apt install clang cmake")
    source = ROOT / "android_demo" / "player"
    flags = ["-DOD_FUZZ=ON", f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_BUILD_TYPE=None"]
    subprocess.run([cmake, "-S", source, "-B", folder, *flags], check=True, stdout=subprocess.DEVNULL)
    targets = [f"fuzz_{name}" for name in TARGETS]
    subprocess.run(
        [cmake, "--build", folder, "--parallel", "2", "--target", *targets], check=True, stdout=subprocess.DEVNULL
    )


def write_seeds(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(TARGETS[name][1]()):
        (folder / f"seed_{i:03}").write_bytes(data)


def run(name: str, folder: Path, out: Path, seconds: float, seed: int) -> tuple[int, bool]:
    """How many inputs a target was given, and whether it went well."""
    if name == "draw":
        (folder / "fuzz_draw.odpack").write_bytes(drawn_bundle())
    seeds, corpus = folder / "seeds" / name, folder / "corpus" / name
    write_seeds(name, seeds)
    corpus.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    command = [
        folder / f"fuzz_{name}", f"-max_total_time={max(int(seconds), 1)}", f"-max_len={TARGETS[name][0]}",
        f"-seed={seed}", "-timeout=10", "-rss_limit_mb=2048", "-malloc_limit_mb=512", "-print_final_stats=1",
        f"-artifact_prefix={out}/{name}-", corpus, seeds,
    ]  # fmt: skip
    # Allocations are most of the time: few frames of each are kept, and few are kept from being used again.
    environment = os.environ | {"ASAN_OPTIONS": "malloc_context_size=4:quarantine_size_mb=16"}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, errors="replace", check=False, env=environment
    )
    counts = re.findall(r"number_of_executed_units: +(\d+)", done.stderr) or re.findall(r"^#(\d+)", done.stderr, re.M)
    if done.returncode:
        found = re.search(r"^(?:.*runtime error|==\d+==|.*libFuzzer: )", done.stderr, re.M)
        print(done.stderr[found.start() if found else -4000 :][:6000], file=sys.stderr)
    return int(counts[-1]) if counts else 0, done.returncode == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, build, run, print a table; 1 where something was found."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.player_fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long, all targets together (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the inputs (default 1)")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; may be given several times")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "player-fuzz", help="folder of what is built")
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz-findings"), help="folder for what is found (default fuzz-findings)"
    )
    flags = parser.parse_args(argv)
    names = flags.target or list(TARGETS)
    build(flags.build)
    good = True
    for name in names:
        count, well = run(name, flags.build, flags.out, flags.seconds / len(names), flags.seed)
        print(f"{name}: {count:,} inputs{'' if well else f', a finding in {flags.out}'}", flush=True)
        good &= well
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
