"""The run folder: made new, found again, or refused; and the small files that say what ran and how it ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from segzoo.checkpoints.store import CheckpointError, latest_valid, split_run_and_step, steps, verify
from segzoo.distributed import World
from segzoo.io import plain, sweep_temporaries, write_json, write_text
from segzoo.registry import ConfigError
from segzoo.runs.config_diff import config_hash, differences
from segzoo.runs.environment import describe_environment
from segzoo.runs.locks import lock_folder
from segzoo.runs.run_dir import Run, _result, stamped_folder

OWN = {"config.yaml", "env.json", "run.lock"}  # what says under which settings a result was found


def open_run(
    tool: str, title: str, config: dict[str, Any], root: Path = Path("runs"), *, out: str | None = None, resume: str = "none"
) -> Run:
    """The folder this run writes to, and the checkpoint it goes on from; which of the ways it took is printed.

    Without ``out`` a new run gets ``root/tool/title/<time>``. ``resume=none`` starts anew and refuses an ``out`` that holds a run.
    ``resume=auto`` goes on with the run in ``out`` or, without ``out``, with the newest unfinished run of the same tool, title and
    configuration (``resume``, ``workers``, ``device`` and ``out`` aside), else starts anew. ``resume=<run or step folder>`` goes on
    with that run, also with other settings, which are printed; with ``out`` it starts a new run from that checkpoint.

    Args:
        tool: the tool's name, such as ``train``.
        title: ``<model>-<backbone>-<data>``.
        config: the resolved configuration, plain containers.
        root: where run folders are kept.
        out: the run folder to use; null makes one.
        resume: ``none``, ``auto`` or a path.

    Raises:
        ConfigError: the folder is taken, in use, of another configuration, or holds only damaged checkpoints.
    """
    config, parent = plain(config), root / tool / title
    if resume == "none":
        run = _new(Path(out) if out else stamped_folder(parent), "new run")
    elif resume == "auto":
        run = _auto_out(Path(out), config) if out else _auto_search(parent, config)
    else:
        run = _from_path(Path(resume), Path(out) if out else None, config)
    if not run.finished:
        sweep_temporaries(run.folder)
        _describe(run.folder, config)
        (run.folder / "result.json").unlink(missing_ok=True)
    print(run.message, flush=True)
    return run


@contextmanager
def open_result(
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
    run = _new(Path(out) if out else stamped_folder(root / tool / title), "results go to")
    _describe(run.folder, plain(config))
    print(run.message, flush=True)
    run.close()
    try:
        yield run.folder
    except BaseException:
        if {path.name for path in run.folder.iterdir()} <= OWN:
            shutil.rmtree(run.folder)
        raise


def _describe(folder: Path, config: dict[str, Any]) -> None:
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    write_json(folder / "env.json", describe_environment())


def _new(folder: Path, what: str, resume_from: Path | None = None) -> Run:
    if _holds_run(folder):
        raise ConfigError(f"out={folder} already holds a run. Go on with it by resume=auto, or give another out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={folder} cannot be made: {error.strerror}. Give a folder you may write to.") from None
    return _held(Run(folder, resume_from, message=f"{what}: {folder}"))


def _auto_out(folder: Path, config: dict[str, Any]) -> Run:
    if not _holds_run(folder):
        return _new(folder, "new run, nothing to resume")
    differing = _differing(folder, config)
    if differing:
        raise ConfigError(
            f"out={folder} holds a run of another configuration ({differing}). Give another out; "
            f"to go on from it with these settings: resume={folder} out=<new folder>"
        )
    if _finished(folder):
        return Run(folder, finished=True, message=f"finished before, nothing to do: {folder}")
    return _continue(_held(Run(folder)))


def _auto_search(parent: Path, config: dict[str, Any]) -> Run:
    """The newest unfinished run of this configuration that no other process is writing, else a new one."""
    for folder in sorted(parent.glob("*/"), key=_started, reverse=True):
        if steps(folder) and not _finished(folder) and not _differing(folder, config):
            lock = lock_folder(folder)
            if lock is not None:
                return _continue(Run(folder, lock=lock))
            print(f"not resumed, another process is writing it: {folder}", flush=True)
    return _new(stamped_folder(parent), "new run, no unfinished one of this configuration")


def _from_path(path: Path, out: Path | None, config: dict[str, Any]) -> Run:
    try:
        folder, asked = split_run_and_step(path)
    except CheckpointError as error:
        raise ConfigError(f"resume={path}: wanted none, auto, or a run or step directory; {error}") from None
    newest, faults = latest_valid(folder)
    step, faults = (newest, faults) if asked is None else (asked, verify(asked))
    if step is None or (asked is not None and faults):
        raise ConfigError(f"resume={path}: no usable checkpoint: {'; '.join(faults)}")
    differing = _differing(folder, config)
    note = f"; settings differ: {differing}" if differing else ""
    if out is not None and out.resolve() != folder.resolve():
        return _new(out, f"new run from {step}{note}", step)
    if _finished(folder) and not differing and step == newest:
        return Run(folder, finished=True, message=f"finished before, nothing to do: {folder}")
    if _finished(folder) or step != newest:
        why = "the run is finished" if _finished(folder) else f"{newest} is newer"
        raise ConfigError(f"resume={path}: {why}; to go on from here all the same give out=<new folder>")
    return _continue(_held(Run(folder)), note)


def _continue(run: Run, note: str = "") -> Run:
    run.resume_from, faults = latest_valid(run.folder)
    if run.resume_from is None and steps(run.folder):
        run.close()
        raise ConfigError(f"{run.folder}: every checkpoint is damaged: {'; '.join(faults)}. Start anew with another out.")
    skipped = f" (passed over: {'; '.join(faults)})" if faults else ""
    what = f"resumed at step {run.resume_from.name}" if run.resume_from else "started anew, no checkpoint yet"
    run.message = f"{what}: {run.folder}{skipped}{note}"
    return run


def _holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() or (folder / "checkpoints").is_dir()


def _finished(folder: Path) -> bool:
    return _result(folder).get("finished") is True


def _differing(folder: Path, config: dict[str, Any]) -> str:
    """What differs from the folder's config.yaml, in one line; empty if nothing does."""
    try:
        old = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        return f"its config.yaml cannot be read: {error}"
    return ", ".join(differences(old, config)) if isinstance(old, dict) else "its config.yaml holds no settings"


