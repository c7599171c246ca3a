"""Tables of latency, throughput and overhead."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.result_files import RESULTS
from benchmarks.tables.formatting import (
    NOT_MEASURED,
    current_term,
    format_ratio,
    is_measured,
    measured_by,
    read_rows,
    result_table,
    short_remark,
)
from segzoo.reporting.numbers import format_number, format_percent
from segzoo.reporting.tables import markdown_table

RUNTIME_COLUMNS = ("runtime", "precision", "batch", "ms per image", "% of peak", "pixel agreement %", "remarks")


def peers() -> str:
    """Times per batch compared with peer libraries at 480x360."""
    if not is_measured("peers_360x480"):
        return NOT_MEASURED
    rows = []
    for row in read_rows("peers_360x480"):
        case = row["model"], "inference" if row["mode"] == "eval" else "training step", row["batch"], row["precision"]
        if "peer_error" in row:
            rows.append((*case, None, None, "the peer's batch norm rejects this batch size"))
        else:
            rows.append((*case, f"{row['ours_ms']:.0f}", f"{row['peer_ms']:.0f}", format_ratio(row, 3)))
    note = "Peers: mmsegmentation's PSPNet-R50-D8 for pspnet, torchvision's fcn_resnet50 for fcn_dilated. Times per batch of 480x360 images.\n\n"
    table = markdown_table(("model", "pass", "batch", "precision", "segzoo ms", "peer ms", "ratio [95 %]"), rows)
    return note + table + measured_by("peers_360x480")


def peers_1024x2048() -> str:
    """Latency from image to labels compared with peer libraries."""
    rows = [
        (
            row["model"],
            row["peer"],
            row["runtime"],
            row["precision"],
            f"{row['ours_ms']:.0f}",
            f"{row['ours_net_ms']:.0f}",
            f"{row['at_peak_ms']:.0f}",
            f"{row['machine_tflops']:.2f}",
            f"{row['peer_ms']:.0f}",
            format_ratio(row),
            format_percent(row["agreement"]) if "agreement" in row else None,
        )
        for name in _names("peers_1024x2048_*")
        for row in read_rows(name)
    ]
    measured = ("segzoo ms", "network only", "at peak", "TFLOP/s", "peer ms", "ratio [95 %]", "pixel agreement with fp32 %")
    columns = ("model", "peer", "runtime", "precision", *measured)
    return markdown_table(columns, rows) + measured_by(*_names("peers_1024x2048_*")) if rows else NOT_MEASURED


def runtimes_article() -> str:
    """ICNet at 1024x2048 by runtime, precision and batch."""
    return result_table("article_1024x2048", RUNTIME_COLUMNS, _runtime_cells)


def runtimes_trained() -> str:
    """A trained network by runtime and precision, on images of CamVid."""
    return result_table("trained_1024x2048", RUNTIME_COLUMNS, _runtime_cells)


def runtimes_cuda() -> str:
    """All models on a GPU by runtime, precision and batch."""
    return result_table("cuda_1024x2048", ("model", *RUNTIME_COLUMNS), lambda row: (row["model"], *_runtime_cells(row)))


def upsample_argmax() -> str:
    """Fused upsampling and argmax compared with torch's operators."""
    return result_table(
        "labels_1024x2048",
        ("weights", "classes", "boundary pixels %", "segzoo ms", "interpolate and argmax ms", "ratio [95 %]", "equal labels %"),
        lambda r: (
            r["weights"],
            r["classes"],
            format_percent(r["boundary_fraction"], 1),
            f"{r['ours_ms']:.0f}",
            f"{r['peer_ms']:.0f}",
            format_ratio(r, 3),
            format_percent(r["equal"], 3),
        ),
    )


def space_to_batch() -> str:
    """Dilated convolutions compared with space-to-batch."""
    return result_table(
        "dilated_1024x2048",
        ("layer", "dilation", "runtime", "precision", "dilated ms", "space-to-batch ms", "ratio [95 %]"),
        lambda r: (
            r["layer"],
            r["dilation"],
            r["runtime"],
            r["precision"],
            f"{r['ours_ms']:.1f}",
            f"{r['peer_ms']:.1f}",
            format_ratio(r),
        ),
    )


def profile_layers() -> str:
    """Time by kind of layer, the six slowest kinds."""
    rows = []
    for name in _names("profile_*"):
        for row in read_rows(name):
            slowest = ", ".join(f"{kind['kind']} {kind['ms']:.0f}" for kind in row["kinds"][:6])
            rows.append((row["model"], row["runtime"], row["precision"], f"{row['total_ms']:.0f}", slowest))
    columns = ("model", "runtime", "precision", "total ms", "slowest kinds of layers, ms")
    return markdown_table(columns, rows) + measured_by(*_names("profile_*")) if rows else NOT_MEASURED


