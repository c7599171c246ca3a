"""Names to builders, signatures to settings: the whole configuration mechanism, standard library only.

A builder takes objects by position and settings by keyword only; what stands behind the ``*`` is a YAML key. Registries are
created here by module path and import that module on first use, so that knowing a registry costs nothing.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A configuration that cannot work. Carries every error found, one line each, with the hint in the line."""

    def __init__(self, faults: str | Iterable[str]):
        self.errors = [faults] if isinstance(faults, str) else list(faults)
        lines = self.errors if len(self.errors) == 1 else [f"{i}. {fault}" for i, fault in enumerate(self.errors, 1)]
        head = "" if len(self.errors) == 1 else f"{len(self.errors)} errors in the configuration:\n"
        super().__init__(head + "\n".join(lines))

    def __reduce__(self):
        return type(self), (self.errors,)


@dataclass(frozen=True)
class Range:
    """Closed interval of valid numbers, written ``Annotated[float, Range(0, None)]``; None is open, ``above`` excludes low."""

    low: float | None = None
    high: float | None = None
    above: bool = False

    def __contains__(self, value: float) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        low_ok = self.low is None or (value > self.low if self.above else value >= self.low)
        return low_ok and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            return f"{'above' if self.above else 'at least'} {self.low:g}"
        if self.low is None:
            return f"at most {self.high:g}"
        return f"{'above ' if self.above else ''}{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Setting:
    """One keyword-only parameter of a builder: its name, type and default (``Setting.REQUIRED`` if it has none)."""

    REQUIRED = inspect.Parameter.empty
    name: str
    type: Any
    default: Any


def settings_of(function: Callable) -> dict[str, Setting]:
    """The settings of a builder: its keyword-only parameters, with types resolved and ``Annotated`` kept."""
    parameters = inspect.signature(function).parameters.values()
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    typed = {p.name: p.annotation for p in keyword_only if p.annotation is not p.empty}
    # only these: what stands before the * may be typed by names that exist for type checkers alone
    names = getattr(inspect.unwrap(function), "__globals__", None)
    hints = get_type_hints(types.SimpleNamespace(__annotations__=typed), globalns=names, include_extras=True)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise TypeError(f"{function.__qualname__} takes **kwargs; name its settings, so that a misspelled one can be rejected")
    return {p.name: Setting(p.name, hints.get(p.name, Any), p.default) for p in keyword_only}


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """' Did you mean ...?' with the choice closest to ``word``, or nothing when none is close."""
    close = get_close_matches(str(word), list(choices), n=1, cutoff=0.55)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown_name_error(kind: str, word: str, choices: Iterable[str]) -> str:
    """The error line for a name that is not there: what came, the nearest name, the valid ones."""
    choices = list(choices)
    legal = ", ".join(choices) if choices else "none"
    return f"{kind} {word!r} is not known.{did_you_mean(word, choices)} Valid: {legal}."


class Registry:
    """Builders of one kind, by name. The name is the function's own."""

    def __init__(self, kind: str, module: str):
        self.kind, self.module = kind, module
        self._builders: dict[str, Callable] = {}
        self._loaded = False

    def register(self, builder: Callable) -> Callable:
        """Decorator: adds a builder under its function name. Raises ValueError if the name is taken by another."""
        name = builder.__name__
        taken = self._builders.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (builder.__module__, builder.__qualname__):
            raise ValueError(f"{self.kind} {name!r} is registered twice: by {taken.__module__} and {builder.__module__}")
        self._builders[name] = builder
        return builder

    def names(self) -> list[str]:
        """All registered names, sorted. The first call imports the builders' module."""
        self._load()
        return sorted(self._builders)

    def get(self, name: str) -> Callable:
        """The builder of that name; ConfigError with the nearest and the valid names if there is none."""
        if name not in self.names():
            raise ConfigError(unknown_name_error(self.kind, name, self.names()))
        return self._builders[name]

    def settings(self, name: str) -> dict[str, Setting]:
        """The settings that builder takes, in the order of its signature."""
        return settings_of(self.get(name))

    def errors(self, name: str, given: Mapping[str, Any], where: str | None = None) -> list[str]:
        """Every error of ``given`` as settings of builder ``name``, one line each; empty if it can be built."""
        where = where or self.kind
        if name not in self.names():
            return [unknown_name_error(where, name, self.names())]
        return setting_errors(self.settings(name), given, where, f"{where} {name!r}")

    def build(self, name: str, *objects: Any, **given: Any) -> Any:
        """Calls the builder with ``objects`` by position and ``given`` as settings, after checking them all."""
        faults = self.errors(name, given)
        if faults:
            raise ConfigError(faults)
        known = self.settings(name)
        return self._builders[name](*objects, **{key: coerce(value, known[key].type) for key, value in given.items()})

    def _load(self) -> None:
        if self._loaded:
            return
        module = importlib.import_module(self.module)
        for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
            importlib.import_module(f"{self.module}.{found.name}")
        self._loaded = True


