"""Registries of builders, and settings read from their signatures.

Positional arguments of a builder are objects, keyword-only arguments are YAML keys. Registries import their module on first use.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from segzoo.messages import did_you_mean, nearest_literal, show_example, unknown_name_error
from segzoo.types import PlainMapping


class ConfigError(ValueError):
    """Every error of an invalid configuration, one line each with a hint."""

    def __init__(self, errors: str | Iterable[str]):
        self.errors = [errors] if isinstance(errors, str) else list(errors)
        lines = self.errors if len(self.errors) == 1 else [f"{i}. {error}" for i, error in enumerate(self.errors, 1)]
        head = "" if len(self.errors) == 1 else f"{len(self.errors)} errors in the configuration:\n"
        super().__init__(head + "\n".join(lines))

    def __reduce__(self):
        return type(self), (self.errors,)


@dataclass(frozen=True)
class Range:
    """Interval of valid numbers, used as ``Annotated[float, Range(0, 1)]``.

    Both bounds are required: a number without an upper bound, such as a batch size of 10**12, fails late and with a worse message.
    """

    low: float
    high: float
    above: bool = False  # exclude ``low`` itself

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        low, high = (f"{bound:,.0f}" if bound == int(bound) else f"{bound:g}" for bound in (self.low, self.high))
        return f"{'above ' if self.above else ''}{low} to {high}"


Seed = Annotated[int, Range(0, 2**63 - 1)]  # what torch takes


@dataclass(frozen=True)
class Setting:
    """One keyword-only parameter of a builder."""

    REQUIRED = inspect.Parameter.empty
    name: str
    type: object
    default: Any  # REQUIRED if there is none


def settings_of(function: Callable) -> dict[str, Setting]:
    """Keyword-only parameters of a builder, with resolved annotations.

    A builder that is not a function may list its settings in an attribute ``settings``.

    Raises:
        TypeError: the builder takes ``**kwargs``, so a misspelled setting could not be detected.
    """
    if (declared := getattr(function, "settings", None)) is not None:
        return declared
    parameters = inspect.signature(function).parameters.values()
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    typed = {p.name: p.annotation for p in keyword_only if p.annotation is not p.empty}
    # keyword-only parameters alone: the annotations of the others may exist only under TYPE_CHECKING
    names = getattr(inspect.unwrap(function), "__globals__", None) or vars(sys.modules[function.__module__])
    hints = get_type_hints(types.SimpleNamespace(__annotations__=typed), globalns=names, include_extras=True)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise TypeError(f"{function.__qualname__} takes **kwargs; name each setting so that misspelled ones are rejected")
    return {p.name: Setting(p.name, hints.get(p.name, Any), p.default) for p in keyword_only}


class Registry:
    """Builders of one kind, registered under their function names."""

    def __init__(self, kind: str, module: str):
        self.kind, self.module = kind, module
        self._builders: dict[str, Callable] = {}
        self._loaded = False

    def register(self, builder: Callable) -> Callable:
        """Register a builder under its function name, which must be unique."""
        name = builder.__name__
        existing = self._builders.get(name)
        if existing is not None and (existing.__module__, existing.__qualname__) != (builder.__module__, builder.__qualname__):
            raise ValueError(f"{self.kind} {name!r} is registered twice: by {existing.__module__} and {builder.__module__}")
        self._builders[name] = builder
        return builder

    def names(self) -> list[str]:
        """Sorted names of all builders, importing them on first use."""
        self._load()
        return sorted(self._builders)

    def get(self, name: str) -> Callable:
        """Return a builder by name, or raise ConfigError if there is none."""
        if name not in self.names():
            raise ConfigError(unknown_name_error(self.kind, name, self.names()))
        return self._builders[name]

    def settings(self, name: str) -> dict[str, Setting]:
        """Settings of a builder, in the order of its signature."""
        return settings_of(self.get(name))

    def errors(self, name: str, values: PlainMapping, section: str | None = None) -> list[str]:
        """List every error in the settings of a builder, one line each."""
        section = section or self.kind
        if name not in self.names():
            return [unknown_name_error(section, name, self.names())]
        return setting_errors(self.settings(name), values, section, f"{section} {name!r}")

    def build(self, name: str, *objects: object, **values: object) -> Any:
        """Call a builder, or raise ConfigError if its settings are invalid."""
        errors = self.errors(name, values)
        if errors:
            raise ConfigError(errors)
        known = self.settings(name)
        return self._builders[name](*objects, **{key: coerce(value, known[key].type) for key, value in values.items()})

    def _load(self) -> None:
        if self._loaded:
            return
        module = importlib.import_module(self.module)
        for submodule in pkgutil.iter_modules(getattr(module, "__path__", [])):
            importlib.import_module(f"{self.module}.{submodule.name}")
        self._loaded = True


def setting_errors(known: Mapping[str, Setting], values: PlainMapping, section: str, owner: str) -> list[str]:
    """List unknown, missing and mistyped settings of one section."""
    prefix = f"{section}." if section else ""
    errors = []
    for key, value in values.items():
        if key not in known:
            valid = f"{did_you_mean(key, known)} Valid: {', '.join(known) or 'none'}."
            errors.append(f"{prefix}{key}: {owner} has no such setting.{valid}")
        elif (expected := type_error(value, known[key].type)) is not None:
            hint = nearest_literal(value, known[key].type) or show_example(f"{prefix}{key}", known[key].type)
            if "mapping" in expected and isinstance(value, str) and ":" in value:
                hint = f" Did the shell take the braces? Put the override in single quotes.{hint}"
            errors.append(f"{prefix}{key}={value!r}: expected {expected}.{hint}")
    for setting in known.values():
        if setting.default is Setting.REQUIRED and setting.name not in values:
            errors.append(f"{prefix}{setting.name} is missing: {owner} requires it ({describe_type(setting.type)}).")
    return errors


NAMES: dict[object, str] = {int: "an integer", float: "a number", str: "a string", bool: "true or false", Any: "anything"}
NAMES |= {type(None): "null"}


def describe_type(annotation: object) -> str:
    """Describe a type in words: ``an integer from 1 to 8``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = ", ".join(str(extra) for extra in args[1:] if isinstance(extra, Range))
        return f"{describe_type(args[0])}, {bounds}" if bounds else describe_type(args[0])
    if origin is Literal:
        return "one of " * (len(args) > 1) + ", ".join(str(choice) for choice in args)
    if origin in (Union, types.UnionType):
        words = [describe_type(arg) for arg in args]
        return (", or " if any("," in word for word in words[:-1]) else " or ").join(words)
    if origin is tuple:
        return f"a list of {_describe_items(args)}"
    if origin is dict:
        return f"a mapping from {describe_type(args[0])} to {describe_type(args[1])}"
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _describe_items(items: Sequence[object]) -> str:
    """Describe the items of a list: ``2 integers, 1 to 8``."""
    count = "" if items[-1] is Ellipsis else f"{len(items)} "
    if count and len(set(items)) > 1:
        return f"{count.strip()}: " + "; ".join(describe_type(item) for item in items)
    item = describe_type(items[0])
    return count + (f"values, each {item}" if " or " in item or "one of" in item else re.sub(r"^an? (\w+)", r"\1s", item))


