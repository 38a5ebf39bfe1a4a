"""The page in a real browser: headless Chromium, by its own driver.

    apt-get install chromium chromium-driver; make browser

The server is a process of its own, drawing with the demo model; long drawings are ones of many steps.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from adapter_files import adapter
from checkpoint_files import write_safetensors
from PIL import Image
from serving.serving_helpers import Client

from ondevice.converters.source import Source

pytestmark = [pytest.mark.browser, pytest.mark.device]
webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

WAIT = 30


@pytest.fixture(scope="session")
def bundle(demo_bundle):
    return demo_bundle


def restore_interrupt():
    """A background job starts with Ctrl-C ignored; a user's terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Served:
    """`ondevice serve` as a user starts it."""

    def __init__(self, bundle, folder, *flags):
        words = [sys.executable, "-m", "ondevice.serve", bundle, "--port", "0", "--device", "cpu", "--gallery", folder]
        words = [*map(str, words), *map(str, flags)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, preexec_fn=restore_interrupt)
        self.address = self.process.stdout.readline().strip()
        self.folder = folder

    def drop_all(self):
        """End what a test left."""
        ask = Client(int(self.address.rstrip("/").rpartition(":")[2]))
        for job in ask("GET", "/api/jobs")[1]["jobs"]:
            ask("DELETE", f"/api/jobs/{job['id']}")

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def served(bundle, tmp_path_factory):
    loras = tmp_path_factory.mktemp("loras")
    write_safetensors(loras / "style.safetensors", adapter(Source("demo").open().components, "peft", gain=0.1))
    server = Served(bundle, tmp_path_factory.mktemp("gallery"), "--lora-dir", loras)
    yield server
    assert server.stop() == 130


@pytest.fixture(scope="session")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,1000",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


class Page:
    """One window of the browser on the page."""

    def __init__(self, browser, served):
        self.browser, self.address, self.folder = browser, served.address, served.folder
        browser.switch_to.new_window("tab")
        self.handle = browser.current_window_handle
        self.load()

    def load(self):
        self.front()
        self.browser.get(self.address)
        self.until(lambda: self["model"].text != "")

    def front(self):
        self.browser.switch_to.window(self.handle)

    def __getitem__(self, name):
        return self.browser.find_element(By.ID, name)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def until(self, holds, seconds=WAIT):
        return WebDriverWait(self.browser, seconds, 0.03).until(lambda _: holds())

    def put(self, **fields):
        for name, value in fields.items():
            field = self[name]
            if field.tag_name == "select":
                Select(field).select_by_value(value)
            else:
                field.clear()
                field.send_keys(str(value))

    def shown(self):
        """Which picture of the gallery is on the stage, if one is."""
        return (self["picture"].get_attribute("src") or "").partition("/api/gallery/")[2] or None

    def pixels(self):
        """How wide the picture on the stage is, once it was loaded and decoded; 0 before."""
        script = "const p = document.getElementById('picture'); return p.complete ? p.naturalWidth : 0"
        return self.browser.execute_script(script)

    def draw(self, **fields):
        """Ask for a picture and see it."""
        before = os.listdir(self.folder)
        self.put(**fields)
        self["draw"].click()
        self.until(lambda: self.shown() not in (None, *before))
        return self.shown()

    def complaints(self):
        """What the browser itself had to say, such as of the policy."""
        return [entry["message"] for entry in self.browser.get_log("browser") if "favicon" not in entry["message"]]

    def close(self):
        self.front()
        self.browser.close()
        self.browser.switch_to.window(self.browser.window_handles[0])


@pytest.fixture
def page(browser, served):
    found = Page(browser, served)
    yield found
    served.drop_all()
    complaints = [line for line in found.complaints() if "status of 422" not in line]
    found.close()
    assert complaints == []


def test_a_picture_is_drawn_and_seen(page, served):
    name = page.draw(prompt="a red circle on a blue background", steps=20, seed=1)
    assert page.until(page.pixels) == 64
    pixels = np.asarray(Image.open(served.folder / name)).astype(int)
    middle, corner = pixels[32, 32], pixels[2, 2]
    assert middle[0] > middle[2] + 60 and corner[2] > corner[0] + 60  # red on blue
    assert "seed 1" in page["caption"].text and page["error"].text == ""
    assert page["picture"].get_attribute("alt").startswith("a red circle")
    assert not page["working"].is_displayed() and len(page.all("#gallery img")) >= 1


