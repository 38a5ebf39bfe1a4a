"""One server for all tests that ask it."""

import pytest
from adapter_files import adapter
from checkpoint_files import write_safetensors
from serving.serving_helpers import Running

from ondevice.converters.source import Source


@pytest.fixture(scope="session")
def bundle(demo_bundle):
    return demo_bundle


@pytest.fixture(scope="session")
def lora_dir(tmp_path_factory):
    """A folder with one LoRA of the demo model."""
    folder = tmp_path_factory.mktemp("loras")
    write_safetensors(folder / "style.safetensors", adapter(Source("demo").open().components, "peft", gain=0.1))
    return folder


@pytest.fixture(scope="session")
def running(bundle, lora_dir, tmp_path_factory):
    server = Running(bundle, tmp_path_factory.mktemp("gallery"), "--lora-dir", lora_dir)
    yield server
    server.stop()
