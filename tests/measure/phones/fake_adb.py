"""Stands for `adb`: phones are folders, and their shell is this machine's. FAKE_ADB names a JSON file:

{"phones": {SERIAL: {"state": "device", "root": FOLDER, "player": SCRIPT, "bytes": 1000000, "pushes": 3}}}

`bytes` that a phone has room for, and `pushes` after which its connection is lost, may be left out. What was pushed is
logged in ROOT/../SERIAL.log.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TMP = "/data/local/tmp"


def lost(serial):
    sys.stderr.write(f"error: device '{serial}' not found\n")
    return 1


def push(phone, root, log, serial, sources, target):
    folder = Path(target.replace(TMP, str(root)))
    if len(log.read_text().splitlines()) >= phone.get("pushes", 1 << 30):
        (folder / Path(sources[0]).name).write_bytes(Path(sources[0]).read_bytes()[:5])
        (root / "lost").touch()
        return lost(serial)
    for source in map(Path, sources):
        used = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        if used + source.stat().st_size > phone.get("bytes", 1 << 62):
            (folder / source.name).write_bytes(source.read_bytes()[:5])
            sys.stderr.write(
                f"adb: error: failed to copy '{source}' to '{target}': remote write failed: No space left on device\n"
            )
            return 1
        shutil.copyfile(source, folder / source.name)
    with log.open("a") as file:
        file.write(" ".join(Path(source).name for source in sources) + "\n")
    print(f"{len(sources)} files pushed")
    return 0


def main(words):
    phones = json.loads(Path(os.environ["FAKE_ADB"]).read_text())["phones"]
    if words == ["devices"]:
        print("List of devices attached")
        for serial, phone in phones.items():
            print(f"{serial}\t{phone.get('state', 'device')}")
        return 0
    assert words[0] == "-s", words
    serial, verb, *rest = words[1:]
    phone = phones[serial]
    root = Path(phone["root"])
    log = root.parent / f"{serial}.log"
    log.touch()
    if (root / "lost").exists():
        return lost(serial)
    if verb == "get-state":
        print("device")
        return 0
    if verb == "push":
        return push(phone, root, log, serial, rest[:-1], rest[-1])
    assert verb == "shell" and len(rest) == 1, words
    command = rest[0].replace("./od_player", phone["player"]).replace(TMP, str(root))
    if "/od_player --version" in command:
        command = f"{phone['player']} --version"
    return subprocess.run(["sh", "-c", command], check=False, start_new_session=True).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
