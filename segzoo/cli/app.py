"""Entry point of every tool.

Checks the command line, then calls the tool with plain containers. Hydra composes the configuration; nothing outside this package sees it. An invalid command
ends with one message and exit code 1 before any data file is opened. In a sweep each job writes ``result.json`` to its directory, even
when it fails, and the table is always written.
"""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from segzoo.cli.compose import missing_keys, resolve_config
from segzoo.cli.console import make_output_robust, print_plain_messages
from segzoo.cli.hydra_limits import flag_errors, untyped_code_errors
from segzoo.cli.overrides import ParsedOverrides, parse_overrides
from segzoo.cli.positional import parse_arguments
from segzoo.cli.sweeps import run_sweep, sweep_dir
from segzoo.io import write_json
from segzoo.registry import ConfigError
from segzoo.reporting.tables import summarize_sweep
from segzoo.resources import limit_threads
from segzoo.system_errors import system_error_text
from segzoo.types import DataError, InvalidDataset, ParityError, PlainDict, TrainingError


@dataclass(frozen=True)
class Job:
    """One run of a tool, in plain containers.

    Attributes:
        command: the tool's name, such as ``train``.
        config: the resolved configuration.
        recorded: the same with environment interpolations unresolved, as written into checkpoints.
        choices: the option of each group, such as ``model: icnet_half``.
        output_dir: the job's own directory in a sweep, otherwise None.
    """

    command: str
    config: PlainDict
    recorded: PlainDict
    choices: dict[str, str]
    output_dir: Path | None = None

    @property
    def title(self) -> str:
        """``<model>-<backbone>-<data>``, the parent directory of the run directory."""
        return "-".join(str(self.choices[group]) for group in ("model", "backbone", "data") if self.choices.get(group))

    @cached_property
    def arguments(self) -> dict[str, PlainDict]:
        """Keyword arguments by name of the library function that takes them."""
        from segzoo.config.commands import COMMANDS

        return COMMANDS[self.command].arguments(self.config)


Tool = Callable[[Job], PlainDict | None]


def run(
    tool: Tool,
    command: str,
    summarize: Callable[[Path], str] = summarize_sweep,
    announce: Callable[[Sequence[DictConfig]], str] = lambda jobs: f"{len(jobs)} jobs",
) -> None:
    """Run a tool once or for every job of a sweep.

    Args:
        tool: the function of the tool. Its result is written to ``result.json`` in a sweep; an ``exit_code`` in it ends the process.
        command: name of the file in ``conf/`` with every setting of the tool.
        summarize: writes the table of a sweep to its directory and returns it as Markdown.
        announce: returns the line that is printed before a sweep of the given jobs.
    """
    make_output_robust()
    limit_threads()
    if not (in_full := "HYDRA_FULL_ERROR" in os.environ):
        print_plain_messages()
    arguments = parse_arguments()
    if arguments.help:
        _print_help(tool, command, arguments)
        return
    exit_codes: list[int] = []
    job = _hydra_job(tool, command, exit_codes)
    start = hydra.main(version_base="1.3", config_path="pkg://segzoo.conf", config_name=command)(job)
    if arguments.hydra_help or arguments.shell_completion:
        start()  # Hydra prints and runs no job
        return
    try:
        if errors := flag_errors(arguments):
            raise ConfigError(errors)
        if arguments.multirun and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "-m under torchrun: every rank would run the whole sweep. Start torchrun once per job, or use a launcher for the sweep: "
                "hydra/launcher=submitit_slurm"
            )
        parsed = parse_overrides(command, arguments.overrides, sweep=arguments.multirun, config_dir=arguments.config_dir)
        sys.argv = [parsed.for_hydra(word) for word in sys.argv]
        if arguments.cfg or arguments.info is not None:
            if parsed.errors:
                raise ConfigError(parsed.errors)
            start()  # Hydra prints and runs no job
            return
        reject_invalid(parsed, command)
        if arguments.multirun:
            if parsed.jobs:  # the jobs of a search are not known yet
                print(announce(parsed.jobs), flush=True)
            run_sweep(start, sweep_dir(arguments.overrides, parsed.jobs), summarize)
        else:
            _run_job(start, job, parsed.jobs[0], in_full)
    except Exception as error:
        if (end := _exit_after(error, command, in_full)) is None:
            raise
        raise end from None
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    if any(exit_codes):
        raise SystemExit(max(exit_codes))


def _exit_after(error: Exception, command: str, in_full: bool) -> SystemExit | None:
    """Return the exit with the message of an error.

    None stands for a traceback: the error is a bug, or a system error that is to be shown in full.
    """
    if isinstance(error, InvalidDataset):
        print(error, file=sys.stderr)
        return SystemExit(2)
    is_user_error = isinstance(error, ConfigError | DataError | ParityError | TrainingError)
    text = str(error) if is_user_error else None if in_full else system_error_text(error, command)
    return SystemExit(f"{type(error).__name__}: {text}") if text is not None else None


