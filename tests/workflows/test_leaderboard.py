"""Rankings of run directories: groups, times, front, filters and verdicts."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_evaluations import store_evaluation
from planted_runs import bench_row, plant_run, plant_times

from segzoo.evaluation.bootstrap import bootstrap_miou, counts_by_group
from segzoo.registry import ConfigError
from segzoo.workflows.compare.evaluations import read_evaluation
from segzoo.workflows.leaderboard.front import best_within, pareto_front
from segzoo.workflows.leaderboard.ranking import rank_runs
from segzoo.workflows.leaderboard.tables import leaderboard_csv, leaderboard_text, table_notes

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)  # few values, so that many are equal


def rank(*folders: Path, **settings):
    return rank_runs(**{"runs": tuple(map(str, folders)), "max_compared": 0, **settings})


def names(table) -> list[str]:
    return [row["name"] for row in table["rows"]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four comparable runs, three of them timed, and one of another protocol."""
    folder = tmp_path_factory.mktemp("runs")
    for number, (name, quality) in enumerate({"a": 2.0, "b": 1.5, "c": 1.0, "d": 0.5}.items()):
        plant_run(folder / "train" / name, quality, number, model="pspnet" if name == "a" else "icnet")
    plant_run(folder / "train" / "flipped", 3.0, 7, flip=True)
    plant_times(folder / "bench" / "1", bench_row(0, 90.0), bench_row(0, 50.0, runtime="openvino"), bench_row(1, 20.0))
    plant_times(folder / "bench" / "2", bench_row(2, 30.0), bench_row(1, 1.0, precision="int8"), bench_row(0, 1.0, hw=[64, 64]))
    return folder


