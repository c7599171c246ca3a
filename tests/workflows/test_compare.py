"""Comparison of stored evaluations with planted scores."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from planted_evaluations import CLASSES, store_evaluation, store_run

from segzoo.evaluation.bootstrap import paired_bootstrap_miou
from segzoo.registry import ConfigError
from segzoo.types import DataError
from segzoo.workflows.compare.comparison import NOT_RESOLVED, compare_evaluations
from segzoo.workflows.compare.evaluations import find_evaluations, unique_names
from segzoo.workflows.compare.report import comparison_text, difference_texts, write_comparison


def compare(*paths: Path, draws: int = 1000, **settings):
    return compare_evaluations(find_evaluations([str(path) for path in paths]), draws=draws, **settings)


def test_a_better_model_is_found_with_its_interval(tmp_path):
    good, worse = store_evaluation(tmp_path / "good", 1.3, 1), store_evaluation(tmp_path / "worse", 1.0, 2)
    result = compare(good, worse)
    (pair,) = result["pairs"]
    assert (pair["first"], pair["second"], pair["verdict"]) == ("good", "worse", "good is better")
    low, high = pair["interval"]
    assert 0 < low < pair["difference"] < high and pair["p_value"] < 0.01
    expected = paired_bootstrap_miou(*(np.load(folder / "per_image_counts.npy") for folder in (good, worse)))
    assert pair["difference"] == pytest.approx(expected["difference"]) and low == pytest.approx(expected["low"], abs=0.003)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (good, worse)]
    for model, summary in zip(result["models"], summaries, strict=True):
        assert model["miou"] == pytest.approx(summary["miou"])
        assert {name: entry["iou"] for name, entry in model["per_class"].items()} == pytest.approx(
            {name: entry["iou"] for name, entry in summary["per_class"].items()}
        )
    road = pair["per_class"]["road"]
    assert road["difference"] == pytest.approx(summaries[0]["per_class"]["road"]["iou"] - summaries[1]["per_class"]["road"]["iou"])
    assert road["interval"][0] < road["difference"] < road["interval"][1] and road["verdict"] == "good is better"
    assert not result["forced"] and "single seed" in result["notes"][0]


def test_scores_of_several_versions_are_noted(tmp_path):
    paths = [store_evaluation(tmp_path / name, 1.0, number) for number, name in enumerate("abcd")]
    for path, version in zip(paths, ("0.1.0", "0.2.0", "0.2.7"), strict=False):  # the last one has none
        (path / "env.json").write_text(json.dumps({"versions": {"segzoo": version}}))
    scored_now = store_evaluation(tmp_path / "result/evaluations/e", 1.0, 7)
    (tmp_path / "result/env.json").write_text(json.dumps({"versions": {"segzoo": "0.2.1"}}))
    (note,) = (note for note in compare(*paths, scored_now)["notes"] if "several versions" in note)
    assert "(0.1: a; 0.2: b, c, e)" in note
    assert not any("several versions" in note for note in compare(*paths[1:])["notes"])


def test_equal_models_are_not_resolved(tmp_path):
    result = compare(*(store_evaluation(tmp_path / name, 1.0, number) for number, name in enumerate("abc")))
    assert [pair["verdict"] for pair in result["pairs"]] == [NOT_RESOLVED] * 3
    pairs = compare(*(tmp_path / name for name in "abc"), baseline="b")["pairs"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [("a", "b"), ("c", "b")], "differences from the baseline"
    with pytest.raises(ConfigError, match="unknown baseline 'd'. Valid: a, b, c"):
        compare(tmp_path, baseline="d")


def test_two_seeds_of_one_training_are_not_resolved(tmp_path):
    """Their networks differ more than the images explain."""
    first, second = store_run(tmp_path / "icnet_seed0", 1.0, seed=0), store_run(tmp_path / "icnet_seed1", 1.25, seed=1)
    result = compare(first, second)
    assert [pair["verdict"] for pair in result["pairs"]] == [NOT_RESOLVED]
    assert "seeds of one model" in result["notes"][0] and result["seed_deviation"] > 0.01
    assert compare(first, second, group_seeds=False)["pairs"][0]["verdict"] == "icnet_seed1 is better"


def test_seeds_of_one_training_are_grouped_with_their_spread(tmp_path):
    for seed in range(3):
        store_run(tmp_path / f"icnet_seed{seed}", 1.0, seed)
        store_run(tmp_path / f"other_{seed}", 1.3, 10 + seed, lr=0.1)
    result = compare(tmp_path)
    assert [(model["name"], len(model["evaluations"])) for model in result["models"]] == [("icnet", 3), ("other", 3)]
    assert result["pairs"][0]["verdict"] == "other is better" and 0 < result["seed_deviation"] < 0.02
    scores = [json.loads((tmp_path / f"icnet_seed{seed}/eval/summary.json").read_text())["miou"] for seed in range(3)]
    assert result["models"][0]["miou"] == pytest.approx(np.mean(scores))
    text = comparison_text(result)
    assert all(f"{100 * score:.2f}" in text for score in scores) and "standard deviation over seeds" in text
    few = compare(*(tmp_path / name for name in ("icnet_seed0", "icnet_seed1", "other_0")))
    assert "(1 degree of freedom)" in few["notes"][0] and not result["notes"]


def test_an_evaluation_of_a_checkpoint_is_grouped_by_its_training(tmp_path):
    store_run(tmp_path / "a", 1.0, seed=0)
    store_run(tmp_path / "b", 1.0, seed=1)
    evaluation = store_evaluation(tmp_path / "scores", 1.0, 5)
    (evaluation / "config.yaml").write_text(f"ckpt: {tmp_path / 'b'}\n")
    found = find_evaluations([str(tmp_path / "a"), str(evaluation)])
    assert [item.training["seed"] for item in found] == [0, 1]
    assert "seeds of one model" in compare(tmp_path / "a", evaluation)["notes"][0]
    # twice the same seed: two evaluations of one training
    assert "single seed" in compare(tmp_path / "b", evaluation)["notes"][0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scales": [0.5, 1.0]}, "scales=[1.0] and scales=[0.5, 1.0]"),
        ({"precision": "bf16"}, "precision=fp32 and precision=bf16"),
        ({"split": "test"}, "split val and test"),
        ({"classes": ("road", "car", "tree")}, "classes 1 only in the first, such as sky; 1 only in the second, such as tree"),
        ({"classes": ("car", "road", "sky")}, "classes in another order: road, car, sky and car, road, sky"),
        ({"labels": 1}, "other labels (fingerprints"),
        ({"images": 44}, "40 and 44 images"),
    ],
)
def test_scores_of_different_kinds_are_rejected_unless_forced(tmp_path, changes, reason):
    first, second = store_evaluation(tmp_path / "first", 1.0, 1), store_evaluation(tmp_path / "second", 1.0, 2, **changes)
    with pytest.raises(ConfigError) as raised:
        compare(first, second)
    assert f"second differs from first: {reason}" in str(raised.value) and "force=true" in str(raised.value)
    assert len(raised.value.errors) == 1 and ". These scores are not comparable. Evaluate" in str(raised.value)
    result = compare(first, second, force=True)
    assert len(result["forced"]) == 1 and reason in result["forced"][0]
    assert comparison_text(result).startswith("FORCED, these scores are not comparable: second differs from first")
    assert result["pairs"][0]["interval"] is not None


def test_changed_images_are_those_of_their_pair(tmp_path):
    few, many = store_evaluation(tmp_path / "few", 1.0, 1), [store_evaluation(tmp_path / name, 1.0, 2, images=44) for name in "bc"]
    counts = np.load(many[1] / "per_image_counts.npy")
    counts[43, 0] = 0  # the last image, which ``few`` lacks, has no hit
    np.save(many[1] / "per_image_counts.npy", counts)
    pair = compare(few, *many, force=True)["pairs"][2]
    assert (pair["first"], pair["second"]) == ("b", "c")
    assert [image["image"] for image in pair["changed_images"]] == ["drive10_043"]


def test_a_label_map_is_named_as_the_reason(tmp_path):
    for number, label_map in enumerate(({0: 0}, {0: 1})):
        folder = store_evaluation(tmp_path / str(number), 1.0, number, labels=number)
        (folder / "config.yaml").write_text(f"data: {{label_map: {label_map}}}\n")
    with pytest.raises(ConfigError, match=r"label_map \{0: 0\} and \{0: 1\}"):
        compare(tmp_path)


def test_forced_scores_of_other_classes_are_compared_by_name(tmp_path):
    first = store_evaluation(tmp_path / "first", 1.0, 1)
    second = store_evaluation(tmp_path / "second", 1.0, 1, classes=("sky", "road"))
    pair = compare(first, second, force=True)["pairs"][0]
    assert list(pair["per_class"]) == list(CLASSES)
    assert pair["per_class"]["car"]["difference"] is None and pair["per_class"]["road"]["difference"] is not None


def test_images_of_a_group_are_drawn_together(tmp_path):
    paths = [store_evaluation(tmp_path / name, 1.0, number, images=60) for number, name in enumerate("ab")]
    result = compare(*paths, group_by="^(.+)_")
    assert result["groups"] == 15 and "60 images in 15 groups" in comparison_text(result)
    assert result["pairs"][0]["interval"] != compare(*paths)["pairs"][0]["interval"]
    assert result["pairs"][0]["difference"] == compare(*paths)["pairs"][0]["difference"]
    single = compare(*paths, group_by="(drive)")
    assert single["pairs"][0]["interval"] is None and single["pairs"][0]["verdict"] == NOT_RESOLVED
    assert any("too few groups for intervals and verdicts: 1, and 10 are needed" in note for note in single["notes"])
    with pytest.raises(DataError, match=r"group_by='\(city\)' finds no group in 60 of 60 names: drive0_000"):
        compare(*paths, group_by="(city)")


def test_files_and_text_hold_the_same_numbers(tmp_path):
    paths = [store_evaluation(tmp_path / name, quality, 1) for name, quality in (("good", 1.3), ("worse", 1.0))]
    result = compare(*paths, changed=4)
    (tmp_path / "out").mkdir()
    write_comparison(tmp_path / "out", result)
    assert json.loads((tmp_path / "out/compare.json").read_text())["pairs"][0]["verdict"] == "good is better"
    rows = list(csv.DictReader((tmp_path / "out/differences.csv").open()))
    assert [row["class"] for row in rows] == ["mIoU", *CLASSES]
    assert float(rows[0]["difference"]) == result["pairs"][0]["difference"] and rows[0]["verdict"] == "good is better"
    images = list(csv.DictReader((tmp_path / "out/changed_images.csv").open()))
    assert len(images) == 4 and images[0]["image"].startswith("drive")
    changes = [abs(float(row["miou_first"]) - float(row["miou_second"])) for row in images]
    assert changes == sorted(changes, reverse=True)
    lines = comparison_text(result).splitlines()
    assert lines[2].split() == ["model", "mIoU", "95", "%", "interval"]
    (line,) = [line for line in lines if line.startswith("good - worse")]
    assert f"{100 * result['pairs'][0]['difference']:+.2f}" in line and line.endswith("good is better")
    narrow = comparison_text(result, width=72).splitlines()
    heads = [line.split() for text in (lines, narrow) for line in text if line.startswith("mIoU, first minus")]
    assert " ".join(heads[0]) == "mIoU, first minus second difference 95 % interval p verdict"
    assert heads[1] == [word for word in heads[0] if word != "p"] and max(map(len, narrow)) <= 72


def test_folders_are_searched_for_evaluations(tmp_path):
    store_run(tmp_path / "runs/a", 1.0, seed=0)
    store_evaluation(tmp_path / "runs/eval/icnet/2026-01-02_03-04-05", 1.0, 1)
    store_evaluation(tmp_path / "runs/compare/toy/x/evaluations/old", 1.0, 2)
    (tmp_path / "runs/compare/toy/x/compare.json").write_text("{}")  # an earlier comparison
    assert [item.name for item in find_evaluations([str(tmp_path / "runs")])] == ["a", "icnet/2026-01-02_03-04-05"]
    assert unique_names([Path("/x/a/eval"), Path("/y/a"), Path("/y/b")]) == ["x/a", "y/a", "b"]


def test_a_path_without_an_evaluation_says_what_to_type(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"has no evaluation yet. Evaluate it: python tools/eval.py ckpt={tmp_path / 'run'}"):
        find_evaluations([str(tmp_path / "run")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no evaluation. Expected an output directory of tools/eval.py"):
        find_evaluations([str(tmp_path / "empty")])
    folder = store_evaluation(tmp_path / "damaged", 1.0)
    np.save(folder / "per_image_counts.npy", np.zeros((3, 3, 3), np.int64))
    with pytest.raises(ConfigError, match=r"has int64 \(3, 3, 3\), expected integers \(40, 3, 3\)"):
        find_evaluations([str(folder)])
    with pytest.raises(ConfigError, match="needs two evaluations, found 1: good"):
        compare(store_evaluation(tmp_path / "good", 1.0))


def test_evaluations_without_names_are_compared_but_not_grouped(tmp_path):
    paths = [store_evaluation(tmp_path / name, 1.0, number) for number, name in enumerate("ab")]
    for path in paths:
        (path / "image_names.json").unlink()  # as earlier versions left them
    assert compare(*paths)["pairs"][0]["changed_images"][0]["image"].startswith("number ")
    with pytest.raises(ConfigError, match="holds no image names. Evaluate again"):
        compare(*paths, group_by="(drive)")


def test_a_repeated_evaluation_counts_once(tmp_path):
    for name, quality in (("a", 1.0), ("b", 1.6)):
        for seed in range(3):
            store_run(tmp_path / f"{name}_{seed}", quality, seed, lr=quality)
    expected = compare(tmp_path)
    shutil.copytree(tmp_path / "a_0/eval", tmp_path / "again")
    result = compare(tmp_path)
    assert result["notes"][0] == "again repeats the evaluation a_0, and was left out."
    assert result["models"] == expected["models"] and result["seed_deviation"] == expected["seed_deviation"]
    assert len(compare(tmp_path, group_seeds=False, baseline="again")["pairs"]) == 5
    both = compare(tmp_path / "a_0", tmp_path / "again")  # nothing else to compare with
    assert both["pairs"][0]["difference"] == 0


@pytest.mark.parametrize("content", [None, {"finished": False, "error": "Diverged"}])
def test_an_unfinished_training_is_no_seed(tmp_path, content):
    for seed in range(3):
        store_run(tmp_path / f"a_{seed}", 1.0, seed)
    result_file = tmp_path / "a_2/result.json"
    result_file.unlink() if content is None else result_file.write_text(json.dumps(content))
    result = compare(tmp_path)
    assert [(model["name"], len(model["evaluations"])) for model in result["models"]] == [("a", 2), ("a_2", 1)]
    assert result["notes"][0] == "Unfinished trainings count as models of their own, by their best scores so far: a_2."


def test_many_differences_can_still_be_resolved(tmp_path, monkeypatch):
    """The p-value of each is multiplied by their number."""
    classes = tuple(f"class {number}" for number in range(40))
    for number, quality in enumerate((0.5, 1.5, 2.5, 3.5)):
        store_evaluation(tmp_path / f"m{number}", quality, number, images=60, classes=classes)
    result = compare(tmp_path)
    verdicts = [row["verdict"] for pair in result["pairs"] for row in pair["per_class"].values()]
    assert result["draws"] > 10 * 6 * 40 and sum(verdict != NOT_RESOLVED for verdict in verdicts) > 200
    assert not any("can be resolved" in note for note in result["notes"])
    monkeypatch.setattr("segzoo.evaluation.model_comparison.MAX_VALUES", 0)
    assert any("240 classes of all pairs can be resolved with 60 images" in note for note in compare(tmp_path)["notes"])


def test_a_comparison_that_can_resolve_nothing_says_so(tmp_path):
    for number in range(12):
        store_evaluation(tmp_path / f"m{number}", 0.5 * number, number, images=10)
    result = compare(tmp_path)
    assert not any(pair["verdict"] != NOT_RESOLVED for pair in result["pairs"])
    expected = "No difference of 66 pairs can be resolved with 10 images. Compare fewer models, or all with one baseline."
    assert expected in result["notes"]


def test_differences_that_round_to_zero_have_no_minus():
    entry = {"difference": -1e-6, "interval": (-2e-6, 0.0), "p_value": 0.5, "verdict": "not resolved"}
    assert difference_texts(entry) == ["+0.00", "+0.00 to +0.00", "0.500", "not resolved"]