def _started(folder: Path) -> tuple[str, int]:
    stamp, number = folder.name[:19], folder.name[20:]
    return stamp, int(number) if number.isdigit() else 1


def _held(run: Run) -> Run:
    run.lock = lock_folder(run.folder)
    if run.lock is None:
        raise ConfigError(f"{run.folder} is being written by another process; wait for it or give another out")
    return run


def open_together(
    world: World,
    tool: str,
    title: str,
    config: dict[str, Any],
    root: Path = Path("runs"),
    *,
    out: str | None = None,
    resume: str = "none",
) -> Run:
    """``open_run`` on rank 0, and its answer or error on every rank. A training that torchrun started again resumes by itself.

    Raises:
        ConfigError: as ``open_run``; or the ranks were started with different settings.
    """
    hashes = world.gather(config_hash(plain(config)))
    if len(set(hashes)) > 1:
        other = next(rank for rank, found in enumerate(hashes) if found != hashes[0])
        raise ConfigError(f"rank {other} was started with other settings than rank 0; give every rank the same words")
    opened: list[Run] = []

    def here() -> Run:
        opened.append(
            open_run(tool, title, config, root, out=out, resume="auto" if world.restarts and resume == "none" else resume)
        )
        return replace(opened[0], lock=None)  # a lock cannot travel

    run = world.first(here)
    return opened[0] if opened else run
