"""Output directories of the tools that do not train."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from segzoo.io import file_name, remove_stale_temp_files, to_plain_containers
from segzoo.registry import ConfigError
from segzoo.runs.config_diff import Difference, check_same_settings, stored_differences
from segzoo.runs.replaced_results import holds_replaced_results, remove, restore, set_aside
from segzoo.runs.run_dir import (
    METADATA_FILES,
    RESULT_FILES,
    RUN_LOCK,
    check_writable,
    create_and_lock,
    make_timestamped_dir,
    occupant,
    write_metadata,
)
from segzoo.types import PlainDict, PlainMapping

if TYPE_CHECKING:
    from segzoo.distributed import Distributed

# what a tool writes before its result file; label maps, which may have taken hours, are kept if the prediction is the same
OUTPUTS = {
    "eval": (
        *(f"{name}.csv" for name in ("per_class", "confusion", "per_image", "boundary_iou", "trimap", "calibration")),
        *("labeled_blobs.csv", "operating_curve.csv", "per_image_counts.npy", "per_image_errors.npy", "image_names.json"),
        "report.html",
    ),
    "predict": ("labels", "overlays", "confidence", "polygons", "images.csv", "images.rank*.csv", "polygons.json", "submission.*"),
    "export": ("model.*", "bundle.zip", "mismatch.png"),
    "bench": ("bench.md", "report.html"),
    "leaderboard": ("leaderboard.csv", "report.html"),
    "compare": ("differences.csv", "changed_images.csv", "evaluations", "report.html"),
    "dataset": (
        *("browse.html", "suspects.html", "suspects.csv", "thumbnails", "stats.html", "plots/*.png"),
        *("lists/split/*.txt", "lists/fold*/*.txt", "conf/data/split.yaml", "conf/data/fold*.yaml"),
    ),
}
REPLACE = "Set another out, or replace them with overwrite=true."
CONTINUE = "Set another out, replace them with overwrite=true, or label only images without results: only=new."


class OutputDir(NamedTuple):
    """The output directory of a tool."""

    path: Path
    resumed: bool  # it holds results of the same tool, settings and checkpoint, interrupted halfway


@contextmanager
def create_output_dir(
    tool: str,
    title: str,
    config: PlainDict,
    root: Path = Path("runs"),
    checkpoint_sha256: str | None = None,
    keep: bool = False,
    *,
    out: str | None = None,
    overwrite: bool = False,
) -> Iterator[OutputDir]:
    """Create or take over the output directory of a tool.

    Tools that train have a run directory instead, see ``open_run``.

    It holds the configuration and the environment in addition to the results, and stays locked until the ``with`` block ends. It is
    finished once it has the result file of the tool. A directory without one was left by a process that failed or was killed. It is taken
    over, and what it holds of the tool is replaced, except label maps: an interrupted prediction is resumed. If the block fails before it
    has written anything, a directory created here is removed. Results that ``overwrite`` replaces come back if the block fails before it
    has written the result file; after SIGKILL they do so when the directory is opened next. Those of a prediction do not: its label maps
    may fill the disk.

    Args:
        tool, title, config, root: as in ``open_run``.
        checkpoint_sha256: checksum of the model file, which a resumed prediction must share.
        keep: resume a finished prediction like an interrupted one.
        out: the directory; None creates ``root/tool/title/<time>``.
        overwrite: replace the results of the same tool in ``out``.

    Raises:
        ConfigError: the directory holds results or an interrupted prediction with other settings, is in use, or cannot be created.
    """
    path = Path(out) if out else make_timestamped_dir(root / tool / file_name(title))
    created = out is None or not path.exists()
    lock = create_and_lock(path)
    try:
        _restore(path, tool)  # what a killed process was to replace
        config = to_plain_containers(config)
        resumed = _claim(path, tool, config, checkpoint_sha256, overwrite, keep)
        write_metadata(path, config, checkpoint_sha256=checkpoint_sha256)
        print(f"output directory{', resumed' if resumed else ''}: {path}", flush=True)
        yield OutputDir(path, resumed)
        _restore(path, tool)  # discards it: the new results are complete
    except BaseException:
        with suppress(OSError):  # the next process tries again
            _restore(path, tool)
            if created and {file.name for file in path.iterdir()} <= METADATA_FILES:
                shutil.rmtree(path)
        raise
    finally:
        lock.close()


@contextmanager
def create_prediction_dir(
    title: str,
    config: PlainDict,
    checkpoint_sha256: str | None = None,
    *,
    out: str | None = None,
    overwrite: bool = False,
    only: Literal["all", "new"] = "all",
) -> Iterator[OutputDir]:
    """Create or take over the output directory of ``tools/predict.py``.

    Args:
        title, config, checkpoint_sha256, out, overwrite: as in ``create_output_dir``.
        only: ``new`` keeps the results in ``out``, also those of a finished prediction, and labels the images that have none.

    Raises:
        ConfigError: as ``create_output_dir``, or ``only=new`` contradicts the other settings.
    """
    if errors := only_new_errors(only, out, overwrite):
        raise ConfigError(errors)
    with create_output_dir(
        "predict", title, config, checkpoint_sha256=checkpoint_sha256, keep=only == "new", out=out, overwrite=overwrite
    ) as output_dir:
        yield output_dir


@contextmanager
def on_all_ranks(dist: Distributed, directory: AbstractContextManager[OutputDir], config: PlainMapping) -> Iterator[OutputDir]:
    """Share the output directory of rank 0 with every rank.

    Args:
        dist: the ranks.
        directory: as ``create_output_dir`` returns it.
        config: the settings, which have to be the same on every rank.

    Raises:
        ConfigError: as ``create_output_dir``, on every rank; or the settings differ.
    """
    check_same_settings(dist, config)
    with ExitStack() as stack:
        yield dist.run_on_rank0(lambda: stack.enter_context(directory))


def only_new_errors(only: object, out: str | None, overwrite: object) -> list[str]:
    """List contradictions of ``only=new``."""
    if only != "new":
        return []
    if out is None:
        return ["only=new: set out to the directory that holds the results so far."]
    return ["only=new keeps the results, and overwrite=true replaces them. Omit one of them."] if overwrite is True else []


def check_output_dir(path: Path, tool: str, overwrite: bool) -> None:
    """Raise ConfigError if a directory is occupied or cannot be created.

    Args:
        path: the directory.
        tool: the tool that wants it.
        overwrite: finished results of the same tool are no obstacle.
    """
    finished = (path / RESULT_FILES[tool]).is_file() or holds_replaced_results(path, tool)
    if (other := occupant(path)) and not (overwrite and finished):
        raise ConfigError(f"out={path} already holds {other}. {_words(tool) if finished else 'Set another out.'}")
    check_writable(path)


def _claim(path: Path, tool: str, config: PlainDict, checkpoint_sha256: str | None, overwrite: bool, keep: bool) -> bool:
    """Remove what a former process of this tool left in a directory.

    Returns:
        True if it is kept because this process resumes the prediction there.
    """
    check_output_dir(path, tool, overwrite or keep)
    remove_stale_temp_files(path)
    outputs = [file for pattern in OUTPUTS[tool] for file in path.glob(pattern)]
    if tool == "predict" and outputs:
        if not (path / "config.yaml").is_file():
            raise ConfigError(f"out={path} holds {outputs[0].name}/ of something else than tools/predict.py. Set another out.")
        if not overwrite:
            if differences := _differences(path, config, checkpoint_sha256):
                state = "a" if (path / RESULT_FILES[tool]).is_file() else "an interrupted"
                raise ConfigError(f"out={path} holds {state} prediction with other settings ({differences}). {REPLACE}")
            (path / RESULT_FILES[tool]).unlink(missing_ok=True)  # the directory is not finished until this process is
            return True
    if (path / "config.yaml").is_file():
        results = (path / RESULT_FILES[tool], *outputs)
        if tool != "predict" and (path / RESULT_FILES[tool]).is_file():
            set_aside(path, tool, (*results, *(path / name for name in METADATA_FILES - {RUN_LOCK})))
        else:
            remove(results)
    return False


def _restore(path: Path, tool: str) -> None:
    """Bring back results that an unfinished process was to replace."""
    restore(path, tool, RESULT_FILES[tool], (file for pattern in OUTPUTS[tool] for file in path.glob(pattern)))


def _words(tool: str) -> str:
    return CONTINUE if tool == "predict" else REPLACE


def _differences(path: Path, config: PlainDict, checkpoint_sha256: str | None) -> str:
    """Differences from the prediction in a directory, in one line."""
    differences = stored_differences(path, config)
    try:
        stored = json.loads((path / "env.json").read_text(encoding="utf-8")).get("checkpoint_sha256")
    except (OSError, ValueError, AttributeError):
        stored = None
    if stored != checkpoint_sha256:
        differences.append(Difference("checkpoint", f"checkpoint: {stored} -> {checkpoint_sha256}"))
    return ", ".join(difference.text for difference in differences)
