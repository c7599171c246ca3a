"""Opening of run directories, either new ones or ones to resume."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from segzoo.checkpoints.paths import split_run_and_step
from segzoo.checkpoints.schema import CheckpointError
from segzoo.checkpoints.store import latest_valid, list_checkpoints, verify_checkpoint
from segzoo.io import file_name, remove_stale_temp_files, to_plain_containers, write_json, write_text
from segzoo.registry import ConfigError
from segzoo.runs.config_diff import config_hash, diff_configs
from segzoo.runs.environment import describe_environment
from segzoo.runs.locks import lock_directory
from segzoo.runs.run_dir import RunDir, make_timestamped_dir, read_result
from segzoo.types import PlainDict

if TYPE_CHECKING:
    from segzoo.distributed import Distributed

METADATA_FILES = {"config.yaml", "env.json", "run.lock"}  # written before any result


def open_run(
    tool: str, title: str, config: PlainDict, root: Path = Path("runs"), *, out: str | None = None, resume: str = "none"
) -> RunDir:
    """Open the run directory of a command, new or resumed.

    Prints which of both it is. Without ``out``, a new run gets ``root/tool/title/<time>``. The choices of ``resume`` are:

    - ``none`` starts a new run, and rejects an ``out`` that holds a run.
    - ``auto`` resumes the run in ``out``. Without ``out`` it resumes the newest unfinished run of the same tool, title and
      configuration, where ``resume``, ``workers``, ``device`` and ``out`` may differ. If there is none, it starts a new run.
    - A run or checkpoint directory resumes that run, even with other settings, which are printed. With ``out`` it starts a new run
      from that checkpoint.

    Args:
        tool: the tool's name, such as ``train``.
        title: ``<model>-<backbone>-<data>``.
        config: the resolved configuration in plain containers.
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
        _write_metadata(run.path, config)
        (run.path / "result.json").unlink(missing_ok=True)
    print(run.message, flush=True)
    return run


@contextmanager
def create_output_dir(
    tool: str, title: str, config: PlainDict, root: Path = Path("runs"), *, out: str | None = None
) -> Iterator[Path]:
    """Create the output directory of a tool that does not train.

    It holds the configuration and the environment in addition to the results. If the ``with`` block fails before it has written anything,
    the directory is removed, so that the same ``out`` can be used again.

    Args:
        tool, title, config, root: as in ``open_run``.
        out: the directory; None creates ``root/tool/title/<time>``.

    Raises:
        ConfigError: the directory already holds results or cannot be created.
    """
    if out:
        check_output_dir(Path(out))
    run = _new_run(Path(out) if out else make_timestamped_dir(root / tool / file_name(title)), "output directory")
    _write_metadata(run.path, to_plain_containers(config))
    print(run.message, flush=True)
    run.close()
    try:
        yield run.path
    except BaseException:
        if {path.name for path in run.path.iterdir()} <= METADATA_FILES:
            shutil.rmtree(run.path)
        raise


def _write_metadata(path: Path, config: PlainDict) -> None:
    write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    write_json(path / "env.json", describe_environment())


def check_output_dir(path: Path) -> None:
    """Raise ConfigError if a directory holds results or cannot be created."""
    if (path / "config.yaml").is_file():
        raise ConfigError(f"out={path} already holds results. Set another out, or omit it to create a new directory.")
    _check_writable(path)


def check_run_dir(path: Path) -> None:
    """Raise ConfigError if a directory holds a run or cannot be created."""
    if _holds_run(path):
        raise ConfigError(f"out={path} already holds a run. Resume it with resume=auto, or set another out.")
    _check_writable(path)


def _check_writable(path: Path) -> None:
    existing = next(parent for parent in (path, *path.absolute().parents) if os.path.lexists(parent))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        reason = "is not writable" if existing.is_dir() else "is not a directory"
        raise ConfigError(f"out={path} cannot be created: {existing} {reason}. Set out to a writable directory.")


