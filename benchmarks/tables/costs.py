"""Tables of memory and of costs against sizes."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.formatting import format_ratio, result_table
from segzoo.reporting.numbers import format_number


def training_step() -> str:
    """Time of training steps, compiled and not, compared with peer libraries."""
    return result_table(
        "training_step",
        (
            *("model", "peer", "crops", "precision", "segzoo ms", "compiled ms", "peer ms"),
            *("ratio to the peer [95 %]", "compiled to the peer", "compiled to segzoo"),
        ),
        lambda r: (
            *_case_cells(r),
            r["precision"],
            *(f"{r[f'{side}_ms']:.0f}" for side in ("segzoo", "compiled", "peer")),
            *(format_ratio(r[key]) for key in ("time", "compiled_time", "compiled_to_eager")),
        ),
    )


def training_memory() -> str:
    """Peak memory of training compared with peer libraries."""
    return result_table(
        "training_memory",
        ("model", "settings", "peer", "crops", "segzoo MB", "peer MB", "memory ratio [95 %]", "time ratio [95 %]"),
        lambda r: (
            r["model"],
            ", ".join(f"`{setting}`" for setting in r["settings"]),
            *_case_cells(r)[1:],
            *(f"{r[key]:.0f}" for key in ("mb", "peer_mb")),
            *(format_ratio(r[key]) for key in ("memory", "time")),
        ),
    )


def scaling() -> str:
    """Times by size and their fitted exponents."""
    return result_table(
        "scaling",
        ("against", "what", "sizes", "ms", "exponent [95 %]"),
        lambda r: (
            r["against"].replace("_", " "),
            r["what"],
            ", ".join(f"{size:,}" for size in r["sizes"]),
            ", ".join(format_number(ms) for ms in r["ms"]),
            format_ratio(r | {"ratio": r["exponent"]}),
        ),
    )


def _case_cells(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["model"], row["peer"], f"{row['batch']} of {row['hw'][0]}x{row['hw'][1]}"