@given(POINTS)
def test_the_front_is_what_no_point_dominates(points):
    def dominates(first, second) -> bool:
        return first[0] <= second[0] and first[1] >= second[1] and first != second

    front = pareto_front(points)
    assert sorted(front) == [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


@given(POINTS, st.integers(0, 6))
def test_the_best_within_a_budget_is_on_the_front(points, budget):
    best = best_within(points, budget)
    affordable = [point for point in points if point[0] <= budget]
    if best is None:
        assert not affordable
    else:
        assert points[best][0] <= budget and points[best][1] == max(score for _, score in affordable)
        assert points[best] in [points[i] for i in pareto_front(points)]


def test_scores_of_another_protocol_get_a_table_of_their_own(runs):
    result = rank(runs)
    assert [names(table) for table in result["tables"]] == [["a", "b", "c", "d"], ["flipped"]]
    assert result["unranked"] == []
    text = leaderboard_text(result)
    assert "flip=True" in text and "Scores of different tables are not comparable" in text


@pytest.mark.parametrize("change", [{"labels": 1}, {"classes": ("road", "car", "sky2")}, {"split": "test"}, {"images": 41}])
def test_other_images_labels_classes_and_splits_are_not_ranked_together(tmp_path, change):
    plant_run(tmp_path / "a", 1.0, 1)
    plant_run(tmp_path / "b", 1.0, 2, **change)
    assert sorted(names(table) for table in rank(tmp_path)["tables"]) == [["a"], ["b"]]


def test_times_are_matched_by_checksum_and_share_a_setup(runs):
    table = rank(runs, budget_ms=30.0)["tables"][0]
    rows = {row["name"]: row for row in table["rows"]}
    assert {name: row["ms"] for name, row in rows.items()} == {
        "a": 50.0,
        "b": 20.0,
        "c": 30.0,
        "d": None,
    }  # b's int8 does not count
    assert rows["a"]["time"]["runtime"] == "openvino"  # the faster one
    assert table["setup"]["text"] == "one image of 480x640, net+labels, Test CPU, 2 threads"
    assert {name: row["front"] for name, row in rows.items()} == {"a": 2, "b": 1, "c": None, "d": None}
    assert table["best_within_budget"] == "b"
    text = leaderboard_text(rank(runs, budget_ms=30.0))
    assert "Best below 30 ms: b, mIoU" in text and "not on the front: 1 of 4 runs" in text
    assert "Times of other setups are left out: one image of 64x64" in text and "Set times.size=64x64 for these" in text
    assert "No run stays below 5 ms. The fastest is b with 20 ms" in leaderboard_text(rank(runs, budget_ms=5.0))


def test_the_filter_of_times_chooses_the_setup(runs):
    small = rank(runs, times={"size": "64x64"})["tables"][0]
    assert {row["name"]: row["ms"] for row in small["rows"]} == {"a": 1.0, "b": None, "c": None, "d": None}
    int8 = rank(runs, times={"precision": ("int8", "bf16")})["tables"][0]
    assert [row["ms"] for row in int8["rows"]] == [None, 1.0, None, None]


def test_a_time_in_another_precision_than_the_score_is_announced(tmp_path):
    plant_run(tmp_path / "a", 1.0, 1)
    plant_times(tmp_path / "bench", bench_row(1, 5.0, precision="int8"))
    table = rank(tmp_path)["tables"][0]
    assert table["rows"][0]["ms"] is None and "Timed only in another precision than scored: 1 of 1 runs" in table["notes"][0]
    assert "Set times.precision=int8 to use these times" in table["notes"][0]
    assert "Measure it: python tools/bench.py ckpt=<run> 'hw=[480,640]' precision=fp32" in leaderboard_text(rank(tmp_path))
    table["protocol"]["precision"] = "bf16"
    assert any(note.endswith("'hw=[480,640]' precision=bf16") for note in table_notes(table))


def test_the_latest_of_repeated_measurements_counts(tmp_path):
    plant_run(tmp_path / "a", 1.0, 1)
    for day, ms in ((2, 30.0), (1, 10.0)):
        plant_times(tmp_path / f"bench{day}", bench_row(1, ms), time=f"2026-01-0{day}")
    sweep = tmp_path / "sweep" / "0"
    sweep.mkdir(parents=True)
    (sweep / "result.json").write_text(json.dumps({"job": 0, "row": bench_row(1, 2.0, runtime="openvino")}))
    row = rank(tmp_path, times={"runtime": "eager"})["tables"][0]["rows"][0]
    assert row["ms"] == 30.0 and rank(tmp_path)["tables"][0]["rows"][0]["ms"] == 2.0


@pytest.mark.parametrize(
    ("sort", "order"), [("miou", "abcd"), ("ms", "bcad"), ("parameters", "abcd"), ("name", "abcd"), ("gmacs", "abcd")]
)
def test_rows_without_the_value_come_last(runs, sort, order):
    assert names(rank(runs, sort=sort)["tables"][0]) == list(order)


def test_filters_take_names_lists_and_wildcards(runs):
    def shown(**where) -> list[str]:
        return sorted(name for table in rank(runs, where=where)["tables"] for name in names(table))

    assert shown(model="pspnet") == ["a"] and shown(model=("icnet", "pspnet")) == ["a", "b", "c", "d", "flipped"]
    assert shown(model="ic*") == ["b", "c", "d", "flipped"]
    other = next(table["protocol_id"] for table in rank(runs)["tables"] if names(table) == ["flipped"])
    assert shown(protocol=other) == ["flipped"] and len(shown(protocol="whole", data="toy")) == 5
    with pytest.raises(
        ConfigError, match=r"where.model=ic: no evaluation has it. Did you mean 'icnet'\? They have: icnet, pspnet\.$"
    ):
        rank(runs, where={"model": "ic"})
    with pytest.raises(ConfigError, match=r"where.model=\[unet,icent\]: no evaluation has it. Did you mean 'icnet'\?"):
        rank(runs, where={"model": ("unet", "icent")})
    with pytest.raises(ConfigError, match=r"where.model=pspnet where.protocol=\w+: none of the 5 evaluations has all of these"):
        rank(runs, where={"model": "pspnet", "protocol": other})
    with pytest.raises(ConfigError, match="unknown name in where 'modell'. Did you mean 'model'"):
        rank(runs, where={"modell": "icnet"})
    with pytest.raises(ConfigError, match="unknown name in times 'hw'"):
        rank(runs, times={"hw": "64x64"})


def test_directories_without_a_score_are_listed_with_the_reason(tmp_path):
    for name, result in {
        "failed": {"finished": False, "error": "DataError: no\nfile\x1b[31m"},
        "stopped": {"finished": False},
    }.items():
        plant_run(tmp_path / name, 1.0, 1, result=result)
    (plant_run(tmp_path / "killed", 1.0, 2) / "result.json").unlink()
    (plant_run(tmp_path / "broken", 1.0, 3) / "result.json").write_text('{"finished": tr')
    (plant_run(tmp_path / "unscored", 1.0, 4) / "eval" / "summary.json").unlink()
    summary = plant_run(tmp_path / "old", 1.0, 5) / "eval" / "summary.json"
    content = json.loads(summary.read_text())
    del content["protocol"]["ground_truth"]
    summary.write_text(json.dumps(content))
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "config.yaml").write_text("model: {name: fcn}\n")
    job = tmp_path / "sweep" / "0"
    job.mkdir(parents=True)
    (job / "result.json").write_text('{"job": 0, "error": "ConfigError: no such model"}')
    plant_times(tmp_path / "bench", {"weights": "x", "ms_per_image": {"p50": 1.0}})
    row = {"weights": "x", "ms_per_image": {"p50": 1.0, "p90": 1.0}, "hw": [8, 8], "device": "cpu", "batch": 1, "scope": "network"}
    plant_times(tmp_path / "edited", row | {"machine": None})
    result = rank(tmp_path)
    reasons = {Path(one["folder"]).name: one["reason"] for one in result["unranked"]}
    assert result["tables"] == [] and len(reasons) == 10
    assert reasons.pop("edited").startswith("broken measurement: TypeError")
    assert reasons["failed"] == r"failed: DataError: no\nfile\x1b[31m"
    assert reasons["stopped"] == reasons["killed"] == "unfinished: its last checkpoint is of step 40"
    assert reasons["broken"].startswith("broken: result.json is not valid JSON")
    assert "summary.json is missing" in reasons["unscored"] and f"tools/eval.py ckpt={tmp_path}/unscored" in reasons["unscored"]
    assert "do not identify their images and labels" in reasons["old"]
    assert "failed early, was killed or is still running" in reasons["early"]
    assert reasons["0"] == "failed: ConfigError: no such model" and reasons["bench"].startswith("broken measurement: KeyError")
    text = leaderboard_text(result)
    assert "no run with a score was found" in text and all(reason in text for reason in reasons.values())
    assert [Path(one["folder"]).name for one in rank(tmp_path, where={"model": "fcn"})["unranked"]] == [
        "early",
        "0",
        "bench",
        "edited",
    ]


