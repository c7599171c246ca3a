"""The run directory: made new, found again, or rejected; and the small files that say what ran and how it ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from segzoo.checkpoints.store import CheckpointError, latest_valid, list_checkpoints, split_run_and_step, verify_checkpoint
from segzoo.distributed import Distributed
from segzoo.io import remove_stale_temp_files, to_plain_containers, write_json, write_text
from segzoo.registry import ConfigError
from segzoo.runs.config_diff import config_hash, diff_configs
from segzoo.runs.environment import describe_environment
from segzoo.runs.locks import lock_folder
from segzoo.runs.run_dir import RunDir, make_timestamped_dir, read_result

METADATA_FILES = {"config.yaml", "env.json", "run.lock"}  # what says under which settings a result was found


def open_run(
    tool: str, title: str, config: dict[str, Any], root: Path = Path("runs"), *, out: str | None = None, resume: str = "none"
) -> RunDir:
    """The folder this run writes to, and the checkpoint it goes on from; which of the ways it took is printed.

    Without ``out`` a new run gets ``root/tool/title/<time>``. ``resume=none`` starts anew and rejects an ``out`` that holds a run.
    ``resume=auto`` goes on with the run in ``out`` or, without ``out``, with the newest unfinished run of the same tool, title and
    configuration (``resume``, ``workers``, ``device`` and ``out`` aside), else starts anew. ``resume=<run or step folder>`` goes on
    with that run, also with other settings, which are printed; with ``out`` it starts a new run from that checkpoint.

    Args:
        tool: the tool's name, such as ``train``.
        title: ``<model>-<backbone>-<data>``.
        config: the resolved configuration, plain containers.
        root: where run directories are kept.
        out: the run directory to use; null makes one.
        resume: ``none``, ``auto`` or a path.

    Raises:
        ConfigError: the folder is taken, in use, of another configuration, or holds only damaged checkpoints.
    """
    config, parent = to_plain_containers(config), root / tool / title
    if resume == "none":
        run = _new(Path(out) if out else make_timestamped_dir(parent), "new run")
    elif resume == "auto":
        run = _auto_out(Path(out), config) if out else _auto_search(parent, config)
    else:
        run = _from_path(Path(resume), Path(out) if out else None, config)
    if not run.finished:
        remove_stale_temp_files(run.path)
        _write_metadata(run.path, config)
        (run.path / "result.json").unlink(missing_ok=True)
    print(run.message, flush=True)
    return run


@contextmanager
def create_output_dir(
    tool: str, title: str, config: dict[str, Any], root: Path = Path("runs"), *, out: str | None = None
) -> Iterator[Path]:
    """A fresh folder for what a tool finds out of a checkpoint, with the configuration and environment it was found under.

    For a ``with`` block: where that fails before it has written anything, nothing stays, and the same ``out`` can be given again.

    Args:
        tool, title, config, root: as in ``open_run``.
        out: the folder to use; null makes ``root/tool/title/<time>``.

    Raises:
        ConfigError: the folder holds results already, or cannot be made.
    """
    if out and (Path(out) / "config.yaml").is_file():
        raise ConfigError(f"out={out} already holds results. Give another out, or leave it away for a new folder.")
    run = _new(Path(out) if out else make_timestamped_dir(root / tool / title), "results go to")
    _write_metadata(run.path, to_plain_containers(config))
    print(run.message, flush=True)
    run.close()
    try:
        yield run.path
    except BaseException:
        if {path.name for path in run.path.iterdir()} <= METADATA_FILES:
            shutil.rmtree(run.path)
        raise


def _write_metadata(folder: Path, config: dict[str, Any]) -> None:
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    write_json(folder / "env.json", describe_environment())


def _new(folder: Path, what: str, resume_from: Path | None = None) -> RunDir:
    if _holds_run(folder):
        raise ConfigError(f"out={folder} already holds a run. Go on with it by resume=auto, or give another out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={folder} cannot be made: {error.strerror}. Give a folder you may write to.") from None
    return _locked(RunDir(folder, resume_from, message=f"{what}: {folder}"))


def _auto_out(folder: Path, config: dict[str, Any]) -> RunDir:
    if not _holds_run(folder):
        return _new(folder, "new run, nothing to resume")
    differing = _config_differences(folder, config)
    if differing:
        raise ConfigError(
            f"out={folder} holds a run of another configuration ({differing}). Give another out; "
            f"to go on from it with these settings: resume={folder} out=<new folder>"
        )
    if _finished(folder):
        return RunDir(folder, finished=True, message=f"finished before, nothing to do: {folder}")
    return _continue(_locked(RunDir(folder)))


def _auto_search(parent: Path, config: dict[str, Any]) -> RunDir:
    """The newest unfinished run of this configuration that no other process is writing, else a new one."""
    for folder in sorted(parent.glob("*/"), key=_started, reverse=True):
        if list_checkpoints(folder) and not _finished(folder) and not _config_differences(folder, config):
            lock = lock_folder(folder)
            if lock is not None:
                return _continue(RunDir(folder, lock=lock))
            print(f"not resumed, another process is writing it: {folder}", flush=True)
    return _new(make_timestamped_dir(parent), "new run, no unfinished one of this configuration")


def _from_path(path: Path, out: Path | None, config: dict[str, Any]) -> RunDir:
    try:
        folder, asked = split_run_and_step(path)
    except CheckpointError as error:
        raise ConfigError(f"resume={path}: wanted none, auto, or a run or checkpoint directory; {error}") from None
    newest, faults = latest_valid(folder)
    step, faults = (newest, faults) if asked is None else (asked, verify_checkpoint(asked))
    if step is None or (asked is not None and faults):
        raise ConfigError(f"resume={path}: no usable checkpoint: {'; '.join(faults)}")
    differing = _config_differences(folder, config)
    note = f"; settings differ: {differing}" if differing else ""
    if out is not None and out.resolve() != folder.resolve():
        return _new(out, f"new run from {step}{note}", step)
    if _finished(folder) and not differing and step == newest:
        return RunDir(folder, finished=True, message=f"finished before, nothing to do: {folder}")
    if _finished(folder) or step != newest:
        why = "the run is finished" if _finished(folder) else f"{newest} is newer"
        raise ConfigError(f"resume={path}: {why}; to go on from here all the same give out=<new folder>")
    return _continue(_locked(RunDir(folder)), note)


def _continue(run: RunDir, note: str = "") -> RunDir:
    run.resume_from, faults = latest_valid(run.path)
    if run.resume_from is None and list_checkpoints(run.path):
        run.close()
        raise ConfigError(f"{run.path}: every checkpoint is damaged: {'; '.join(faults)}. Start anew with another out.")
    skipped = f" (passed over: {'; '.join(faults)})" if faults else ""
    what = f"resumed at step {run.resume_from.name}" if run.resume_from else "started anew, no checkpoint yet"
    run.message = f"{what}: {run.path}{skipped}{note}"
    return run


def _holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() or (folder / "checkpoints").is_dir()


def _finished(folder: Path) -> bool:
    return read_result(folder).get("finished") is True


def _config_differences(folder: Path, config: dict[str, Any]) -> str:
    """What differs from the folder's config.yaml, in one line; empty if nothing does."""
    try:
        old = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        return f"its config.yaml cannot be read: {error}"
    return ", ".join(diff_configs(old, config)) if isinstance(old, dict) else "its config.yaml holds no settings"