def test_previews_move_and_progress_says_what_is_left(page):
    page.put(prompt="a green square on a yellow background", steps=300, count=1)
    page["prompt"].send_keys(Keys.CONTROL, Keys.ENTER)
    page.until(lambda: page["working"].is_displayed())
    seen = set()
    page.until(
        lambda: (
            seen.add(page["picture"].get_attribute("src")) or len([s for s in seen if "/preview?" in (s or "")]) >= 3
        )
    )
    first = float(page["progress"].get_attribute("value") or 0)
    page.until(lambda: float(page["progress"].get_attribute("value") or 0) > first)
    assert re.search(r"Step \d+ of 300 · .* left", page["progress-text"].text)
    page["prompt"].send_keys(Keys.ESCAPE)
    page.until(lambda: not page["working"].is_displayed(), 5)


def test_cancel_ends_it_within_a_step(page, served):
    before = sorted(os.listdir(served.folder))
    page.put(prompt="a blue triangle", steps=500, count=8)
    page["draw"].click()
    page.until(lambda: "Step" in page["progress-text"].text)
    page["cancel"].click()
    page.until(lambda: not page["working"].is_displayed(), 5)
    assert sorted(os.listdir(served.folder)) == before and page["error"].text == ""


def test_two_users_at_once(browser, served):
    first, second = Page(browser, served), Page(browser, served)
    try:
        first.front()
        first.put(prompt="the first", steps=500, count=8)
        first["draw"].click()
        first.until(lambda: "Step" in first["progress-text"].text)
        second.front()
        second.put(prompt="the second", steps=2, count=1)
        for count in (1, 2):
            second["draw"].click()  # it takes no second click before the first is answered
            second.until(lambda count=count: len(second.all("#queue li")) == count and second["draw"].is_enabled())
        places = [item.get_attribute("data-place") for item in second.all("#queue li")]
        assert places == ["1", "2"] and "another window" not in second["queue"].text
        assert second["progress-text"].text.startswith("For another window")
        second.all("#queue button")[1].click()
        second.until(lambda: len(second.all("#queue li")) == 1)
        first.front()
        assert "another window" in first["queue"].text
        first.all("#queue button")[0].click()  # another's is taken out only by a second word
        first.browser.switch_to.alert.dismiss()
        assert len(first.all("#queue li")) == 1
        first["cancel"].click()
        second.front()
        second.until(lambda: "the second" in second["caption"].text and second.shown())
        first.front()
        first.until(lambda: first["queue-part"].is_displayed() is False)
    finally:
        served.drop_all()
        second.close()
        first.close()


def test_loaded_again_in_the_midst_of_a_drawing(page):
    page.put(prompt="a white ring on a black background", negative_prompt="green", steps=500, count=8, seed=77)
    page["draw"].click()
    page.until(lambda: "Step" in page["progress-text"].text)
    page.load()
    page.until(lambda: re.search(r"Step \d+ of 500", page["progress-text"].text))
    assert not page["progress-text"].text.startswith("For another window")  # it is still its own
    values = {name: page[name].get_attribute("value") for name in ("prompt", "negative_prompt", "steps", "seed")}
    assert values == {
        "prompt": "a white ring on a black background", "negative_prompt": "green", "steps": "500", "seed": "77"
    }  # fmt: skip
    page["cancel"].click()
    page.until(lambda: not page["working"].is_displayed(), 5)


def test_bad_input_is_said_and_nothing_is_lost(page):
    page.put(prompt="a cat of many steps", steps=5000, seed="nine")
    page["draw"].click()
    page.until(lambda: page["error"].text)
    assert "num_inference_steps" in page["error"].text or "seed" in page["error"].text
    assert (
        page["prompt"].get_attribute("value") == "a cat of many steps" and page["seed"].get_attribute("value") == "nine"
    )
    assert page["error"].get_attribute("role") == "alert" and page["draw"].is_enabled()
    page.draw(steps=2, seed=9)
    assert page["error"].text == ""


def test_a_size_that_is_too_large_for_memory(browser, bundle, tmp_path):
    server = Served(bundle, tmp_path, "--max-memory", "1MB")
    page = Page(browser, server)
    try:
        page.put(prompt="a red circle", steps=2)
        page["draw"].click()
        page.until(lambda: page["error"].text)
        assert re.search(r"a picture needs at least [\d.]+ MB .* and 1.0 MB are allowed", page["error"].text)
        assert not page["working"].is_displayed() and os.listdir(tmp_path) == []
    finally:
        page.close()
        server.stop()


