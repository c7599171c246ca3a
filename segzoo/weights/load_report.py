"""Which tensors fit where, and a short account of what became of each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from segzoo.registry import ConfigError

BACKBONE = "backbone."  # what a backbone's parameters are called inside a whole model
MAX_ROWS = 6  # names a report spells out


class LoadableModule(Protocol):
    """What this module needs of an ``nn.Module``."""

    def state_dict(self) -> dict[str, Any]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors: loaded and re-initialized by their names in the net, left over by their names in the file.

    ``share`` is the part of the backbone's parameters that was loaded, 0 to 1, counted in numbers, not in tensors; ``misfits``
    tells of layers that both sides have in different shapes.
    """

    source: str
    loaded: tuple[str, ...]
    reinitialized: tuple[str, ...]
    unused: tuple[str, ...]
    fraction: float
    mismatched: tuple[str, ...] = ()
    note: str = ""

    @classmethod
    def of(
        cls, source: str, net: LoadableModule, state: Mapping[str, Tensor], pairs: Mapping[str, str], trunk: str, note: str
    ) -> LoadReport:
        """The report on a loading.

        Args:
            source: what the user asked for.
            net: the net that is filled.
            state: the file's tensors.
            pairs: name in the net -> name in the file of what is loaded.
            backbone: prefix of the backbone's parameters in the net; empty if the net is the backbone.
            note: anything else the user should know.
        """
        taken = set(pairs.values())
        sizes = {name: parameter.numel() for name, parameter in net.named_parameters() if name.startswith(trunk)}
        return cls(
            source,
            loaded=tuple(pairs),
            reinitialized=tuple(name for name in loadable_tensors(net) if name not in pairs),
            unused=tuple(name for name in state if name not in taken and _counts(name)),
            mismatched=tuple(_mismatches(net, state, pairs)),
            fraction=sum(sizes[name] for name in sizes if name in pairs) / max(sum(sizes.values()), 1),
            note=note,
        )

    def require(self, min_fraction: float, where: str, hint: str) -> None:
        """Raises ConfigError, with the whole report, if less than ``least`` of the backbone fits."""
        if self.fraction < min_fraction:
            came = f"{where}: only {self.fraction:.1%} of the backbone's parameters fit, wanted {min_fraction:.0%}. {hint}"
            raise ConfigError(f"{came} Nothing was loaded; this is what would have been:\n{self}")

    def log(self) -> None:
        """Prints the report."""
        log_rank0(str(self))

    def __str__(self) -> str:
        columns = [Counter(map(_part, names)) for names in (self.loaded, self.reinitialized, self.unused)]
        parts = sorted(set().union(*columns))
        wide = max([4, *map(len, parts)])
        lines = [f"weights from {self.source}: {self.fraction:.1%} of the backbone's parameters loaded"]
        lines += [f"note: {self.note}"] if self.note else []
        lines.append(f"{'part':{wide}}  loaded  re-initialized  left over")
        lines += [f"{part:{wide}}  {columns[0][part]:6}  {columns[1][part]:14}  {columns[2][part]:9}" for part in parts]
        if self.reinitialized:
            more = len(self.reinitialized) - MAX_ROWS
            lines.append(f"re-initialized: {', '.join(self.reinitialized[:MAX_ROWS])}" + (f" and {more} more" if more > 0 else ""))
        lines += [f"other shape: {misfit}" for misfit in self.mismatched]
        return "\n".join(lines)


def _mismatches(net: LoadableModule, state: Mapping[str, Tensor], pairs: Mapping[str, str]) -> Iterator[str]:
    for name, tensor in loadable_tensors(net).items():
        if name not in pairs and name in state and state[name].shape != tensor.shape:
            yield f"{name} {tuple(tensor.shape)} here, {tuple(state[name].shape)} in the file"


def log_rank0(text: str) -> None:
    """Prints once, not once a process."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def loadable_tensors(net: LoadableModule) -> dict[str, Tensor]:
    """Parameters and running statistics by name, sharing memory with the net."""
    return {name: tensor for name, tensor in net.state_dict().items() if _counts(name)}


def matching_shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Names of equal shape on both sides; a bias or a statistic only together with the weight of its own layer."""

    def fits(name: str) -> bool:
        return name not in own or (name in state and state[name].shape == own[name].shape)

    return [name for name in own if fits(name) and fits(name.rpartition(".")[0] + ".weight")]


def _counts(name: str) -> bool:
    return not name.endswith("num_batches_tracked")  # a counter that nothing here reads


def _part(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:2]) if name.startswith(BACKBONE) else parts[0]