def _started(folder: Path) -> tuple[str, int]:
    stamp, number = folder.name[:19], folder.name[20:]
    return stamp, int(number) if number.isdigit() else 1


def _locked(run: RunDir) -> RunDir:
    run.lock = lock_folder(run.path)
    if run.lock is None:
        raise ConfigError(f"{run.path} is being written by another process; wait for it or give another out")
    return run


def open_run_distributed(
    world: Distributed,
    tool: str,
    title: str,
    config: dict[str, Any],
    root: Path = Path("runs"),
    *,
    out: str | None = None,
    resume: str = "none",
) -> RunDir:
    """``open_run`` on rank 0, and its answer or error on every rank. A training that torchrun started again resumes by itself.

    Raises:
        ConfigError: as ``open_run``; or the ranks were started with different settings.
    """
    hashes = world.gather(config_hash(to_plain_containers(config)))
    if len(set(hashes)) > 1:
        other = next(rank for rank, found in enumerate(hashes) if found != hashes[0])
        raise ConfigError(f"rank {other} was started with other settings than rank 0; give every rank the same words")
    opened: list[RunDir] = []

    def here() -> RunDir:
        opened.append(
            open_run(tool, title, config, root, out=out, resume="auto" if world.restarts and resume == "none" else resume)
        )
        return replace(opened[0], lock=None)  # a lock cannot travel

    run = world.run_on_rank0(here)
    return opened[0] if opened else run
