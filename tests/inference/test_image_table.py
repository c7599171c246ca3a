"""Rows of images.csv, and rules by which images fail."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predictions import predict_source
from toy_training import INFO, Toy, ToyData

from segzoo.inference.outputs.confidence import ConfidenceMap
from segzoo.inference.outputs.image_report import report_columns, report_image
from segzoo.inference.outputs.image_table import ImageTable
from segzoo.inference.outputs.rules import Rule, make_rules, rule_errors
from segzoo.registry import ConfigError
from segzoo.types import DataError, DatasetInfo, Logits

PARTS = DatasetInfo("parts", ("background", "scratch", "=dent"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))
LABEL = np.zeros((20, 50), np.uint8)
LABEL[2:6, 3:13] = 1
LABEL[10, 20:25] = 1
LABEL[15:18, 40:42] = 2


class Bright(torch.nn.Module):
    """Labels dark pixels as background and bright ones as scratch."""

    num_classes, align_corners = 3, False

    def forward(self, x):
        scratch = x[:, :1] * 10
        return Logits(torch.cat([torch.zeros_like(scratch), scratch, torch.full_like(scratch, -50)], 1))


def save_spot(path: Path, area: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((10, 20, 3), np.uint8)
    image.reshape(-1, 3)[:area] = 255
    Image.fromarray(image).save(path)


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "images.csv").open(newline="")))


def test_shares_regions_and_boxes_of_a_label_map():
    report = report_image(LABEL, PARTS, [1, 2], [])
    row = dict(zip(report_columns(PARTS, [1, 2]), report.cells(), strict=True))
    assert row == {
        "height": 20, "width": 50, "share background": 0.949, "share scratch": 0.045, "share =dent": 0.006,
        "regions scratch": 2, "largest px scratch": 40, "largest box scratch": "3 2 10 4",
        "regions =dent": 1, "largest px =dent": 6, "largest box =dent": "40 15 2 3",
    }  # fmt: skip
    assert (
        report.sentence()
        == "scratch 4.5 % in 2 regions (largest 40 px, 10x4 at 3,2), =dent 0.6 % in 1 region (largest 6 px, 2x3 at 40,15)"
    )
    empty = report_image(LABEL * 0, PARTS, [1], [])
    assert empty.cells()[-3:] == [0, 0, ""] and empty.sentence() == "nothing but background"


@pytest.mark.parametrize(
    ("rules", "failures"),
    [
        ({"scratch": "40px"}, ["scratch: 40 px"]),
        ({"scratch": "41px"}, []),
        ({"scratch": "4.5%", "=dent": "1 px"}, ["scratch: 4.5 %", "=dent: 6 px"]),
        ({"=dent": "0.7%", "background": "94.8%"}, ["background: 94.9 %"]),
    ],
)
def test_rules(rules, failures):
    assert report_image(LABEL, PARTS, [], make_rules(rules, PARTS.classes)).failures == failures


def test_invalid_rules_are_listed_with_words_to_type():
    errors = rule_errors({"scrach": "50px", "scratch": 50, "=dent": "200%", "background": "0px"}, PARTS.classes)
    assert len(errors) == 4 and "Did you mean 'scratch'" in errors[0]
    assert "fail_if: scratch: 50 is not a limit" in errors[1] and "'fail_if={scratch: 50px}'" in errors[1]
    assert rule_errors({"anything": "1px"}, None) == rule_errors(None, PARTS.classes) == []
    with pytest.raises(ConfigError, match="'scrach' is not known"):
        make_rules({"scrach": "1px"}, PARTS.classes)
    assert make_rules({"scratch": "1.5 %"}, PARTS.classes) == (Rule("scratch", 1.5, "%"),)


def test_images_fail_and_the_table_says_why(tmp_path):
    for name, area in (("ok", 3), ("bad", 12), ("clean", 0)):
        save_spot(tmp_path / f"in/{name}.png", area)
    done = predict_source(Bright(), PARTS, tmp_path / "out", tmp_path / "in", fail_if={"scratch": "10px"}, overlays="none")
    rows = rows_of(tmp_path / "out")
    assert [(row["image"], row["verdict"], row["failed rules"]) for row in rows] == [
        ("bad", "fail", "scratch: 12 px"), ("clean", "pass", ""), ("ok", "pass", ""),
    ]  # fmt: skip
    assert done["failed"] == 1 and rows[0]["file"] == str(tmp_path / "in/bad.png") and float(rows[0]["ms"]) > 0
    assert (
        rows[0]["regions scratch"] == "1" and rows[0]["largest box scratch"] == "0 0 12 1" and rows[2]["share scratch"] == "0.015"
    )
    assert done["sentences"][0].startswith("bad: scratch 6 % in 1 region") and done["sentences"][0].endswith(
        "fail (scratch: 12 px)"
    )
    assert done["sentences"][1].startswith("clean: nothing but background in ") and done["sentences"][1].endswith("ms: pass")
    no_background = predict_source(Toy(), INFO, tmp_path / "toy", tmp_path / "in", overlays="none")
    assert "failed" not in no_background and not any("regions" in column for column in rows_of(tmp_path / "toy")[0])
    assert {row["verdict"] for row in rows_of(tmp_path / "toy")} == {""}


def test_rows_survive_a_crash_and_are_sorted_at_the_end(tmp_path):
    for name in ("a", "b", "c", "d"):
        save_spot(tmp_path / f"in/{name}.png", 5)
    (tmp_path / "in/b.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 4"):
        predict_source(Bright(), PARTS, tmp_path / "out", tmp_path / "in", overlays="none")
    rows = rows_of(tmp_path / "out")
    assert [row["verdict"] for row in rows] == ["", "error", "", ""] and "is empty (0 bytes)" in rows[1]["failed rules"]
    table = tmp_path / "out/images.csv"
    table.write_text(table.read_text()[:-9])  # the process was killed while it wrote the last row
    save_spot(tmp_path / "in/b.png", 20)
    done = predict_source(Bright(), PARTS, tmp_path / "out", tmp_path / "in", resumed=True, overlays="none", fail_if=None)
    assert (done["images"], done["done_before"]) == (4, 2)
    assert [row["image"] for row in rows_of(tmp_path / "out")] == ["a", "b", "c", "d"]
    assert rows_of(tmp_path / "out")[1]["verdict"] == ""


def test_no_cell_is_a_formula_and_failures_before_are_counted(tmp_path):
    table = ImageTable(tmp_path / "images.csv", ["share =x"], False)
    table.add(["=1+1", "f", "fail", "", 1, 0.5])
    table.add(["b", "-f", "pass", "", 1, 0.5])
    table.close()
    text = (tmp_path / "images.csv").read_text()
    assert "'=1+1,f,fail" in text and "b,'-f,pass" in text
    table = ImageTable(tmp_path / "images.csv", ["share =x"], True)
    assert table.has("=1+1", "f") and table.has("b", "-f") and not table.has("c", "f")
    assert not table.has("b", "other/f")  # another image of the same name
    table.drop("=1+1")
    table.add(["a", "f", "fail", "", 1, 0.5])
    table.finish([])
    assert table.failed == 1 and [row["image"] for row in rows_of(tmp_path)] == ["a", "b"]
    other = ImageTable(tmp_path / "images.csv", ["other"], True)
    assert not other.has("a", "f"), "rows of other columns are of no use"


def test_names_that_are_not_utf8_are_found_again(tmp_path):
    for resumed in (False, True):
        table = ImageTable(tmp_path / "images.csv", ["share =x"], resumed)
        assert table.has("Stra\udcdfe", "f\udcdf") is resumed
        if not resumed:
            table.add(["Stra\udcdfe", "f\udcdf", "fail", "", 1, 0.5])
        table.finish(["Stra\udcdfe"])
        assert table.failed == 1


def test_large_numbers_are_written_out():
    label = np.zeros((1300, 1300), np.uint8)
    label[:1250, :1200] = 1
    report = report_image(label, PARTS, [1], make_rules({"scratch": "50px"}, PARTS.classes))
    assert report.sentence().startswith("scratch 89 % in 1 region (largest 1500000 px") and report.failures == [
        "scratch: 1500000 px"
    ]
    assert report_image(np.ones((10, 10), np.uint8), PARTS, [], ()).sentence() == "scratch 100 %"


def test_rows_of_images_that_are_labeled_again_or_gone_count_once_or_not_at_all(tmp_path):
    table = ImageTable(tmp_path / "images.csv", [], False)
    for name, verdict in (("a", "fail"), ("b", "error"), ("c", "error")):
        table.add([name, "f", verdict, "", 1])
    table.close()
    table = ImageTable(tmp_path / "images.csv", [], True)
    for name in ("b", "c"):
        table.drop(name)
        table.add([name, "f", "pass", "", 1])
    table.finish(["b", "c"])  # a was moved away
    rows = {row["image"]: row["verdict"] for row in rows_of(tmp_path)}
    assert rows == {"a": "fail", "b": "pass", "c": "pass"} and len(rows_of(tmp_path)) == 3 and table.failed == 0


def test_confidence_maps_have_their_stated_scale(tmp_path):
    probabilities = torch.tensor([[1.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.5], [0.0, 1 / 3, 0.0]])[..., None]
    expected = {"max": [255, 85, 128], "entropy": [0, 255, round(255 * np.log(2) / np.log(3))]}
    for kind, values in expected.items():
        collected = ConfidenceMap(kind)  # type: ignore[arg-type]
        for row in range(3):
            collected(probabilities[:, row : row + 1])
        assert collected.pixels().ravel().tolist() == values
    data = ToyData(3)
    for number in range(3):
        path = tmp_path / f"in/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(data.image(number)).save(path)
    torch.manual_seed(0)
    model = Toy()
    for batch in (1, 2):
        predict_source(model, INFO, tmp_path / str(batch), tmp_path / "in", batch=batch, confidence="max", overlays="none")
    maps = {batch: [np.array(Image.open(tmp_path / f"{batch}/confidence/{k}.png")) for k in range(3)] for batch in (1, 2)}
    for one, two in zip(maps[1], maps[2], strict=True):
        assert one.shape == (24, 32) and one.dtype == np.uint8 and one.min() >= 85 - 1
        assert np.abs(one.astype(int) - two).max() <= 1


def test_color_label_maps(tmp_path):
    save_spot(tmp_path / "in/a.png", 12)
    predict_source(Bright(), PARTS, tmp_path / "out", tmp_path / "in", format="color", overlays="none")
    with Image.open(tmp_path / "out/labels/a.png") as png:
        assert png.mode == "RGB"
        colors = np.array(png).reshape(-1, 3)
    assert (colors[:12] == (255, 0, 0)).all() and not colors[12:].any()


def test_a_row_that_a_killed_process_left_replaces_an_older_one(tmp_path):
    table = ImageTable(tmp_path / "images.csv", [], False)
    for name, verdict in (("a", "error"), ("b", "pass")):
        table.add([name, "f", verdict, "", 1])
    table.close()
    older = (tmp_path / "images.csv").read_text()
    (tmp_path / "images.rank1.csv").write_text("".join(older.replace("a,f,error", "a,f,fail").splitlines(True)[:2]))
    table = ImageTable(tmp_path / "images.csv", [], True)
    assert {row["image"]: row["verdict"] for row in rows_of(tmp_path)} == {"a": "fail", "b": "pass"}
    assert table.has("a", "f") and not (tmp_path / "images.rank1.csv").exists()
