# make demo   a virtual environment, the demo model's bundle, and demo.png: no root, no OpenCL driver needed
# make test   the tests, without torch
# make sweep  the rest of them: kernels at every value of every tunable, tables of pages made again
# make phones kernels for phones under further conditions: Metal, sub-groups of other widths, sanitizers, Oclgrind, PoCL
# make parity the tests against torch, diffusers and transformers
# make browser  the page of `ondevice serve` in headless Chromium (Debian's chromium and chromium-driver)
# make lint   style and types
# make fuzz   damaged and hostile files for every reader, for a minute or SECONDS (SEED, WORKERS: see docs/fuzzing.md)
# make player-fuzz    the same for readers of the C++ player, by libFuzzer
# make aarch64-check  the C++ player for aarch64, under qemu: a quarter of an hour
# make apk-check    the Android app: compiled, dexed, packaged, signed and verified with what Debian, PyPI and npm have
# make swift-check  the Swift player, built and tested where there is a toolchain, or in SWIFT_ROOT (ios_demo/check.sh)
# make adb-check    phones over adb, against Debian's adbd as a phone on this machine; needs root and debootstrap
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SECONDS ?= 60
SEED ?= 0
PROMPT ?= a red circle on a blue background

.PHONY: demo test sweep phones parity browser lint fuzz player-fuzz aarch64-check apk-check swift-check adb-check clean

demo: $(VENV)/.cpu
	$(BIN)/python -m ondevice.convert demo --out demo.ondevice --force
	$(BIN)/python -m ondevice.generate demo.ondevice "$(PROMPT)" --device cpu --out demo.png

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -rfEs -m "not parity and not sweep and not phones and not browser"

sweep: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m sweep

phones: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -rfEs -m phones

parity: $(VENV)/.reference
	$(BIN)/python -m pytest -n auto --dist worksteal -m parity

browser: $(VENV)/.browser
	$(BIN)/python -m pytest -rfEs -m browser

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: $(VENV)/.dev
	$(BIN)/python -m benchmarks.fuzz --seconds $(SECONDS) --seed $(SEED) $(if $(WORKERS),--workers $(WORKERS))

player-fuzz: $(VENV)/.dev
	$(BIN)/python -m benchmarks.player_fuzz --seconds $(SECONDS) --seed $(SEED)

aarch64-check: $(VENV)/.dev
	$(BIN)/python -m benchmarks.aarch64

apk-check: $(VENV)/.dev
	$(BIN)/python android_demo/app/check/check.py

swift-check: $(VENV)/.dev
	@PYTHON=$(abspath $(BIN)/python) SWIFT_ROOT=$(SWIFT_ROOT) ios_demo/check.sh

adb-check: $(VENV)/.dev
	$(BIN)/python -m benchmarks.adbd

clean:
	rm -rf build $(VENV) demo.ondevice demo.png

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.cpu: $(VENV)/.made pyproject.toml setup.py
	$(BIN)/pip install --quiet --editable ".[cpu]"
	touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml setup.py
	$(BIN)/pip install --quiet --editable ".[cpu,dev]"
	touch $@ $(VENV)/.cpu

$(VENV)/.browser: $(VENV)/.dev
	$(BIN)/pip install --quiet --editable ".[cpu,dev,browser]"
	touch $@

# torch first and alone: asked for through another package, pip takes a build with several gigabytes of CUDA libraries.
$(VENV)/.reference: $(VENV)/.dev
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable ".[cpu,dev,reference,train]"
	touch $@
