"""Match tensors by name and shape, and report which were loaded."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from segzoo.registry import ConfigError
from segzoo.weights._base import LoadableBackbone, LoadableModel

BACKBONE = "backbone."  # prefix of the backbone's parameters in a whole model
MAX_NAMES = 6  # tensors of one kind that a report lists by name


@dataclass(frozen=True)
class LoadReport:
    """Summary of which tensors were loaded.

    Attributes:
        source: the setting or file that was loaded.
        loaded: names in the network of the tensors that were loaded.
        reinitialized: names in the network of the tensors that keep their initial values.
        unused: names in the file of the tensors that were not loaded.
        fraction: fraction of the backbone's parameters that was loaded, 0 to 1, counted in elements rather than tensors.
        mismatched: names and both shapes of tensors whose shapes differ.
        note: anything else the user should know.
        incomplete: classifiers outside training-only heads whose rows were loaded in part.
    """

    source: str
    loaded: tuple[str, ...]
    reinitialized: tuple[str, ...]
    unused: tuple[str, ...]
    fraction: float
    mismatched: tuple[str, ...] = ()
    note: str = ""
    incomplete: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        source: str,
        network: LoadableModel | LoadableBackbone,
        state: Mapping[str, Tensor],
        loaded: Mapping[str, str],
        prefix: str,
        note: str,
    ) -> LoadReport:
        """Create the report for one load.

        Args:
            source: the setting or file that is loaded.
            network: the network to load into.
            state: the file's tensors.
            loaded: local name -> name in the file, for tensors that are loaded.
            prefix: of the backbone's parameters in the network; empty if the network is the backbone.
            note: anything else the user should know.
        """
        used = set(loaded.values())
        sizes = {name: parameter.numel() for name, parameter in network.named_parameters() if name.startswith(prefix)}
        return cls(
            source,
            loaded=tuple(loaded),
            reinitialized=tuple(name for name in loadable_tensors(network) if name not in loaded),
            unused=tuple(name for name in state if name not in used and _is_loadable(name)),
            mismatched=tuple(_shape_mismatches(network, state, loaded)),
            fraction=sum(sizes[name] for name in sizes if name in loaded) / max(sum(sizes.values()), 1),
            note=note,
        )

    def require(self, min_fraction: float, setting: str, hint: str) -> None:
        """Check that enough of the backbone's parameters match.

        Args:
            min_fraction: smallest fraction, 0 to 1.
            setting: as the user wrote it, for the message.
            hint: how to fix it.

        Raises:
            ConfigError: fewer match; the message names a temporary file that lists all tensors.
        """
        if self.fraction < min_fraction:
            problem = (
                f"{setting}: only {self.fraction:.1%} of the backbone's parameters match, expected at least {min_fraction:.0%}. "
                "Nothing was loaded."
            )
            with tempfile.NamedTemporaryFile("w", prefix="segzoo-weights-", suffix=".txt", delete=False, encoding="utf-8") as file:
                file.write(self.details())
            raise ConfigError(f"{problem}\n{hint} All layers are listed in {file.name}")

    def details(self) -> str:
        """The report with the names of all tensors, one a line."""
        lists = {
            "loaded": self.loaded,
            "of another shape": self.mismatched,
            "not in the file": self.reinitialized,
            "in the file alone": self.unused,
        }
        lines = [f"\n{title}: {len(names)}\n" + "\n".join(f"  {name}" for name in names) for title, names in lists.items()]
        return "\n".join([str(self), *lines]) + "\n"

    def log(self) -> None:
        """Print the report on rank 0."""
        log_rank0(str(self))

    def __str__(self) -> str:
        columns = [Counter(map(_module_name, names)) for names in (self.loaded, self.reinitialized, self.unused)]
        modules = sorted(set().union(*columns))
        width = max([6, *map(len, modules)])
        lines = [f"weights from {self.source}: {self.fraction:.1%} of the backbone's parameters loaded"]
        lines += [f"note: {self.note}"] if self.note else []
        lines.append(f"{'module':{width}}  loaded  re-initialized  unused")
        lines += [f"{name:{width}}  {columns[0][name]:6}  {columns[1][name]:14}  {columns[2][name]:6}" for name in modules]
        if self.reinitialized:
            more = len(self.reinitialized) - MAX_NAMES
            names = ", ".join(self.reinitialized[:MAX_NAMES])
            lines.append(f"re-initialized: {names}" + (f" and {more} more" if more > 0 else ""))
        lines += [f"shape mismatch: {mismatch}" for mismatch in self.mismatched[:MAX_NAMES]]
        lines += [f"and {more} more shape mismatches"] if (more := len(self.mismatched) - MAX_NAMES) > 0 else []
        return "\n".join(lines)


def _shape_mismatches(
    network: LoadableModel | LoadableBackbone, state: Mapping[str, Tensor], loaded: Mapping[str, str]
) -> Iterator[str]:
    for name, tensor in loadable_tensors(network).items():
        if name not in loaded and name in state and state[name].shape != tensor.shape:
            yield f"{name} {tuple(tensor.shape)} in the model, {tuple(state[name].shape)} in the file"


def log_rank0(text: str) -> None:
    """Print on rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def loadable_tensors(network: LoadableModel | LoadableBackbone) -> dict[str, Tensor]:
    """Parameters and running statistics by name, sharing memory with the network."""
    return {name: tensor for name, tensor in network.state_dict().items() if _is_loadable(name)}


def matching_shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Names whose shapes match on both sides.

    A bias or running statistic only matches together with the weight of its layer.
    """

    def matches(name: str) -> bool:
        return name not in own or (name in state and state[name].shape == own[name].shape)

    return [name for name in own if matches(name) and matches(name.rpartition(".")[0] + ".weight")]


def _is_loadable(name: str) -> bool:
    return not name.endswith("num_batches_tracked")  # only read by BatchNorm layers without momentum


def _module_name(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:2]) if name.startswith(BACKBONE) else parts[0]