def setting_errors(known: Mapping[str, Setting], given: Mapping[str, Any], where: str, who: str) -> list[str]:
    """Unknown, missing and ill-typed settings of one section, one line each."""
    prefix = f"{where}." if where else ""
    faults = []
    for key, value in given.items():
        if key not in known:
            faults.append(f"{prefix}{key}: {who} has no such setting.{did_you_mean(key, known)} Valid: {', '.join(known)}.")
        elif (wanted := type_error(value, known[key].type)) is not None:
            faults.append(f"{prefix}{key}={value!r}: wanted {wanted}.{_nearest_literal(value, known[key].type)}")
    for setting in known.values():
        if setting.default is Setting.REQUIRED and setting.name not in given:
            faults.append(f"{prefix}{setting.name} is missing: {who} needs it ({describe_type(setting.type)}).")
    return faults


def describe_type(wanted: Any) -> str:
    """A type in words for a message: ``a whole number, at least 1``."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        bounds = ", ".join(str(extra) for extra in args[1:] if isinstance(extra, Range))
        return f"{describe_type(args[0])}, {bounds}" if bounds else describe_type(args[0])
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(arg) for arg in args)
    if origin is tuple and args[-1:] == (Ellipsis,):
        return f"a list, each {describe_type(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: " + "; ".join(describe_type(arg) for arg in args)
    if origin is dict:
        return f"a table from {describe_type(args[0])} to {describe_type(args[1])}"
    words = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null", Any: "anything"}
    return words.get(wanted, getattr(wanted, "__name__", str(wanted)))


def type_error(value: Any, wanted: Any) -> str | None:
    """None if ``value`` fits the type, else the type in words. Lists fit tuples; whole numbers fit float; true is no number."""
    return None if _fits(value, wanted) else describe_type(wanted)


def _fits(value: Any, wanted: Any) -> bool:
    origin, args = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return True
    if origin is Annotated:
        ranges = [extra for extra in args[1:] if isinstance(extra, Range)]
        numbers = value if isinstance(value, list | tuple) else [] if value is None else [value]
        return _fits(value, args[0]) and all(number in r for r in ranges for number in numbers)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in args)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is tuple and isinstance(value, list | tuple):
        if args[-1:] == (Ellipsis,):
            return all(_fits(item, args[0]) for item in value)
        return len(value) == len(args) and all(_fits(item, arg) for item, arg in zip(value, args, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return all(_fits(key, args[0]) and _fits(item, args[1]) for key, item in value.items())
    if isinstance(value, bool) or wanted is bool:
        return wanted is bool and isinstance(value, bool)
    if wanted is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(wanted, type) and isinstance(value, wanted)


def coerce(value: Any, wanted: Any) -> Any:
    """``value`` in the containers its type names: YAML lists become tuples, whole numbers floats where floats are wanted."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return coerce(value, args[0])
    if origin in (Union, types.UnionType):
        fitting = next((arg for arg in args if _fits(value, arg)), None)
        return value if fitting is None else coerce(value, fitting)
    if origin is tuple and isinstance(value, list | tuple):
        each = args[:1] * len(value) if args[-1:] == (Ellipsis,) else args
        return tuple(coerce(item, arg) for item, arg in zip(value, each, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return {coerce(key, args[0]): coerce(item, args[1]) for key, item in value.items()}
    return float(value) if wanted is float else value


def _nearest_literal(value: Any, wanted: Any) -> str:
    args = get_args(wanted)
    options = [a for arg in args for a in (get_args(arg) if get_origin(arg) is Literal else [arg])]
    return did_you_mean(str(value), [str(option) for option in options if isinstance(option, str)])


BACKBONES = Registry("backbone", "segzoo.backbones")
MODELS = Registry("model", "segzoo.models")
DATA = Registry("data", "segzoo.data.datasets")
AUGMENTS = Registry("augment", "segzoo.transforms.augment")
LOSSES = Registry("loss", "segzoo.losses")
OPTIMS = Registry("optim", "segzoo.optim.optimizers")
SCHEDULES = Registry("schedule", "segzoo.optim.schedules")
INITS = Registry("init", "segzoo.weights")
POSTS = Registry("post", "segzoo.inference.postprocess")
MIXES = Registry("mix", "segzoo.transforms.mixing")
RUNTIMES = Registry("runtime", "segzoo.runtimes")
PRUNERS = Registry("pruner", "segzoo.pruning")
DISTILLS = Registry("distill", "segzoo.losses.distillation")
