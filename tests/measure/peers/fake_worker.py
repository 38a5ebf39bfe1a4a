"""A worker that runs nothing: its times, and how it fails, are in script.json beside the task;
what it was asked goes into log.txt."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

verb, name, folder, cores = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
script = json.loads((folder.parent / "script.json").read_text())[name]


def say(**what):
    print(json.dumps(what), flush=True)


def log(what):
    with (folder.parent / "log.txt").open("a") as file:
        file.write(f"{name} {what}\n")


log(f"{verb} pid={os.getpid()} cores={cores} threads={os.environ['OMP_NUM_THREADS']}")
fails = script.get("fails")
if verb == "convert":
    if fails == "convert":
        say(error="it has no such layer")
        raise SystemExit(1)
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "stamp.json").write_text(json.dumps(script.get("stamp")))
    raise SystemExit(0)
if fails == "load":
    print("a library is missing", file=sys.stderr)
    raise SystemExit(3)
say(loaded=1.5, once=script.get("once", 0.0))
times = iter(script["seconds"])
for line in sys.stdin:
    what, _, path = line.strip().partition(" ")
    log(what)
    if what == "run":
        if fails == "run":
            os.kill(os.getpid(), 9)
        if fails == "hang":
            log(f"helper pid={subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid}")
            print("I hang", flush=True)
            time.sleep(60)
        if fails == "words":
            print("Segmentation fault, but politely", flush=True)
            continue
        took = next(times)
        say(seconds=took, cpu_seconds=took / 2)
    elif what == "memory":
        say(peak=script.get("peak", 1_000_000))
    elif what == "save":
        np.save(path, np.float32(script.get("output", [1, -2])))
        say(saved=path)
