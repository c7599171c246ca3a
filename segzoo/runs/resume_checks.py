"""Checks of the run or checkpoint that a command resumes.

They import no torch and change no file, so a command that cannot resume is rejected at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from segzoo.checkpoints.paths import split_run_and_step
from segzoo.checkpoints.schema import CheckpointError
from segzoo.checkpoints.store import latest_valid, verify_checkpoint
from segzoo.io import to_plain_containers
from segzoo.registry import ConfigError
from segzoo.runs.config_diff import Difference, join_texts, stored_differences
from segzoo.runs.environment import is_restart_of, recorded_command
from segzoo.runs.run_dir import occupant, read_result
from segzoo.types import PlainDict

WRITING = {"eval_every", "save_every", "keep_checkpoints", "log_every", "num_val_images"}
# sections and settings that a run may change when it resumes; the others decide what is learned
CHANGEABLE = {
    *("steps", "epochs", "batch_size", "grad_accum_steps", "precision", "clip_grad_norm", "augment", "optim", "schedule"),
    *WRITING,
    *("early_stopping_patience", "max_nonfinite_steps", "compile"),
}
INITIAL_WEIGHTS = {"ckpt", "init.ckpt", "backbone.weights"}
PARTS = {"data.name", "model.name"}
LENGTH = {"steps", "epochs", "early_stopping_patience"}  # a change of these can extend a finished run


class Source(NamedTuple):
    """A checkpoint to resume from.

    Attributes:
        run: directory of its run.
        checkpoint: its own directory.
        differences: settings that differ from the run's.
        in_place: whether the run itself continues.
    """

    run: Path
    checkpoint: Path
    differences: Sequence[Difference]
    in_place: bool


def names_a_run(resume: object) -> bool:
    """True if ``resume`` is the path of a run or checkpoint."""
    return resume not in (None, "none", "auto")


def check_resume(config: PlainDict, *, out: str | None = None, resume: str = "none") -> None:
    """Raise the errors of resuming a run, without changing a file.

    Args:
        config, out, resume: as for ``open_run``.

    Raises:
        ConfigError: as ``open_run``, except for a directory in use.
    """
    config = to_plain_containers(config)
    if resume == "none":
        return
    if resume != "auto":
        source = find_source(Path(resume), Path(out) if out else None, config)
        if source.in_place:
            check_progress(source.run, config, source.differences, source.checkpoint)
    elif out and occupant(Path(out)) == "a run" and (differences := changed_settings(Path(out), config)):
        check_progress(Path(out), config, differences, latest_valid(Path(out))[0])


def check_same_job(path: Path, config: PlainDict) -> None:
    """Require that a sweep's directory holds no other job's run.

    Directories of jobs are numbered, so a value that is added to a repeated sweep can move a job into the run of another.

    Raises:
        ConfigError: settings differ, other than the length and what a run writes.
    """
    if occupant(path) != "a run":
        return
    if other := [difference for difference in stored_differences(path, config) if difference.key not in LENGTH | WRITING]:
        raise ConfigError(
            f"{path} holds the run of another job ({join_texts(other)}). Repeat a sweep with the same values in the same order, or set another "
            "hydra.sweep.dir."
        )


def changed_settings(path: Path, config: PlainDict) -> list[Difference]:
    """List settings that differ from a run's, and may."""
    differences = stored_differences(path, config)
    if fixed := [difference for difference in differences if not _is_changeable(difference)]:
        shown = [difference for difference in fixed if difference.key in PARTS] or fixed  # the others follow from these
        repeat = f" Repeat the run's command with the changes: {command}" if (command := recorded_command(path)) else ""
        raise ConfigError(
            f"{path} holds a run of another configuration ({join_texts(shown)}), and these settings cannot change within a run. Set another "
            f"out for a new run. resume={quote(str(path))} continues from this one in it, and init.ckpt={quote(str(path))} starts from its weights.{repeat}"
        )
    return differences