def _run_job(start: Callable[[], None], job: Callable[[DictConfig], object], config: DictConfig, in_full: bool) -> None:
    """Run a job that is composed already, or let Hydra run it."""
    if in_full or _needs_hydra(config):
        start()
    else:
        HydraConfig.instance().set_config(config)
        job(config)


def _print_help(tool: Tool, command: str, arguments: Namespace) -> None:
    from segzoo.cli.help import help_text

    try:
        print(help_text(command, sys.modules[tool.__module__].__doc__ or "", arguments.overrides, arguments.config_dir))
    except ConfigError as error:
        raise SystemExit(f"ConfigError: {error}") from None


def reject_invalid(parsed: ParsedOverrides, command: str) -> None:
    """Raise all errors of a command line at once.

    Those that need no torch come first, and torch is imported only if there are none. A sweep is rejected only if none of its jobs can
    run; otherwise each invalid job fails on its own.
    """
    errors = parsed.errors + _errors_of_all_jobs(parsed, partial(_early_job_errors, command, parsed.rejected))
    if not errors:
        errors = _errors_of_all_jobs(parsed, partial(_job_errors, command))
    if errors:
        raise ConfigError(list(dict.fromkeys(errors)))
    if parsed.changed and os.environ.get("RANK", "0") == "0":
        print("differs from the defaults: " + "  ".join(parsed.changed), flush=True)


def _needs_hydra(job: DictConfig) -> bool:
    """Check whether a command line makes Hydra do more than compose."""
    settings = job.hydra
    writes = settings.job.chdir or settings.run.dir != "." or settings.output_subdir is not None
    return bool(writes or settings.verbose or settings.mode not in (None, RunMode.RUN))


def _errors_of_all_jobs(parsed: ParsedOverrides, check: Callable[[DictConfig], list[str]]) -> list[str]:
    """Return the errors of the first job unless another is valid."""
    found = [check(job) for job in parsed.jobs]
    return found[0] if found and all(found) else []


def _early_job_errors(command: str, rejected: Set[str], job: DictConfig) -> list[str]:
    """List the errors of a job that need no torch.

    Settings without a value are no error if their override is one, and neither is a missing checkpoint.
    """
    from segzoo.config.checks.data_paths import location_errors
    from segzoo.config.checks.early import early_errors
    from segzoo.config.checks.output import resume_errors
    from segzoo.config.presets import preset_error

    if (missing_keys(job) | {"ckpt", "init.ckpt"}) & rejected:
        return []
    choices = job.hydra.runtime.choices
    if error := preset_error(str(choices.get("model")), str(choices.get("backbone"))):
        return [error]
    try:
        config, recorded = resolve_config(job)
    except ConfigError as error:
        return error.errors
    return early_errors(command, config) + location_errors(config) or resume_errors(recorded)


def _job_errors(command: str, job: DictConfig) -> list[str]:
    from segzoo.config.validate import validation_errors

    return validation_errors(command, resolve_config(job)[0])


def _hydra_job(tool: Tool, command: str, exit_codes: list[int]) -> Callable[[DictConfig], float | None]:
    """Wrap a tool as the function that Hydra calls for each job.

    The function returns the mIoU, if there is one, for sweepers that optimize it. It appends the exit code of each job to ``exit_codes``.
    """

    def job(composed: DictConfig) -> float | None:
        from segzoo.config.checks.alignment import alignment_notes
        from segzoo.config.checks.idle import idle_settings
        from segzoo.config.presets import preset_error
        from segzoo.config.validate import validate

        make_output_robust()  # a launcher may run jobs in processes of its own
        hydra_config = HydraConfig.get()
        output_dir = Path(hydra_config.runtime.output_dir) if hydra_config.mode == RunMode.MULTIRUN else None
        choices = {str(group): name for group, name in hydra_config.runtime.choices.items() if "/" not in str(group)}
        number = hydra_config.job.num if output_dir else 0
        started = time.time()
        result: PlainDict = {"job": number, "overrides": list(hydra_config.overrides.task), **choices}
        try:
            config, recorded = resolve_config(composed)
            if error := preset_error(str(choices.get("model")), str(choices.get("backbone"))):
                raise ConfigError(error)
            if errors := untyped_code_errors(config, hydra_config.overrides.task, output_dir is not None):
                raise ConfigError(errors)
            validate(command, config)
            if os.environ.get("RANK", "0") == "0":
                for line in (*idle_settings(command, config), *alignment_notes(config)):
                    print(f"note: {line}", flush=True)
            result |= tool(Job(command, config, recorded, choices, output_dir)) or {}
            exit_codes.append(result.get("exit_code", 0))
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}".replace("\n", " ")
            raise
        finally:
            if output_dir is not None:
                output_dir.mkdir(parents=True, exist_ok=True)
                write_json(output_dir / "result.json", result | {"minutes": round((time.time() - started) / 60, 2)})
        return result.get("miou")

    return job
