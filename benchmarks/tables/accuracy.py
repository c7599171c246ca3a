"""Tables of the accuracy of trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness.result_files import RESULTS, read_result
from benchmarks.tables.formatting import (
    NOT_MEASURED,
    PAIR_COLUMNS,
    format_score,
    is_measured,
    measured_by,
    pair_cells,
    processor,
    read_rows,
    result_table,
    with_front,
)
from segzoo.config.build import build_meta_model
from segzoo.layers.parameters import count_parameters
from segzoo.registry import BACKBONES, MODELS, settings_of
from segzoo.reporting.numbers import format_millions, format_percent
from segzoo.reporting.tables import markdown_table
from segzoo.workflows.leaderboard.ranking import sort_key


def first_run() -> str:
    """One sentence: the result of the first command in the main README."""
    if not is_measured("first_run"):
        return NOT_MEASURED
    content = read_result("first_run")
    result, cores = content["result"], processor(content["machine"])
    classes = ", ".join(f"{name} {format_percent(row['iou'], 0)}" for name, row in content["per_class"].items())
    return (
        f"mIoU {format_percent(result['miou'], 1)} % after {result['steps']} steps in {result['train_minutes']:.1f} minutes on {cores}. "
        f"IoU % by class: {classes}.\n"
    )


def pretrained_parts() -> str:
    """One sentence: size and score of the network that segzoo comes with."""
    if not is_measured("pretrained_parts"):
        return NOT_MEASURED
    row = read_rows("pretrained_parts")
    stored, full, small = row["stored"], row["stages"][0], row["stages"][-1]
    low, high = (format_percent(end, 1) for end in stored["miou_interval"])
    return (
        f"{format_millions(small['params'])} parameters in {stored['bytes'] / 1e6:.1f} MB, mIoU {format_percent(stored['miou'], 1)} % "
        f"({low} to {high}) on {stored['protocol']['images']} validation images; before pruning {format_millions(full['params'])} and "
        f"{format_percent(full['miou'], 1)} %. Training and fine-tuning took {sum(row['minutes'].values()):.0f} minutes on one CPU core.\n"
    )


def inspection() -> str:
    """The networks of the inspection example: size, scores, defects and time."""
    if not is_measured("inspection"):
        return NOT_MEASURED
    found = read_rows("inspection")
    columns = (
        "network",
        "parameters",
        "mIoU %",
        "IoU % of pitting",
        "defects found %",
        "predicted regions that are defects %",
        "ms per image",
    )
    rows = [
        (
            row["network"],
            format_millions(row["params"]) if row["params"] else None,
            format_score(row),
            format_percent(row["iou"], 1),
            *(format_percent(row["blobs"][kind]["0.1"], 1) for kind in ("recall", "precision")),
            f"{row['ms_per_image']['p50']:.0f} ({row['runtime']}, {row['precision']})",
        )
        for row in found["networks"]
    ]
    minutes, cores = found["minutes"], processor(read_result("inspection")["machine"])
    return (
        f"{markdown_table(columns, rows)}\nTraining took {minutes['trained']:.0f} minutes and fine-tuning {minutes['pruned']:.0f} on "
        f"{cores}; the bundle has {found['bundle_bytes'] / 1e6:.1f} MB.\n"
    )


def camvid() -> str:
    """One row per CamVid training, best first.

    Scores on images of different sizes are not ranked against each other: those of the larger images come first. Links are relative to
    ``benchmarks/``.
    """
    columns = (
        "model",
        "images",
        "version",
        "parameters",
        "minutes",
        "mIoU %",
        "mIoU % over time",
        "majority class mIoU %",
        "result",
    )
    trainings = {path: read_result(path.stem) for path in sorted(RESULTS.glob("camvid_*.json"))}
    order = sorted(trainings, key=lambda path: (_is_half(trainings[path]), sort_key(trainings[path]["result"], "miou")))
    return markdown_table(columns, [_camvid_row(path, trainings[path]) for path in order])


def _is_half(content: dict[str, Any]) -> bool:
    return content["config"]["data"].get("title") == "camvid_half"


def _image_size(content: dict[str, Any]) -> str:
    """Width and height of the images that the network takes."""
    if hw := content["protocol"].get("input_hw"):
        return f"{hw[1]}x{hw[0]}"
    return "240x180" if _is_half(content) else "480x360"


def _camvid_row(path: Path, content: dict[str, Any]) -> tuple[Any, ...]:
    result, config = content["result"], content["config"]
    minutes = result["train_minutes"]
    return (
        f"{config['model']['name']}, {config['backbone']['name']} x{config['backbone'].get('width', 1)}",
        _image_size(content),
        content.get("scored_by", content)["versions"]["segzoo"],
        format_millions(_parameters(content)),
        f"{minutes:.0f}" + ("" if result["finished"] else f", stopped at step {result['steps']} of {config['steps']}"),
        format_percent(result["miou"]),
        " / ".join(f"{mark} min {format_percent(score, 1)}" for mark, score in best_so_far(content["curve"], minutes)),
        format_percent(content["baseline"]["miou"], 1) if "baseline" in content else None,
        f"[{path.stem}](results/{path.name})",
    )


def _parameters(content: dict[str, Any]) -> int:
    """Count the parameters of a result's model without training-only heads.

    Results of older commits counted them with those heads. Settings that were renamed since are left out, as they change no shape.
    """
    sections = {}
    for kind, registry in (("model", MODELS), ("backbone", BACKBONES)):
        recorded = content["config"][kind]
        known = {"name", *settings_of(registry.get(recorded["name"]))}
        sections[kind] = {key: value for key, value in recorded.items() if key in known}
    return count_parameters(build_meta_model(sections, num_classes=len(content["per_class"])))


def best_so_far(curve: list[dict[str, Any]], minutes: float, every: int = 30) -> list[tuple[int, float]]:
    """Return the best score after 30, 60, ... minutes of a run."""
    marks = [mark for mark in range(every, int(minutes) + every + 1, every) if mark <= minutes + 1] if curve else []
    return [(mark, max(row["mIoU"] for row in curve if row["minutes"] <= mark + 1)) for mark in marks]


def crf_effect() -> str:
    """mIoU and milliseconds with and without the CRF."""
    return result_table(
        "crf_effect",
        ("model", "mIoU %", "with CRF", "network ms", "CRF ms"),
        lambda r: (
            r["model"],
            format_percent(r["miou"]),
            format_percent(r["miou_crf"]),
            f"{r['network_ms']:.0f}",
            f"{r['crf_ms']:.0f}",
        ),
    )


def crf_grid_search() -> str:
    """The best point of the CRF's grid search."""
    return result_table(
        "crf_search_half_largefov",
        ("images", "points tried", "without CRF %", "best mIoU %", "w1", "alpha", "beta"),
        lambda r: (
            r["images"],
            len(r["coarse"]) + len(r["fine"]),
            format_percent(r["without"]),
            format_percent(r["best"]["miou"]),
            *(f"{r['best'][key]:g}" for key in ("w1", "alpha", "beta")),
        ),
    )


