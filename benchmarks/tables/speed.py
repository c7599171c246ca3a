"""Tables of what takes how long."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.result_files import RESULTS, read_result
from benchmarks.tables.formatting import kept, ratio
from segzoo.report import markdown_table


def peers() -> str:
    """Ratios of our times to the peers'."""
    if not (RESULTS / "peers_360x480.json").exists():
        return "Not measured yet.\n"
    rows = []
    for row in read_result("peers_360x480")["rows"]:
        what = "picture" if row["mode"] == "eval" else "training step"
        if "peer_refuses" in row:
            rows.append((row["model"], what, row["batch"], row["precision"], None, None, "the peer's norms refuse this batch"))
            continue
        rows.append(
            (row["model"], what, row["batch"], row["precision"], f"{row['ours_ms']:.0f}", f"{row['peer_ms']:.0f}", ratio(row, 3))
        )
    note = "The peer of pspnet is mmsegmentation's PSPNet-R50-D8, that of fcn_dilated torchvision's fcn_resnet50; times in ms a batch at 480x360.\n\n"
    return note + markdown_table(("model", "of a", "batch", "precision", "ours", "peer", "ratio [95 %]"), rows)


def crf() -> str:
    """The CRF's time beside pydensecrf2's."""
    return kept(
        "crf_360x480",
        ("ours ms", "pydensecrf2 ms", "ratio [95 %]", "equal labels %"),
        lambda r: (
            f"{r['ours_ms']:.0f}",
            f"{r['peer_ms']:.0f}",
            ratio(r),
            f"{100 * r['agreement']:.2f}",
        ),
    )


def overhead() -> str:
    """What a checkpoint costs beside plain ``torch.save``, and the time to the first step."""
    return kept(
        "overhead",
        ("what", "seconds", "torch.save", "ratio [95 %]"),
        lambda r: (
            r["what"],
            f"{r['ours_ms'] / 1000:.2f}",
            f"{r['peer_ms'] / 1000:.2f}" if "peer_ms" in r else None,
            ratio(r, 1),
        ),
    )


def ranks() -> str:
    """Images a second on one and on several processes."""
    return kept(
        "ranks",
        ("device", "processes", "pictures each", "norm", "images a second"),
        lambda r: (r["device"], r["ranks"], r["batch_a_rank"], r["norm"], f"{r['images_per_s']:.1f}"),
    )


def peers_full_size() -> str:
    """A picture of 1024x2048 from bytes to labels, beside the peers in the same runtime."""
    files = [path.stem for path in sorted(RESULTS.glob("peers_1024x2048_*.json"))]
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
            ratio(row),
            f"{100 * row['agreement']:.2f}" if "agreement" in row else None,
        )
        for file in files
        for row in read_result(file)["rows"]
    ]
    measured = ("ours ms", "network alone", "at peak", "TFLOP/s", "peer ms", "ratio [95 %]", "labels equal to fp32 %")
    columns = ("model", "peer", "runtime", "precision", *measured)
    return markdown_table(columns, rows) if rows else "Not measured yet.\n"


def labels() -> str:
    """Growing labels beside growing all scores."""
    return kept(
        "labels_1024x2048",
        ("weights", "classes", "pixels at a border %", "ours ms", "interpolate and argmax", "ratio [95 %]", "equal labels %"),
        lambda r: (
            r["weights"],
            r["classes"],
            f"{100 * r['borders']:.1f}",
            f"{r['ours_ms']:.0f}",
            f"{r['peer_ms']:.0f}",
            ratio(r, 3),
            f"{100 * r['equal']:.3f}",
        ),
    )


def dilated() -> str:
    """Dilated convolutions beside space-to-batch."""
    return kept(
        "dilated_1024x2048",
        ("layer", "dilation", "runtime", "precision", "dilated ms", "space-to-batch ms", "ratio [95 %]"),
        lambda r: (
            r["layer"],
            r["dilation"],
            r["runtime"],
            r["precision"],
            f"{r['ours_ms']:.1f}",
            f"{r['peer_ms']:.1f}",
            ratio(r),
        ),
    )


def profiles() -> str:
    """Where the time of networks goes, by kind of layer."""
    rows = []
    for path in sorted(RESULTS.glob("profile_*.json")):
        for row in read_result(path.stem)["rows"]:
            shown = ", ".join(f"{kind['kind']} {kind['ms']:.0f}" for kind in row["kinds"][:6])
            rows.append((row["model"], row["runtime"], row["precision"], f"{row['total_ms']:.0f}", shown))
    return markdown_table(("model", "runtime", "precision", "ms", "of which"), rows) if rows else "Not measured yet.\n"


def article() -> str:
    """ICNet at 1024x2048 by runtime, number format and batch; what did not run says why."""
    return kept("article_1024x2048", SWEPT, _swept)


def trained() -> str:
    """The network of ``camvid_quick`` likewise, on pictures of CamVid."""
    return kept("trained_1024x2048", SWEPT, _swept)


def cuda() -> str:
    """All models on a GPU, likewise."""
    return kept("cuda_1024x2048", ("model", *SWEPT), lambda row: (row["model"], *_swept(row)))


SWEPT = ("runtime", "precision", "batch", "ms a picture", "of peak %", "equal labels %", "remarks")


def _swept(row: dict[str, Any]) -> tuple[Any, ...]:
    told = (row["runtime"], row.get("precision"), row.get("batch"))
    if "unable" in row:
        return (*told, None, None, None, row["unable"].splitlines()[0])
    middle, share = f"{row['ms_per_image']['p50']:.0f}", f"{100 * row['share_of_peak']:.0f}"
    return (*told, middle, share, f"{100 * row['agreement']:.2f}", "; ".join(row["warnings"]) or None)
