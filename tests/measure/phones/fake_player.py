"""Stands for od_player: looks at the bundle as far as it must, and says what FAKE_PLAYER tells it to."""

import json
import os
import sys
import time
from pathlib import Path

ROW = {
    "device": "Adreno (TM) 740",
    "driver": "OpenCL 3.0 QUALCOMM build: 512.676",
    "source": "picture",
    "width": 4,
    "height": 8,
    "steps": 2,
    "first_seconds": 3.5,
    "median_seconds": 2.0,
    "sustained_seconds": 2.1,
    "runs": [2.0, 1.9, 2.1],
    "ops": [{"op": "Conv", "kernel": "conv2d", "seconds": 1.5, "runs": 20, "flops": 3000000000, "bytes": 4000000}],
    "components": {"unet": 1.5},
    "plan_bytes": 1000,
    "peak_bytes": 2000,
    "player": "od_player 0.1.0",
}


def refuse(code, text):
    sys.stderr.write(f"error: {text}\n")
    return code


def main(words):
    if words == ["--version"]:
        print("od_player 0.1.0")
        return 0
    bundle = Path("bundle")
    manifest = json.loads((bundle / "bundle.json").read_text())
    if not manifest["version"].startswith("2."):
        fix = "install a newer ondevice"
        return refuse(9, f'bundle.json: version is "{manifest["version"]}" (expected 2.x). Fix: {fix}.')
    for name, entry in manifest["files"].items():
        path = bundle / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return refuse(9, f"{name}: is missing from bundle. Fix: copy the bundle again.")
    mode = os.environ.get("FAKE_PLAYER", "")
    if words[0] == "verify":
        return 0
    if mode == "hangs":
        time.sleep(100)
    if mode == "killed":
        return 137
    if mode == "silent":
        print("no JSON")
        return 0
    if mode == "no device":
        return refuse(10, "OpenCL: no library was found (looked for libOpenCL.so). Fix: use a phone that has one.")
    if words[0] == "show":
        print(json.dumps({"source": manifest["model"]["source"]}))
        return 0
    if words[0] == "doctor":
        golden = json.loads(Path(words[words.index("--golden") + 1]).read_text())
        assert golden["format"] == "ondevice-golden" and len(golden["launches"]) > 4
        wrong = [
            {"launch": 2, "verdict": "wrong", "why": "x: elements 0 to 1 sum to 0"},
            {"launch": 4, "verdict": "refused", "why": "the driver refused it"},
        ]
        print(json.dumps({"device": ROW["device"], "findings": wrong if mode == "wrong" else []}))
        return 13 if mode == "wrong" else 0
    assert words[0] == "bench" and "--json" in words, words
    repeats = int(words[words.index("--repeat") + 1])
    print(json.dumps(ROW | {"runs": (ROW["runs"] * repeats)[:repeats]}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