def runtime_accuracy() -> str:
    """mIoU and milliseconds by runtime and precision."""
    return result_table(
        "runtimes_camvid",
        ("runtime", "precision", "mIoU %", "difference to eager fp32", "ms per image", "front"),
        lambda r: (r["runtime"], r["precision"], format_percent(r["miou"]), f"{r['points']:+z.2f}", f"{r['ms']:.0f}", r["front"]),
        lambda rows: with_front(rows, "ms"),
    )


def suspects() -> str:
    """Recall of planted label errors by kind of error."""
    if not is_measured("suspects_camvid"):
        return NOT_MEASURED
    rankings = read_rows("suspects_camvid")["rankings"]
    kinds = list(rankings[0]["by_kind"])
    rows = [
        (r["ranking"], *(format_percent(share, 0) for share in (r["recall"], *(r["by_kind"][kind] for kind in kinds))))
        for r in rankings
    ]
    return markdown_table(("ranking", "recall %", *(f"{kind} %" for kind in kinds)), rows) + measured_by("suspects_camvid")


def compare_camvid() -> str:
    """Differences of networks on CamVid with their verdicts."""
    if not is_measured("compare_camvid"):
        return NOT_MEASURED
    results = read_rows("compare_camvid")
    rows = [(protocol, *pair_cells(pair)) for protocol, result in results.items() for pair in result["pairs"]]
    return markdown_table(("protocol", *PAIR_COLUMNS), rows) + measured_by("compare_camvid")
