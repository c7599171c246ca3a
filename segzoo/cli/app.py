"""How every tool starts: read the words, check them all, then hand plain containers to the tool's one function.

Hydra composes; nothing behind this door sees it. An error ends the tool with one message and exit code 1 before any data file is
opened. In a sweep each job leaves ``result.json`` in its folder, a failed one too, and the table is written whatever happens.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segzoo.cli.overrides import ParsedOverrides, parse_overrides
from segzoo.io import write_json
from segzoo.registry import ConfigError
from segzoo.reporting.tables import summarize_sweep
from segzoo.types import DataError, ParityError


@dataclass(frozen=True)
class Job:
    """What a tool's function receives: plain containers only.

    Attributes:
        config: the resolved configuration.
        recorded: the same with environment words left as they stand, for what is written into checkpoints.
        picked: the option of each group as chosen on the command line, such as ``model: icnet_half``.
        folder: the job's own folder in a sweep, else None.
    """

    config: dict[str, Any]
    recorded: dict[str, Any]
    choices: dict[str, str]
    output_dir: Path | None

    @property
    def title(self) -> str:
        """``<model>-<backbone>-<data>``, the name a run directory carries."""
        return "-".join(str(self.choices[group]) for group in ("model", "backbone", "data") if self.choices.get(group))


def run(tool: Callable[[Job], dict[str, Any] | None], frame: str, gather: Callable[[Path], str] = summarize_sweep) -> None:
    """Runs a tool from the command line: ``tool(job)`` once, or once a combination under ``-m``.

    Args:
        tool: the tool's function; what it returns becomes ``result.json`` in a sweep.
        frame: the file in ``conf/`` that shows every setting of the tool.
        gather: makes the table over the jobs of a sweep, in its folder, and returns it as Markdown.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that Hydra raises instead of printing and exiting
    arguments = get_args_parser().parse_args()
    if arguments.help:
        _help(tool, frame, arguments)
        return
    asked_only = arguments.hydra_help or arguments.cfg or arguments.info is not None or arguments.shell_completion
    start = hydra.main(version_base="1.3", config_path="pkg://segzoo.conf", config_name=frame)(_hydra_job(tool, frame))
    if asked_only:
        start()
        return
    try:
        if arguments.multirun and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "-m under torchrun: every rank would run the whole sweep. Start one torchrun a job, or give the sweep a launcher: "
                "hydra/launcher=submitit_slurm"
            )
        _reject_invalid(
            parse_overrides(frame, arguments.overrides, sweep=arguments.multirun, config_dir=arguments.config_dir), frame
        )
        if arguments.multirun:
            _run_sweep(start, arguments.overrides, gather)
        else:
            start()
    except (ConfigError, DataError, ParityError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    except KeyboardInterrupt as stopped:
        print(stopped or "interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _help(tool: Callable[[Job], dict[str, Any] | None], frame: str, arguments: Any) -> None:
    from segzoo.cli.help import help_text

    try:
        print(help_text(frame, sys.modules[tool.__module__].__doc__ or "", arguments.overrides, arguments.config_dir))
    except ConfigError as error:
        raise SystemExit(f"ConfigError: {error}") from None


def resolve_config(config: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration as containers: resolved, and with ``${oc.env:...}`` words left standing."""
    bare = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        resolved = OmegaConf.to_container(bare, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"a setting has no value: {str(error).splitlines()[0]}. Give it on the command line as key=value."
        ) from None
    return resolved, _keep_env_interpolations(resolved, OmegaConf.to_container(bare))  # type: ignore[return-value]


def _keep_env_interpolations(resolved: Any, raw: Any) -> Any:
    if isinstance(raw, dict):
        return (
            {key: _keep_env_interpolations(resolved[key], node) for key, node in raw.items()}
            if isinstance(resolved, dict)
            else resolved
        )
    return raw if isinstance(raw, str) and "${oc.env:" in raw else resolved


def _reject_invalid(reading: ParsedOverrides, frame: str) -> None:
    """Raises every error at once. A sweep is rejected when no job of it can run; else the jobs that cannot fail by themselves."""
    faults = list(reading.errors)
    if reading.jobs and (not faults or reading.has_values):  # else only names are wrong, and torch need not be loaded
        from segzoo.config.validate import validation_errors

        checked = [_job_errors(validation_errors, frame, job) for job in reading.jobs]
        faults += [] if not all(checked) else checked[0]
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    if reading.changed and os.environ.get("RANK", "0") == "0":
        print("differs from the defaults: " + "  ".join(reading.changed), flush=True)


def _job_errors(faults_of: Callable[[str, dict[str, Any]], list[str]], frame: str, job: DictConfig) -> list[str]:
    try:
        return faults_of(frame, resolve_config(job)[0])
    except ConfigError as error:
        return error.errors


def _hydra_job(tool: Callable[[Job], dict[str, Any] | None], frame: str) -> Callable[[DictConfig], Any]:
    """The function Hydra calls once a job: checks the job's own configuration, runs the tool, keeps what it returns.

    It returns the mIoU where there is one, for sweepers that search.
    """

    def job(composed: DictConfig) -> float | None:
        from segzoo.config.validate import validate

        running = HydraConfig.get()
        folder = Path(running.runtime.output_dir) if running.mode == RunMode.MULTIRUN else None
        picked = {str(group): name for group, name in running.runtime.choices.items() if "/" not in str(group)}
        started = time.time()
        result: dict[str, Any] = {"job": running.job.num if folder else 0, "overrides": list(running.overrides.task), **picked}
        try:
            config, recorded = resolve_config(composed)
            validate(frame, config)
            result |= tool(Job(config, recorded, picked, folder)) or {}
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}".replace("\n", " ")
            raise
        finally:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / "result.json", result | {"minutes": round((time.time() - started) / 60, 2)})
        return result.get("miou")

    return job


def _run_sweep(start: Callable[[], None], words: list[str], gather: Callable[[Path], str]) -> None:
    """Runs a sweep and writes its table also when jobs failed: Hydra raises the first failure only after the last job."""
    given = [word.partition("=")[2] for word in words if word.startswith("hydra.sweep.dir=")]
    folder = Path(given[-1] if given else f"runs/sweeps/{datetime.now():%Y-%m-%d_%H-%M-%S}")
    if not given:
        sys.argv.append(f"hydra.sweep.dir={folder}")
    try:
        start()
    finally:
        if folder.is_dir():
            print(f"\n{gather(folder)}\nwritten to {folder}", flush=True)
