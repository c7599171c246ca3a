"""The page in a browser: labels, corrections, and a training on them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("playwright", reason="needs the extra dev")

from playwright.sync_api import sync_playwright  # type: ignore[import-not-found]
from small_service import INFO, encoded, pattern, small_model

from segzoo.data.datasets.labelme import LabelMeShapes
from segzoo.workflows.serve.address import bind, url
from segzoo.workflows.serve.server import make_server
from segzoo.workflows.serve.service import Limits, Service

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

ROOT = Path(__file__).parents[2]
TOKEN = "a-long-token-of-letters"
IMAGE = pattern(8, 96, 128)
TRANSFER = """
(bytes) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], "part 7.png", { type: "image/png" }));
  return transfer;
}
"""


@pytest.fixture
def address():
    service, listener = Service({"default": small_model()}, Limits()), bind(port=0)
    server = make_server(service, listener, TOKEN)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield url(listener)
    server.should_exit = True
    thread.join(60)
    service.close()


@pytest.fixture
def browser():
    with sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser, address, errors: list[str], **options):
    """Open the page, give it the token and drop an image."""
    page = browser.new_page(**options)
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.fill("#token", TOKEN)
    page.click("#ask button")
    page.wait_for_selector("#model option", state="attached")
    page.dispatch_event("#drop", "drop", {"dataTransfer": page.evaluate_handle(TRANSFER, list(encoded(IMAGE)))})
    page.wait_for_selector("#work:not([hidden])")
    return page


def save(page, folder: Path) -> np.ndarray:
    """Save the labels and read them as a training does."""
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "part 7.json"
    folder.mkdir(parents=True, exist_ok=True)
    download.value.save_as(folder / "part 7.json")
    assert json.loads((folder / "part 7.json").read_text(encoding="utf-8"))["imagePath"] == "part 7.png"
    return LabelMeShapes(INFO.classes, {}, 2.0)(folder / "part 7.json", IMAGE.shape[:2]).copy()


def test_corrected_labels_train(browser, address, tmp_path):
    errors: list[str] = []
    page = open_page(browser, address, errors, viewport={"width": 1400, "height": 900})
    before = save(page, tmp_path / "before")
    assert np.array_equal(before, small_model().network.predict(IMAGE).labels)
    shown = {
        row.locator("label").inner_text(): row.locator("td").nth(1).inner_text() for row in page.locator("#areas tbody tr").all()
    }
    assert shown == {name: f"{(before == k).sum():,}" for k, name in enumerate(INFO.classes)}

    page.get_by_label(INFO.classes[2]).check()
    page.get_by_label("Polygon", exact=True).check()
    box = page.locator("#stack").bounding_box()
    for x, y in ((32, 24), (96, 24), (96, 72), (32, 72)):
        page.mouse.click(box["x"] + x / 128 * box["width"], box["y"] + y / 96 * box["height"])
    page.click("#close")
    corrected = save(page, tmp_path / "polygon")
    assert (
        (corrected[26:70, 34:94] == 2).all()
        and np.array_equal(corrected[:22], before[:22])
        and np.array_equal(corrected[74:], before[74:])
    )

    page.click("#undo")
    assert np.array_equal(save(page, tmp_path / "undone"), before)
    page.get_by_label("Brush", exact=True).check()
    for key in (" ", "ArrowRight", " "):  # begins in the middle, without a mouse
        page.dispatch_event("#stack", "keydown", {"key": key, "shiftKey": key != " "})
    brushed = save(page, tmp_path / "val")
    assert brushed[48, 64] == brushed[48, 74] == 2 and np.array_equal(brushed[:36], before[:36])
    assert page.evaluate("document.getElementById('labels').style.opacity") == ""
    page.locator("#opacity").fill("80")
    assert page.evaluate("getComputedStyle(document.getElementById('labels')).opacity") == "0.8"
    assert errors == ["Failed to load resource: the server responded with a status of 401 (Unauthorized)"], (
        "no other, such as of the policy"
    )

    for split in ("train", "val"):
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / "part 7.png").write_bytes(encoded(IMAGE))
    shutil.copy(tmp_path / "polygon/part 7.json", tmp_path / "train")
    settings = [
        "model=icnet",
        "backbone.width=0.125",
        "steps=2",
        "batch_size=2",
        "workers=0",
        "num_val_images=0",
        "augment.crop=[64,64]",
    ]
    data = ["data=labelme", f"data.root={tmp_path}", 'data.classes=[background,bolt,"<b>&nut</b>"]', f"out={tmp_path / 'run'}"]
    command = [sys.executable, "tools/train.py", *settings, *data]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run/result.json").read_text())["steps"] == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(browser, address, tmp_path, scheme):
    errors: list[str] = []
    page = open_page(browser, address, errors, viewport={"width": 420, "height": 800}, color_scheme=scheme, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    page.get_by_label("Polygon", exact=True).check()
    box = page.locator("#stack").bounding_box()
    for x, y in ((0.2, 0.2), (0.8, 0.2), (0.5, 0.8)):
        page.touchscreen.tap(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.click("#close")
    assert page.is_enabled("#undo") and len(errors) == 1
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    page.goto(f"{address}/docs")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