def _new_run(path: Path, kind: str, resume_from: Path | None = None) -> RunDir:
    check_run_dir(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={path} cannot be created: {error.strerror}. Set out to a writable directory.") from None
    return _lock(RunDir(path, resume_from, message=f"{kind}: {path}"))


def _auto_resume_out(path: Path, config: PlainDict) -> RunDir:
    if not _holds_run(path):
        return _new_run(path, "new run, nothing to resume")
    differences = _config_differences(path, config)
    if differences:
        raise ConfigError(
            f"out={path} holds a run of another configuration ({differences}). Set another out, or start a new run from it "
            f"with these settings: resume={path} out=<new directory>"
        )
    if _is_finished(path):
        return RunDir(path, finished=True, message=f"already finished, nothing to do: {path}")
    return _resume(_lock(RunDir(path)))


def _auto_resume_newest(parent: Path, config: PlainDict) -> RunDir:
    """Resume the newest matching run that no other process is using.

    A run matches if it is unfinished and has the same configuration. If there is none, start a new run.
    """
    for path in sorted(parent.glob("*/"), key=_start_time, reverse=True):
        if list_checkpoints(path) and not _is_finished(path) and not _config_differences(path, config):
            lock = lock_directory(path)
            if lock is not None:
                return _resume(RunDir(path, lock=lock))
            print(f"not resumed, in use by another process: {path}", flush=True)
    return _new_run(make_timestamped_dir(parent), "new run, no unfinished run of this configuration")


def _resume_path(path: Path, out: Path | None, config: PlainDict) -> RunDir:
    try:
        run_path, checkpoint = split_run_and_step(path)
    except CheckpointError as error:
        raise ConfigError(f"resume={path}: expected none, auto, or a run or checkpoint directory; {error}") from None
    newest, newest_errors = latest_valid(run_path)
    source, errors = (newest, newest_errors) if checkpoint is None else (checkpoint, verify_checkpoint(checkpoint))
    if source is None or (checkpoint is not None and errors):
        raise ConfigError(f"resume={path}: no usable checkpoint: {'; '.join(errors)}")
    differences = _config_differences(run_path, config)
    note = f"; settings differ: {differences}" if differences else ""
    if out is not None and out.resolve() != run_path.resolve():
        return _new_run(out, f"new run from {source}{note}", source)
    if _is_finished(run_path) and not differences and source == newest:
        return RunDir(run_path, finished=True, message=f"already finished, nothing to do: {run_path}")
    if _is_finished(run_path) or source != newest:
        reason = "the run is finished" if _is_finished(run_path) else f"{newest} is newer"
        raise ConfigError(f"resume={path}: {reason}; set out=<new directory> to start a new run from this checkpoint")
    return _resume(_lock(RunDir(run_path)), note)


def _resume(run: RunDir, note: str = "") -> RunDir:
    run.resume_from, errors = latest_valid(run.path)
    if run.resume_from is None and list_checkpoints(run.path):
        run.close()
        raise ConfigError(f"{run.path}: every checkpoint is damaged: {'; '.join(errors)}. Start a new run with another out.")
    skipped = f" (skipped: {'; '.join(errors)})" if errors else ""
    status = f"resumed at step {run.resume_from.name}" if run.resume_from else "restarted, no checkpoint yet"
    run.message = f"{status}: {run.path}{skipped}{note}"
    return run


def _holds_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() or (path / "checkpoints").is_dir()


def _is_finished(path: Path) -> bool:
    return read_result(path).get("finished") is True


def _config_differences(path: Path, config: PlainDict) -> str:
    """Differences from a run's ``config.yaml`` in one line, or an empty string."""
    try:
        old = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        return f"its config.yaml cannot be read: {error}"
    return ", ".join(diff_configs(old, config)) if isinstance(old, dict) else "its config.yaml holds no settings"


def _start_time(path: Path) -> tuple[str, int]:
    """Sort key of a timestamped directory, whose suffix counts as a number."""
    stamp, number = path.name[:19], path.name[20:]
    return stamp, int(number) if number.isdigit() else 1


def _lock(run: RunDir) -> RunDir:
    run.lock = lock_directory(run.path)
    if run.lock is None:
        raise ConfigError(f"{run.path} is in use by another process; wait for it to end or set another out")
    return run


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

    A run that torchrun has restarted resumes automatically.

    Raises:
        ConfigError: as ``open_run``; or the ranks were started with different settings.
    """
    hashes = dist.gather(config_hash(to_plain_containers(config)))
    if len(set(hashes)) > 1:
        rank = next(rank for rank, value in enumerate(hashes) if value != hashes[0])
        raise ConfigError(f"rank {rank} was started with other settings than rank 0; pass the same overrides to every rank")
    opened: list[RunDir] = []

    def open_on_rank0() -> RunDir:
        opened.append(open_run(tool, title, config, root, out=out, resume="auto" if dist.restarts and resume == "none" else resume))
        return replace(opened[0], lock=None)  # a lock file cannot be pickled

    run = dist.run_on_rank0(open_on_rank0)
    return opened[0] if opened else run