def type_error(value: object, annotation: object) -> str | None:
    """Describe the expected type if ``value`` does not match, else None.

    Lists match tuples, and integers match float. Booleans match neither int nor float.
    """
    return None if _fits(value, annotation) else describe_type(annotation)


def _fits(value: Any, annotation: object) -> bool:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is Any:
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
    if isinstance(value, bool) or annotation is bool:
        return annotation is bool and isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max  # false for NaN
    return isinstance(annotation, type) and isinstance(value, annotation)


def coerce(value: Any, annotation: object) -> Any:
    """Convert YAML lists to tuples and integers to floats where annotated."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return coerce(value, args[0])
    if origin in (Union, types.UnionType):
        match = next((arg for arg in args if _fits(value, arg)), None)
        return value if match is None else coerce(value, match)
    if origin is tuple and isinstance(value, list | tuple):
        item_types = args[:1] * len(value) if args[-1:] == (Ellipsis,) else args
        return tuple(coerce(item, arg) for item, arg in zip(value, item_types, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return {coerce(key, args[0]): coerce(item, args[1]) for key, item in value.items()}
    return float(value) if annotation is float else value


BACKBONES = Registry("backbone", "segzoo.backbones")
MODELS = Registry("model", "segzoo.models")
DATA = Registry("data", "segzoo.data.datasets")
SAMPLERS = Registry("sampler", "segzoo.data.balance.samplers")
AUGMENTS = Registry("augment", "segzoo.transforms.augment")
LOSSES = Registry("loss", "segzoo.losses")
OPTIMS = Registry("optim", "segzoo.optim.optimizers")
SCHEDULES = Registry("schedule", "segzoo.optim.schedules")
INITS = Registry("init", "segzoo.weights")
PROTOCOLS = Registry("protocol", "segzoo.inference.protocol")
POSTS = Registry("post", "segzoo.inference.postprocess")
LOGGERS = Registry("logger", "segzoo.loggers")
MIXES = Registry("mix", "segzoo.transforms.mixing")
RUNTIMES = Registry("runtime", "segzoo.runtimes")
ACTIONS = Registry("action", "segzoo.workflows.dataset")
PRUNERS = Registry("pruner", "segzoo.pruning")
DISTILLS = Registry("distill", "segzoo.losses.distillation")