@pytest.mark.parametrize(
    "change", [{"miou": float("nan")}, {"miou": 61.0}, {"miou": "0.5"}, {"miou_interval": [0.1]}, {"split": 3}, {"per_class": None}]
)
def test_impossible_scores_are_not_ranked(tmp_path, change):
    summary = plant_run(tmp_path / "a", 1.0) / "eval" / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | change))
    result = rank(tmp_path)
    assert result["tables"] == [] and result["unranked"][0]["reason"].startswith("no usable score")


def test_links_loops_and_unreadable_directories(tmp_path):
    plant_run(tmp_path / "elsewhere" / "run", 1.0)
    runs = tmp_path / "runs"
    runs.mkdir()
    for name, target in {
        "linked": "../elsewhere/run",
        "again": "../elsewhere/run",
        "up": "..",
        "self": "self",
        "gone": "nowhere",
    }.items():
        (runs / name).symlink_to(target)
    os.mkfifo(plant_run(runs / "pipe", 1.0, 1) / "eval" / "x")
    (runs / "pipe" / "eval" / "summary.json").unlink()
    os.mkfifo(runs / "pipe" / "eval" / "summary.json")
    (plant_run(runs / "deep", 1.0, 2) / "result.json").write_text("[" * 100_000)
    result = rank(runs)
    reasons = {Path(one["folder"]).name: one["reason"] for one in result["unranked"]}
    assert [len(table["rows"]) for table in result["tables"]] == [1]
    assert reasons.keys() == {"self", "gone", "pipe", "deep"} and "cannot be read" in reasons["gone"]
    assert "summary.json is missing" in reasons["pipe"]


def test_evaluations_are_named_after_the_run_of_their_checkpoint(tmp_path):
    plant_run(tmp_path / "run", 1.0, 1, model="pspnet")
    store_evaluation(tmp_path / "eval" / "same", 1.0, 1)  # repeats the score of the run
    store_evaluation(tmp_path / "eval" / "flipped", 1.0, 1, flip=True)
    store_evaluation(tmp_path / "eval" / "other", 1.0, 9)
    (tmp_path / "eval" / "other" / "config.yaml").write_text(f"ckpt: {tmp_path}/run\n")
    found = sorted(sorted((row["name"], row["model"]) for row in table["rows"]) for table in rank(tmp_path)["tables"])
    assert found == [[("flipped", "pspnet")], [("other", "pspnet"), ("run", "pspnet")]]


def test_verdicts_need_a_difference_that_images_cannot_explain(tmp_path):
    for number, (name, quality) in enumerate({"a": 1.5, "twin": 1.5, "far": 0.0}.items()):
        plant_run(tmp_path / name, quality, number)

    def verdicts(**settings) -> dict[str, str | None]:
        return {row["name"]: row["verdict"] for row in rank(tmp_path, **settings)["tables"][0]["rows"]}

    found = verdicts(max_compared=3)
    assert found["far"] == "lower" and sorted([str(found["a"]), str(found["twin"])]) == ["best", "not resolved"]
    assert "lower: certainly worse than the best run" in leaderboard_text(rank(tmp_path, max_compared=3))
    by_drive = r"^drive(\d)_"
    assert verdicts(max_compared=3, group_by=by_drive) == found  # 10 groups of images
    grouped = rank(tmp_path, max_compared=3, group_by=by_drive)
    assert "a paired bootstrap over groups of images" in leaderboard_text(grouped)
    for row in grouped["tables"][0]["rows"]:
        evaluation = read_evaluation(tmp_path / row["name"] / "eval", row["name"])
        assert tuple(row["interval"]) == bootstrap_miou(counts_by_group(evaluation.counts, evaluation.image_names or (), by_drive))
    assert [row["interval"] for row in rank(tmp_path, max_compared=0)["tables"][0]["rows"]] == [
        row["interval"] for row in rank(tmp_path, max_compared=3)["tables"][0]["rows"]
    ]
    assert set(verdicts(max_compared=0).values()) == set(verdicts(max_compared=2).values()) == {None}
    assert "3 runs are not compared with the best one, at most 2 are" in rank(tmp_path, max_compared=2)["tables"][0]["notes"][0]
    (tmp_path / "far" / "eval" / "per_image_counts.npy").unlink()
    table = rank(tmp_path, max_compared=3)["tables"][0]
    assert table["rows"][0]["verdict"] is None and "not compared with the best one" in table["notes"][0]
    with pytest.raises(ConfigError, match="group_by='x': has no part in parentheses"):
        rank(tmp_path, group_by="x")