def crf() -> str:
    """Time of the CRF compared with pydensecrf2."""
    return result_table(
        "crf_360x480",
        ("segzoo ms", "pydensecrf2 ms", "ratio [95 %]", "equal labels %"),
        lambda r: (f"{r['ours_ms']:.0f}", f"{r['peer_ms']:.0f}", format_ratio(r), format_percent(r["agreement"])),
    )


def loading() -> str:
    """Time per training image compared with peer libraries."""
    return result_table(
        "loading_1024x2048",
        ("files", "pipeline", "compared with", "segzoo ms", "peer ms", "ratio [95 %]"),
        lambda r: (r["format"], r["pipeline"], r["peer"], f"{r['ours_ms']:.1f}", f"{r['peer_ms']:.1f}", format_ratio(r)),
    )


def prediction() -> str:
    """Speed from image files to label files compared with peer loops."""
    rows = [
        (
            f"{row['images']} of {row['size']}",
            row["side"].removeprefix("segzoo "),
            row["peer"],
            format_number(row["ours_images_per_second"]),
            format_number(row["peer_images_per_second"]),
            format_ratio(row),
            ", ".join(f"{name} {format_percent(share, 0)} %" for name, share in row["time_shares"].items()),
        )
        for name in _names("prediction_*")
        for row in read_rows(name)
    ]
    columns = ("images", "segzoo", "compared with", "segzoo images/s", "peer images/s", "time ratio [95 %]", "time by stage")
    return markdown_table(columns, rows) + measured_by(*_names("prediction_*")) if rows else NOT_MEASURED


def evaluation() -> str:
    """Time to evaluate CamVid compared with that of the bare network."""
    return result_table(
        "evaluation_360x480",
        ("images", "precision", "loading processes", "evaluation s", "network s", "ratio [95 %]"),
        lambda r: (
            *(r["images"], r["precision"], r["workers"]),
            *(f"{r[key] / 1000:.1f}" for key in ("ours_ms", "peer_ms")),
            format_ratio(r),
        ),
    )


def service() -> str:
    """Latency and throughput of the HTTP service under load."""
    return result_table(
        "service_360x480",
        ("case", "requests", "wrong labels", "p50 ms", "p99 ms", "images/s", "images per batch", "answers by status"),
        lambda r: (
            r["case"],
            r["requests"],
            r.get("wrong"),
            *((f"{r['ms']['p50']:.0f}", f"{r['ms']['p99']:.0f}", f"{r['images_per_s']:.1f}") if "ms" in r else (None,) * 3),
            f"{r['images_per_batch']:.1f}" if "ms" in r else None,
            ", ".join(f"{status}: {count}" for status, count in r["statuses"].items()) if "statuses" in r else None,
        ),
        prepare=lambda rows: rows["cases"],  # type: ignore[call-overload]
    )


def checkpoint_overhead() -> str:
    """Time of a checkpoint and time to the first step."""
    return result_table(
        "overhead",
        ("operation", "seconds", "torch.save", "ratio [95 %]"),
        lambda r: (
            current_term(r["what"]),
            f"{r['ours_ms'] / 1000:.2f}",
            f"{r['peer_ms'] / 1000:.2f}" if "peer_ms" in r else None,
            format_ratio(r, 1),
        ),
    )


def ddp_scaling() -> str:
    """Training throughput by number of processes."""
    return result_table(
        "ranks",
        ("device", "processes", "batch per process", "batch norm", "images per second"),
        lambda r: (r["device"], r["ranks"], r["batch_per_rank"], current_term(r["norm"]), f"{r['images_per_s']:.1f}"),
    )


def _names(pattern: str) -> list[str]:
    """Names of the result files that match a pattern."""
    return sorted(path.stem for path in RESULTS.glob(f"{pattern}.json"))


def _runtime_cells(row: dict[str, Any]) -> tuple[Any, ...]:
    case = (row["runtime"], row.get("precision"), row.get("batch"))
    if "error" in row:
        return (*case, None, None, None, short_remark(row["error"]))
    median, of_peak = f"{row['ms_per_image']['p50']:.0f}", format_percent(row["share_of_peak"], 0)
    return (*case, median, of_peak, format_percent(row["agreement"]), "; ".join(map(short_remark, row["warnings"])) or None)