def test_an_init_image(page, served, tmp_path):
    Image.new("RGB", (96, 64), (0, 200, 0)).save(tmp_path / "green.png")
    page["image"].send_keys(str(tmp_path / "green.png"))
    page.until(lambda: page["image-settings"].is_displayed() and page["image-shown"].is_displayed())
    page.browser.execute_script(
        "const s = document.getElementById('strength'); s.value = 0.05; "
        "s.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert page["strength-shown"].text == "0.05"
    name = page.draw(prompt="a green square", steps=20, size="96x64")
    pixels = np.asarray(Image.open(served.folder / name)).astype(int)
    assert pixels.shape == (64, 96, 3) and (pixels[..., 1] > pixels[..., 0] + 60).mean() > 0.9  # mostly what it was
    page["image-drop"].click()
    page.until(lambda: not page["image-settings"].is_displayed())
    page["as-image"].click()  # what was drawn is begun from
    page.until(lambda: page["image-shown"].is_displayed())


def test_a_lora(page, served):
    plain = page.draw(prompt="a red circle on a blue background", steps=5, seed=3)
    page["adapter-add"].click()
    Select(page.all(".adapter select")[0]).select_by_value("style")
    scale = page.all(".adapter input")[0]
    scale.clear()
    scale.send_keys("0.6")
    styled = page.draw()
    assert re.fullmatch(r"style: \d+ of \d+ applied", page["notes"].text) and "style:0.6" in page["caption"].text
    assert json.loads(Image.open(served.folder / styled).text["ondevice"])["lora"] == ["style:0.6"]
    assert not np.array_equal(Image.open(served.folder / plain), Image.open(served.folder / styled))
    page.load()  # it is still chosen
    assert page.all(".adapter input")[0].get_attribute("value") == "0.6"
    page.all(".adapter button")[0].click()
    again = page.draw()
    assert np.array_equal(Image.open(served.folder / plain), Image.open(served.folder / again))


def test_the_gallery_puts_settings_back_and_outlives_the_server(page, browser, served, bundle):
    name = page.draw(prompt="a magenta star", negative_prompt="grey", steps=3, seed=123, guidance=2, size="96x64")
    page.put(prompt="something else", negative_prompt="", steps=9, seed="", guidance=5, size="64x64")
    page.until(lambda: page.all(f"#gallery button[data-name='{name}']"))
    button = page.all(f"#gallery button[data-name='{name}']")[0]
    button.send_keys(Keys.ENTER)  # by keyboard
    values = [
        page[x].get_attribute("value") for x in ("prompt", "negative_prompt", "steps", "seed", "guidance", "size")
    ]
    assert values == ["a magenta star", "grey", "3", "123", "2", "96x64"] and page.shown() == name
    other = Served(bundle, served.folder)
    again = Page(browser, other)
    try:
        again.until(lambda: again.all(f"#gallery button[data-name='{name}']"))
        assert again.shown() == sorted(Path(p).name for p in os.listdir(served.folder))[-1]
    finally:
        again.close()
        other.stop()


def test_by_keyboard_alone_and_on_a_phone(page):
    page["prompt"].click()
    order = []
    for _ in range(9):
        order.append(page.browser.switch_to.active_element.get_attribute("id"))
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
    assert order[:8] == ["prompt", "negative_prompt", "sampler", "levels", "steps", "guidance", "seed", "count"]
    labels = page.browser.execute_script(
        "return [...document.querySelectorAll('input,select,textarea,button')].filter(e => !e.labels?.length && "
        "!e.textContent.trim() && !e.getAttribute('aria-label') && !e.querySelector('img[alt]')).map(e => e.id)"
    )
    assert labels == []
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        wide = page.browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 360
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_have_contrast(page, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    pairs = page.browser.execute_script(
        "const c = (e, p) => getComputedStyle(e)[p].match(/[\\d.]+/g).slice(0, 3).map(Number); const q = s => "
        "document.querySelector(s); return [[c(q('h1'), 'color'), c(q('header'), 'backgroundColor')], "
        "[c(q('#keys'), 'color'), c(q('form'), 'backgroundColor')], "
        "[c(q('#draw'), 'color'), c(q('#draw'), 'backgroundColor')]]"
    )
    assert all(contrast(*pair) >= 4.5 for pair in pairs)


def contrast(one, other):
    """Of two colours, as WCAG 2.2 has it."""

    def luminance(colour):
        parts = [value / 255 for value in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_api_is_described_without_anything_from_elsewhere(page):
    page.browser.get(page.address + "docs")
    page.until(lambda: len(page.all("#routes section")) > 10)
    titles = [title.text for title in page.all("#routes h2")]
    assert "POST /api/jobs" in titles and "POST /sdapi/v1/txt2img" in titles
    assert any("num_inference_steps" in cell.text for cell in page.all("#routes code"))