def test_few_images_resolve_nothing(tmp_path):
    plant_run(tmp_path / "a", 3.0, 0, images=5)
    plant_run(tmp_path / "b", -1.0, 1, images=5)
    table = rank(tmp_path, max_compared=5)["tables"][0]
    assert [row["verdict"] for row in table["rows"]] == ["best", "not resolved"] and "5 images or groups are too few" in table[
        "notes"
    ][0]


def test_the_csv_holds_every_row_and_no_formula(tmp_path):
    plant_run(tmp_path / "=cmd", 1.0, 0, model="@model")
    plant_run(tmp_path / "failed", 1.0, 1, result={"error": "=1+1"})
    plant_times(tmp_path / "bench", bench_row(0, 12.5))
    rows = list(csv.DictReader(leaderboard_csv(rank(tmp_path)).splitlines()))
    assert [row["name"] for row in rows] == ["'=cmd", ""] and rows[0]["model"] == "'@model"
    assert rows[0]["ms"] == "12.5" and rows[0]["machine"] == "Test CPU, 2 threads" and rows[0]["front"] == "1"
    assert float(rows[0]["low"]) < float(rows[0]["miou"]) < float(rows[0]["high"]) and rows[1]["reason"] == "failed: =1+1"


def test_a_narrow_terminal_keeps_the_scores(runs):
    lines = leaderboard_text(rank(runs, max_compared=4), width=40).splitlines()
    assert all(len(line) <= 40 or "/" in line for line in lines)
    assert any("mIoU %" in line and "ms" in line and "front" in line for line in lines)


def test_many_runs_are_read_without_their_checkpoints(tmp_path, monkeypatch):
    """All runs but the first are links to its files."""
    first = plant_run(tmp_path / "0", 1.0)
    for number in range(1, 200):
        folder = tmp_path / str(number)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "eval").mkdir()
        for name in ("config.yaml", "result.json", "eval/summary.json"):
            os.link(first / name, folder / name)
    opened, read = Counter[str](), Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *args, **kwargs: opened.update([path.name]) or read(path, *args, **kwargs))
    result = rank(tmp_path, where={"model": "icnet"})
    assert len(result["tables"][0]["rows"]) == 200
    assert opened == {"config.yaml": 200, "result.json": 200, "summary.json": 200}
    assert "... and 150 more in leaderboard.csv" in leaderboard_text(result)


def test_values_that_no_tool_has_written_are_escaped_or_rejected(tmp_path):
    summary = plant_run(tmp_path / "a\udcff\x1b[31m", 1.0, 1, model="x\n\x07") / "eval" / "summary.json"
    content = json.loads(summary.read_text())
    content["protocol"] |= {"mode": "\ud800\x1b]0;", "images": "\x1b[2J"}
    summary.write_text(json.dumps(content))
    plant_times(tmp_path / "1", bench_row(1, 5.0, scope="\x1b[31m", params="many"))
    plant_times(tmp_path / "2", bench_row(1, 5.0, gmacs="many"))
    plant_times(tmp_path / "3", bench_row(1, -1.0))
    result = rank(tmp_path)
    row, text = result["tables"][0]["rows"][0], leaderboard_text(result)
    assert row["name"] == r"a\udcff\x1b[31m" and row["model"] == r"x\n\x07" and row["ms"] == 5.0
    assert "\x1b" not in text and r"mode=\ud800\x1b]0;" in text
    json.dumps(result, ensure_ascii=False).encode()  # as write_json does
    assert sorted(Path(one["folder"]).name for one in result["unranked"]) == ["2", "3"]


def test_missing_folders_are_named(tmp_path):
    for runs, message in (((f"{tmp_path}/x",), "runs: .*/x is not a directory"), ((), "Name a folder")):
        with pytest.raises(ConfigError, match=message):
            rank_runs(runs=runs)
