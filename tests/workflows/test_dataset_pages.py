"""The actions browse and suspects: their pages, tables and errors."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_actions import FOLDER, compose_action, run_action
from image_files import make_pairs, noise, save
from torch import nn
from toy_training import ToyData

from segzoo.registry import ConfigError
from segzoo.reporting.image_page import FOLDER as THUMBNAILS
from segzoo.types import DataError, DatasetInfo, Logits
from segzoo.workflows.dataset import suspects as suspects_module
from segzoo.workflows.dataset._folds import networks_by_image

NAME = "<img src=x onerror=alert(1)>"
CLASSES = ("a", "b", "c")
INFO = DatasetInfo("folder", CLASSES, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def content_of(page: Path) -> dict:
    text = re.search(r'<script type="application/json" id="content">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert text
    return json.loads(text[1])


def browse(tmp_path: Path, *overrides: str, stems=("a", "b", NAME)):
    for split in ("train", "val"):
        make_pairs(tmp_path / "my", f"{split}/{{stem}}.png", f"{split}_masks/{{stem}}.png", stems)
    words = ("action=browse", *FOLDER, f"data.root={tmp_path / 'my'}", "data.classes=[a,b,c]", *overrides)
    return run_action(tmp_path / "out", *words)


def test_the_page_shows_every_image_and_its_labels(tmp_path):
    report = browse(tmp_path)
    content = content_of(tmp_path / "out/browse.html")
    assert [(image["split"], image["name"]) for image in content["images"][:4]] == [
        ("train", "<img src=x onerror=alert(1)>"),
        ("train", "a"),
        ("train", "b"),
        ("val", "<img src=x onerror=alert(1)>"),
    ]
    assert report.result["images"] == 6 and report.result["bytes"] > 1000
    label = np.random.default_rng(1).integers(0, 3, (6, 8), dtype=np.uint8)  # make_pairs numbers the stems in the given order
    b = next(image for image in content["images"] if image["name"] == "b")
    assert {value: round(48 * share) for value, share, *_ in b["classes"]} == {v: int((label == v).sum()) for v in range(3)}


def test_names_become_neither_markup_nor_paths(tmp_path):
    browse(tmp_path)
    html = (tmp_path / "out/browse.html").read_text(encoding="utf-8")
    assert "<img" not in html and "onerror=alert" in html
    assert sorted(path.name for path in (tmp_path / "out" / THUMBNAILS).iterdir()) == sorted(
        name for number in range(6) for name in (f"{number:06}.jpg", f"{number:06}-label.png")
    )


def test_the_page_loads_nothing_from_a_network(tmp_path):
    browse(tmp_path)
    html = (tmp_path / "out/browse.html").read_text(encoding="utf-8")
    assert "default-src 'none'; img-src 'self' file:;" in html
    assert not re.search(r"<link|<script[^>]+src|\bhref=|url\(|@import|fetch\(|XMLHttpRequest", html)
    assert set(re.findall(r"https?://[^\"\s]+", html)) == {"http://www.w3.org/2000/svg"}


def test_findings_of_verify_are_on_the_page(tmp_path):
    browse(tmp_path)  # both splits hold the same images
    content = content_of(tmp_path / "out/browse.html")
    kinds = [content["findings"][position]["kind"] for position in content["images"][0]["findings"]]
    assert "leak" in kinds
    browse(tmp_path, "action.check=false")
    assert content_of(tmp_path / "out/browse.html")["findings"] == []


def test_an_image_that_cannot_be_read_is_shown_with_its_error(tmp_path):
    make_pairs(tmp_path / "my", "train/{stem}.png", "train_masks/{stem}.png")
    save(tmp_path / "my/train_masks/b.png", np.full((6, 8), 7, np.uint8))
    run_action(tmp_path / "out", "action=browse", *FOLDER, f"data.root={tmp_path / 'my'}", "data.classes=[a,b,c]")
    image = content_of(tmp_path / "out/browse.html")["images"][1]
    assert image["size"] is None and "b.png: holds the values 7" in image["error"]


def test_a_limit_spreads_over_the_split(tmp_path):
    browse(tmp_path, "action.limit=2", "action.check=false", stems=tuple("abcdef"))
    names = [image["name"] for image in content_of(tmp_path / "out/browse.html")["images"]]
    assert names == ["a", "d", "a", "d"]


def test_images_are_shrunk_to_the_limit(tmp_path):
    from PIL import Image

    save(tmp_path / "my/train/a.png", noise(300, 400))
    save(tmp_path / "my/train_masks/a.png", np.zeros((300, 400), np.uint8))
    words = (*FOLDER, f"data.root={tmp_path / 'my'}", "data.classes=[a,b,c]", "action.max_pixels=30000")
    run_action(tmp_path / "out", "action=browse", *words)
    assert {Image.open(path).size for path in (tmp_path / "out" / THUMBNAILS).iterdir()} == {(200, 150)}
    assert content_of(tmp_path / "out/browse.html")["images"][0]["size"] == [400, 300]


class ColorNet(nn.Module):
    """Predicts a where red, b where green, c where blue is brightest."""

    align_corners, num_classes = False, 3

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(6.0))

    def forward(self, x):
        return Logits(self.scale * x)


def color_data(root: Path, wrong: str = "c") -> None:
    """Four images of a green square, which one label lacks."""
    for stem in "abcd":
        image, label = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
        image[..., 0] = 255
        image[20:32, 30:44] = (0, 255, 0)
        if stem != wrong:
            label[20:32, 30:44] = 1
        save(root / f"train/{stem}.png", image)
        save(root / f"train_masks/{stem}.png", label)


@pytest.fixture
def rank(tmp_path, monkeypatch):
    """Run the action with networks that segment by color."""
    color_data(tmp_path / "my")
    folder = {"name": "folder", "root": str(tmp_path / "my"), "classes": list(CLASSES)}
    patterns = {"images": "{split}/{stem}.*", "labels": "{split}_masks/{stem}.png"}
    meta = {"config": {"data": folder | patterns}, "dataset": INFO.to_dict()}
    monkeypatch.setattr(suspects_module, "load_checkpoint", lambda *, ckpt: (ColorNet().eval(), INFO, meta))
    out = tmp_path / "out"
    out.mkdir()

    def run(**settings):
        return suspects_module.suspects({}, out, device="cpu", **{"ckpt": "run"} | settings)

    return run


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "suspects.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_missing_object_is_the_most_suspicious(rank, tmp_path):
    report = rank()
    rows = table(tmp_path / "out")
    assert [row["image"] for row in rows] == ["c", "a", "b", "d"]
    worst = {key: rows[0][key] for key in ("label", "prediction", "left", "top", "width", "height", "pixels")}
    assert list(worst.values()) == ["a", "b", "30", "20", "14", "12", "168"]
    assert float(rows[0]["score"]) > 0.5 and rows[1]["score"] == "0.0000" and rows[1]["label"] == ""
    assert any("hides errors that it has learned" in note for note in report.result["notes"])
    content = content_of(tmp_path / "out/suspects.html")
    assert content["layers"] == ["label", "prediction"] and content["images"][0]["regions"][0]["box"] == [30, 20, 14, 12]


def test_only_the_most_suspicious_images_are_on_the_page(rank, tmp_path):
    rank(limit=1)
    assert len(table(tmp_path / "out")) == 4 and len(content_of(tmp_path / "out/suspects.html")["images"]) == 1
    assert sorted(path.name for path in (tmp_path / "out" / THUMBNAILS).iterdir()) == [
        "000002-label.png",
        "000002-prediction.png",
        "000002.jpg",
    ]


def test_each_network_judges_the_images_of_its_list(rank, tmp_path, monkeypatch):
    used = []
    original = suspects_module.mean_probabilities
    monkeypatch.setattr(
        suspects_module, "mean_probabilities", lambda networks, *rest: used.append(len(networks)) or original(networks, *rest)
    )
    (tmp_path / "0.txt").write_text("a\nc\n")
    (tmp_path / "1.txt").write_text("c\nd\n")
    report = rank(ckpt=("x", "y"), held_out=(str(tmp_path / "0.txt"), str(tmp_path / "1.txt")))
    assert used == [1, 2, 1] and [row["image"] for row in table(tmp_path / "out")] == ["c", "a", "d"]
    assert report.result["notes"] == ["1 images are in no list of action.held_out and are not ranked."]


@pytest.mark.parametrize(("ckpt", "lists"), [(("x", "y"), None), (("x", "y"), 1), ("x", 2)])
def test_one_list_per_checkpoint_is_required(rank, tmp_path, ckpt, lists):
    (tmp_path / "0.txt").write_text("a\n")
    with pytest.raises(ConfigError, match="Give one list per checkpoint"):
        rank(ckpt=ckpt, held_out=lists and (str(tmp_path / "0.txt"),) * lists)


def test_an_unknown_stem_in_a_list_is_an_error(rank, tmp_path):
    (tmp_path / "0.txt").write_text("a\nx\n")
    with pytest.raises(DataError, match="there is no image 'x'"):
        rank(held_out=(str(tmp_path / "0.txt"),))


def test_a_missing_checkpoint_is_found_before_the_run(tmp_path):
    with pytest.raises(ConfigError, match="action.ckpt=nowhere"):
        compose_action("action=suspects", "action.ckpt=nowhere")
    with pytest.raises(ConfigError, match="action.ckpt=elsewhere"):
        compose_action("action=suspects", "action.ckpt=[nowhere,elsewhere]")


DRIVE = """
setTimeout(() => {
  const type = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  type("ArrowRight"); type("f"); type("ArrowRight"); type("k"); document.activeElement.click(); type("-"); type("l"); type("ArrowRight");
  const broken = [...document.images].filter((image) => image.complete && !image.naturalWidth).length;
  const result = { csv: csv(), place: $("position").textContent, open: $("viewer").open, opacity, layer, broken };
  document.body.append(element("pre", { id: "result", textContent: JSON.stringify(result) }));
}, 1000);
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_works_in_a_browser(rank, tmp_path):
    rank()
    page = tmp_path / "out/suspects.html"
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{DRIVE}</script></body>"), encoding="utf-8")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
        "--dump-dom",
    ]
    done = subprocess.run([str(CHROMIUM), *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout)
    assert found, done.stdout[-2000:]
    result = json.loads(found[1])
    assert result == result | {"place": "3 of 4", "open": True, "opacity": 40, "layer": "prediction", "broken": 0}
    lines = result["csv"].splitlines()
    assert lines[0] == '"split","name","mark","score"' and [line.split(",")[1:3] for line in lines[1:]] == [
        ['"c"', '"fix"'],
        ['"a"', '"keep"'],
    ]


def test_names_that_occur_twice_are_rejected(tmp_path):
    class Twice(ToyData):
        def name(self, index):
            return "same"

    with pytest.raises(DataError, match="holds several images named 'same', which lists cannot tell apart"):
        networks_by_image(Twice(3), ["x", "y"], ["a.txt", "b.txt"])
