"""Opening of run directories, either new ones or ones to resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.checkpoints.store import latest_valid, list_checkpoints
from segzoo.io import file_name, remove_stale_temp_files, to_plain_containers
from segzoo.registry import ConfigError
from segzoo.runs.config_diff import Difference, check_same_settings, join_texts, stored_differences
from segzoo.runs.environment import is_restart_of, recorded_version, torchrun_hashes, versions
from segzoo.runs.locks import lock_directory
from segzoo.runs.resume_checks import changed_settings, check_progress, find_source, is_finished
from segzoo.runs.run_dir import RunDir, check_run_dir, create_and_lock, make_timestamped_dir, occupant, write_metadata
from segzoo.types import PlainDict

if TYPE_CHECKING:
    from segzoo.distributed import Distributed

RATES = {"steps", "epochs", "optim", "schedule"}  # a change of these moves the learning rate


def open_run(
    tool: str, title: str, config: PlainDict, root: Path = Path("runs"), *, out: str | None = None, resume: str = "none"
) -> RunDir:
    """Open the run directory of a command, new or resumed.

    Prints which of both it is. Without ``out``, a new run gets ``root/tool/title/<time>``. The choices of ``resume`` are:

    - ``none`` starts a new run, and rejects an ``out`` that holds a run or results.
    - ``auto`` resumes the run in ``out``, where the settings in ``resume_checks.CHANGEABLE`` may differ. A finished run continues if it becomes longer.
      Without ``out`` it resumes the newest unfinished run of the same tool, title and configuration. If there is none, it starts a new
      run.
    - A run or checkpoint directory resumes that run, as ``auto`` does with ``out``. With another ``out`` it starts a new run from that
      checkpoint, even with other settings, which are printed.

    A directory without a checkpoint holds no run. It is taken over, whatever a failed or killed process left in it.

    Args:
        tool: the tool's name, such as ``train``.
        title: ``<model>-<backbone>-<data>``.
        config: the configuration in plain containers, with environment interpolations unresolved, as they may hold secrets.
        root: parent of all run directories.
        out: the run directory; None creates one.
        resume: ``none``, ``auto`` or a path.

    Raises:
        ConfigError: the directory is taken, in use, of another configuration, or holds only damaged checkpoints.
    """
    config, parent = to_plain_containers(config), root / tool / file_name(title)
    if resume == "none":
        run = _new_run(Path(out) if out else make_timestamped_dir(parent), "new run")
    elif resume == "auto":
        run = _auto_resume_out(Path(out), config) if out else _auto_resume_newest(parent, config)
    else:
        run = _resume_path(Path(resume), Path(out) if out else None, config)
    if not run.finished:
        remove_stale_temp_files(run.path)
        run.keep_finished()
        write_metadata(run.path, config, torchrun=torchrun_hashes())
        (run.path / "result.json").unlink(missing_ok=True)
    print(run.message, flush=True)
    return run


def _new_run(path: Path, kind: str, resume_from: Path | None = None) -> RunDir:
    check_run_dir(path)
    lock = create_and_lock(path)
    try:
        check_run_dir(path)  # another process may have started a run in it
    except ConfigError:
        lock.close()
        raise
    return RunDir(path, resume_from, message=f"{kind}: {path}", lock=lock)


def _auto_resume_out(path: Path, config: PlainDict) -> RunDir:
    if occupant(path) != "a run":
        return _new_run(path, "new run, nothing to resume")
    return _resume_in_place(path, config, changed_settings(path, config))


def _auto_resume_newest(parent: Path, config: PlainDict) -> RunDir:
    """Resume the newest matching run that no other process is using.

    A run matches if it is unfinished and has the same configuration. If there is none, start a new run.
    """
    for path in sorted(parent.glob("*/"), key=_start_time, reverse=True):
        if list_checkpoints(path) and not is_finished(path) and not stored_differences(path, config):
            lock = lock_directory(path)
            if lock is not None:
                return _resume(RunDir(path, lock=lock), *latest_valid(path), _version_note(path))
            print(f"not resumed, in use by another process: {path}", flush=True)
    return _new_run(make_timestamped_dir(parent), "new run, no unfinished run of this configuration")


def _resume_path(path: Path, out: Path | None, config: PlainDict) -> RunDir:
    source = find_source(path, out, config)
    if out is not None and not source.in_place:
        return _new_run(out, f"new run from {source.checkpoint}{_note(source.differences)}", source.checkpoint)
    return _resume_in_place(source.run, config, source.differences)


def _resume_in_place(path: Path, config: PlainDict, differences: Sequence[Difference]) -> RunDir:
    """Resume a run in its directory, with changes that the caller allows.

    A finished run continues only if it becomes longer.
    """
    if is_finished(path) and not differences:
        return RunDir(path, finished=True, message=f"already finished, nothing to do: {path}")
    run = RunDir(path, lock=create_and_lock(path))
    try:
        found = latest_valid(path)
        step = check_progress(path, config, differences, found[0])
    except ConfigError:
        run.close()
        raise
    note = _note(differences)
    if "start" in config.get("schedule", {}) and any(difference.key.split(".")[0] in RATES for difference in differences):
        note += f" (schedule.start={step} would begin the schedule anew)"
    return _resume(run, *found, note + _version_note(path))


def _version_note(path: Path) -> str:
    """Note that a run was begun with another version of segzoo."""
    before, now = recorded_version(path), str(versions()["segzoo"]).rpartition(".")[0]
    return "" if before in (None, now) else f"; trained so far with segzoo {before}, from now on with {now}"


def _resume(run: RunDir, newest: Path | None, errors: list[str], note: str = "") -> RunDir:
    """Resume a locked run from its newest valid checkpoint.

    Args:
        run: the run.
        newest, errors: what ``latest_valid`` returns for it.
        note: the end of its message.
    """
    if newest is None:
        run.close()
        raise ConfigError(f"{run.path}: every checkpoint is damaged: {'; '.join(errors)}. Start a new run with another out.")
    skipped = f" (skipped: {'; '.join(errors)})" if errors else ""
    run.resume_from = newest
    run.message = f"resumed at step {newest.name}: {run.path}{skipped}{note}"
    return run


def _note(differences: Sequence[Difference]) -> str:
    return f"; settings differ: {join_texts(differences)}" if differences else ""


def _begun_by_torchrun(parent: Path) -> str | None:
    """Newest run directory that the torchrun of this process has begun."""
    paths = sorted(parent.glob("*/"), key=_start_time, reverse=True)
    return next((str(path) for path in paths if is_restart_of(path, "agent")), None)


def _start_time(path: Path) -> tuple[str, int]:
    """Sort key of a timestamped directory, whose suffix counts as a number."""
    stamp, number = path.name[:19], path.name[20:]
    return stamp, int(number) if number.isdigit() else 1


def open_run_distributed(
    dist: Distributed,
    tool: str,
    title: str,
    config: PlainDict,
    root: Path = Path("runs"),
    *,
    out: str | None = None,
    resume: str = "none",
) -> RunDir:
    """Call ``open_run`` on rank 0 and return its result on every rank.

    A run that torchrun has restarted resumes automatically: the one in ``out``, or else the one that this torchrun has created.

    Raises:
        ConfigError: as ``open_run``; or the ranks were started with different settings.
    """
    check_same_settings(dist, config)
    opened: list[RunDir] = []

    def open_on_rank0() -> RunDir:
        begun = out  # before the restart
        if dist.restarts and resume == "none" and out is None:
            begun = _begun_by_torchrun(root / tool / file_name(title))
        has_begun = begun is not None and (resume == "none" or occupant(Path(begun)) == "a run")
        opened.append(open_run(tool, title, config, root, out=begun, resume="auto" if dist.restarts and has_begun else resume))
        return replace(opened[0], lock=None)  # a lock file cannot be pickled

    run = dist.run_on_rank0(open_on_rank0)
    return opened[0] if opened else run
