"""Code, settings, data, machine and versions behind a result."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from segzoo.reporting.numbers import format_count
from segzoo.runs.config_diff import diff_configs, flatten
from segzoo.types import PlainDict, PlainMapping

MAX_VALUE = 120  # characters of a setting
DATA_KEYS = ("data", "images", "names", "ground_truth")  # of a protocol; the others are settings of the inference

Facts = list[tuple[str, str]]
Defaults = Callable[[], PlainMapping]  # composes the configuration without overrides


def read_json(path: Path) -> PlainDict:
    """Content of a JSON file, empty if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def provenance(summary: PlainMapping, env: PlainMapping, training_env: PlainMapping) -> Facts:
    """Describe what a result depends on.

    Args:
        summary: ``summary.json`` of the evaluation.
        env: ``env.json`` of the evaluation, empty if the training itself made it.
        training_env: ``env.json`` of the training, empty if it is unknown.
    """
    own = env or training_env
    facts = environment_facts(own)
    if env and training_env:
        facts += [("commit of the training", commit(training_env)), ("training", command_line(training_env.get("command") or ()))]
    facts.append(("checkpoint, SHA-256", summary.get("checkpoint_sha256") or "unknown"))
    return [*facts, *data_facts(summary), *machine_facts(own)]


def environment_facts(env: PlainMapping) -> Facts:
    """Describe the code and the command, as ``env.json`` holds them."""
    command = command_line(env.get("command") or ())
    return [("commit", commit(env)), ("command", command), ("date", str(env.get("time", "unknown")))]


def data_facts(summary: PlainMapping) -> Facts:
    """Describe the data and the protocol of an evaluation."""
    data = summary["protocol"]
    return [
        ("data", f"{data['data']}, {summary['split']}: {data['images']} images"),
        ("data fingerprint", f"names {data['names']}, ground truth {data['ground_truth']}"),
        ("protocol", f"{summary['protocol_id']}: {protocol_text(data)}"),
        ("precision", summary["precision"]),
    ]


def machine_facts(env: PlainMapping) -> Facts:
    """Describe the machine and the versions, as ``env.json`` holds them."""
    machine = env.get("machine") or {}
    versions = ", ".join(f"{name} {version}" for name, version in (env.get("versions") or {}).items() if version)
    return [
        (
            "machine",
            f"{machine.get('cpu') or 'unknown CPU'}, {format_count(machine.get('cores', '?'), 'core')}, "
            f"{format_count(machine.get('threads', '?'), 'thread')}",
        ),
        ("GPU", machine.get("gpu") or "none"),
        ("system", str(machine.get("platform", "unknown"))),
        ("versions", versions or "unknown"),
    ]


def commit(env: PlainMapping) -> str:
    """Name the commit that ran, and whether it had changes."""
    git = env.get("git")
    return "not run from a git checkout" if not git else git["commit"] + (", with uncommitted changes" if git["changed"] else "")


def command_line(command: Sequence[str]) -> str:
    """Format a command as typed, without the path of the checkout."""
    if not command:
        return "unknown"
    script = PurePath(command[0])
    name = f"python {'/'.join(script.parts[-2:])}" if script.suffix == ".py" else script.name
    return " ".join([name, *map(shlex.quote, command[1:])])


def protocol_text(protocol: PlainMapping) -> str:
    """Format the settings of a protocol, without those of the data."""
    settings = {key: value for key, value in protocol.items() if key not in (*DATA_KEYS, "precision") and value is not None}
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def changed_settings(config: PlainMapping, defaults: PlainMapping) -> list[tuple[str, str, str]]:
    """List the settings that differ from the defaults.

    Returns:
        Key, default and value of each.
    """
    before, after = flatten(defaults), flatten(config)
    keys = [difference.key for difference in diff_configs(defaults, config)]
    return [(key, _short(before.get(key, "absent")), _short(after.get(key, "absent"))) for key in keys]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"