def resumed_path(path: Path, out: Path | None) -> Path:
    """Path that ``resume`` means, after a restart the whole run.

    A run that continues from ``checkpoints/<step>`` in place has newer checkpoints by then, and may have deleted that one.
    """
    run_path = path.parent.parent
    is_restart = path.parent.name == "checkpoints" and _is_in_place(run_path, out) and is_restart_of(run_path, "run")
    return run_path if is_restart else path


def _is_in_place(run_path: Path, out: Path | None) -> bool:
    return out is None or out.resolve() == run_path.resolve()


def find_source(path: Path, out: Path | None, config: PlainDict) -> Source:
    """Find the usable checkpoint that ``resume=<path>`` names."""
    path = resumed_path(path, out)
    try:
        run_path, checkpoint = split_run_and_step(path)
    except CheckpointError as error:
        raise ConfigError(f"resume={path}: expected none, auto, or a run or checkpoint directory; {error}") from None
    newest, newest_errors = latest_valid(run_path)
    source, errors = (newest, newest_errors) if checkpoint is None else (checkpoint, verify_checkpoint(checkpoint))
    if source is None or (checkpoint is not None and errors):
        raise ConfigError(f"resume={path}: no usable checkpoint: {'; '.join(errors)}")
    differences = stored_differences(run_path, config)
    if other := [difference for difference in differences if difference.key == "optim.name"]:
        raise ConfigError(
            f"resume={path}: an optimizer cannot continue with the state of another one ({join_texts(other)}). Keep the optimizer, or start a "
            f"new run from the weights: init.ckpt={quote(str(path))}"
        )
    in_place = _is_in_place(run_path, out)
    if in_place and source != newest:
        raise ConfigError(f"resume={path}: {newest} is newer; set out=<new directory> to start a new run from this checkpoint")
    if in_place:
        return Source(run_path, source, changed_settings(run_path, config), in_place)
    if other := [
        difference for difference in differences if difference.key in INITIAL_WEIGHTS and difference.value not in (None, "none")
    ]:
        raise ConfigError(
            f"resume={path} continues with the weights of that run, so no others would be loaded ({join_texts(other)}). Omit resume, or these "
            "settings."
        )
    return Source(run_path, source, differences, in_place)


def check_progress(path: Path, config: PlainDict, differences: Sequence[Difference], newest: Path | None) -> int:
    """Require that a run has steps left, unless nothing has changed.

    Args:
        path: the run directory.
        config: the configuration that is to go on.
        differences: what it changes.
        newest: the newest valid checkpoint directory.

    Returns:
        The step of its newest checkpoint.
    """
    sizes: dict[str, Any] = {key: config.get(key) for key in ("batch_size", "grad_accum_steps")}
    before = sizes | {difference.key: difference.old for difference in differences if difference.key in sizes}
    if config.get("epochs") is not None and sizes != before and math.prod(sizes.values()) != math.prod(before.values()):
        raise ConfigError(
            f"{path}: the number of epochs is counted in steps of equal size ({join_texts(differences)}). Keep the product of batch_size and grad_accum_steps, or "
            "set steps=<number> epochs=null."
        )
    finished = is_finished(path)
    step, steps = int(newest.name) if newest else 0, config.get("steps")
    if not differences:
        return step
    if finished and not any(difference.key in LENGTH for difference in differences):
        raise ConfigError(
            f"{path}: the run is finished at step {step}, so these settings would change nothing ({join_texts(differences)}). Make it longer "
            "with steps= or epochs=, or set another out"
        )
    if steps is not None and (step > steps or (finished and step == steps)):
        raise ConfigError(
            f"steps={steps}: the run in {path} is at step {step} already. Set more steps, or another out for a new run"
        )
    return step


def _is_changeable(difference: Difference) -> bool:
    if difference.key == "data.root":
        return True  # the files may have moved
    return difference.key.split(".")[0] in CHANGEABLE and difference.key != "optim.name"  # which cannot use another one's moments


def is_finished(path: Path) -> bool:
    """True if a run has reached its end."""
    return read_result(path).get("finished") is True
