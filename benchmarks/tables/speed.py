"""Tables of latency, throughput and overhead."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.result_files import read_result
from benchmarks.tables.formatting import (
    NOT_MEASURED,
    current_term,
    format_ratio,
    is_measured,
    processor,
    result_table,
    short_remark,
)
from segzoo.reporting.numbers import format_number, format_percent

RUNTIME_COLUMNS = ("runtime", "precision", "batch", "ms per image", "% of peak", "pixel agreement %", "remarks")


def peers() -> str:
    """Times per batch compared with peer libraries at 480x360."""
    note = "Peers: mmsegmentation's PSPNet-R50-D8 for pspnet, torchvision's fcn_resnet50 for fcn_dilated. Times per batch of 480x360 images.\n\n"
    columns = ("model", "pass", "batch", "precision", "segzoo ms", "peer ms", "ratio [95 %]")
    return note + result_table("peers_360x480", columns, _peer_cells)


def peers_1024x2048() -> str:
    """Latency from image to labels compared with peer libraries."""
    measured = ("segzoo ms", "network only", "at peak", "TFLOP/s", "peer ms", "ratio [95 %]", "pixel agreement with fp32 %")
    return result_table(
        "peers_1024x2048_*",
        ("model", "peer", "runtime", "precision", *measured),
        lambda r: (
            *(r[key] for key in ("model", "peer", "runtime", "precision")),
            *(f"{r[key]:.0f}" for key in ("ours_ms", "ours_net_ms", "at_peak_ms")),
            f"{r['machine_tflops']:.2f}",
            f"{r['peer_ms']:.0f}",
            format_ratio(r),
            format_percent(r["agreement"]) if "agreement" in r else None,
        ),
    )


def icnet_latency() -> str:
    """One sentence: latency of ICNet at 1024x2048 and that of its peer."""
    if not is_measured("peers_1024x2048_icnet_half"):
        return NOT_MEASURED
    content, peer = read_result("peers_1024x2048_icnet_half"), "mmseg icnet_r18"
    rows = {row["precision"]: row for row in content["rows"] if row["runtime"] == "openvino" and row["peer"] == peer}
    own, other = (
        ", ".join(f"{rows[key][side]:.0f} ms in {key}" for key in ("int8", "bf16", "fp32")) for side in ("ours_ms", "peer_ms")
    )
    return (
        f"From a decoded 1024x2048 image to its labels, ICNet as released takes {own}, by OpenVINO on {processor(content['machine'])}. "
        f"mmsegmentation's ICNet on ResNet-18 takes {other}, measured interleaved in the same runtime.\n"
    )


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
    return result_table(
        "profile_*",
        ("model", "runtime", "precision", "total ms", "slowest kinds of layers, ms"),
        lambda r: (
            *(r["model"], r["runtime"], r["precision"]),
            f"{r['total_ms']:.0f}",
            ", ".join(f"{kind['kind']} {kind['ms']:.0f}" for kind in r["kinds"][:6]),
        ),
    )


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
    return result_table(
        "prediction_*",
        ("images", "segzoo", "compared with", "segzoo images/s", "peer images/s", "time ratio [95 %]", "time by stage"),
        lambda r: (
            f"{r['images']} of {r['size']}",
            r["side"].removeprefix("segzoo "),
            r["peer"],
            *(format_number(r[key]) for key in ("ours_images_per_second", "peer_images_per_second")),
            format_ratio(r),
            ", ".join(f"{name} {format_percent(share, 0)} %" for name, share in r["time_shares"].items()),
        ),
    )


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


def _peer_cells(row: dict[str, Any]) -> tuple[Any, ...]:
    case = row["model"], "inference" if row["mode"] == "eval" else "training step", row["batch"], row["precision"]
    if "peer_error" in row:
        return (*case, None, None, "the peer's batch norm rejects this batch size")
    return (*case, f"{row['ours_ms']:.0f}", f"{row['peer_ms']:.0f}", format_ratio(row, 3))


def _runtime_cells(row: dict[str, Any]) -> tuple[Any, ...]:
    case = (row["runtime"], row.get("precision"), row.get("batch"))
    if "error" in row:
        return (*case, None, None, None, short_remark(row["error"]))
    median, of_peak = f"{row['ms_per_image']['p50']:.0f}", format_percent(row["share_of_peak"], 0)
    return (*case, median, of_peak, format_percent(row["agreement"]), "; ".join(map(short_remark, row["warnings"])) or None)
