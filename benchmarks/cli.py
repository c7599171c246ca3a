"""Command line of the benchmarks: ``python -m benchmarks <name> [options]``.

A benchmark is a module with ``add_arguments(parser)`` and ``main(args)``; its name is its path below this folder. Listing reads
docstrings without importing anything, so it does not wait for torch.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import shlex
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent
GROUPS = {
    "speed": "Latency, throughput and overhead",
    "costs": "Memory of training, and how costs scale",
    "accuracy": "mIoU of trained networks",
    "studies": "Finished studies, frozen",
}
MAINTENANCE = "update_tables"


def find_benchmarks() -> dict[str, Path]:
    """Return the file of each benchmark by name, in listing order."""
    files = [path for group in GROUPS for path in sorted((FOLDER / group).glob("[!_]*.py"))]
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in [*files, FOLDER / f"{MAINTENANCE}.py"]}


def summary(path: Path) -> str:
    """Return the first line of a module's docstring without importing it."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def listing() -> str:
    """Return all benchmarks with their summaries, grouped by folder."""
    benchmarks = find_benchmarks()
    width = max(map(len, benchmarks))
    lines = []
    for group, title in {**GROUPS, "": "Maintenance"}.items():
        names = [name for name in benchmarks if name.rpartition("/")[0] == group]
        lines += [f"{title}:", *(f"  {name:{width}}  {summary(benchmarks[name])}" for name in names), ""]
    return "\n".join(lines).rstrip()


def closest(word: str, names: Iterable[str]) -> list[str]:
    """Return the names most similar to a word.

    Several names are returned if they tie, none if nothing is close. The word is compared with the whole name and with its last part,
    so ``crf`` finds both ``speed/crf`` and ``accuracy/crf``.
    """
    ratio = {name: max(SequenceMatcher(None, word, part).ratio() for part in (name, name.rpartition("/")[2])) for name in names}
    best = max(ratio.values())
    return [name for name in ratio if ratio[name] == best] if best >= 0.55 else []


def load(name: str) -> ModuleType:
    """Import a benchmark by its name."""
    return importlib.import_module(f"benchmarks.{name.replace('/', '.')}")


def option_parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's own options.

    The help text is the docstring of its module.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark named on the command line, or list all.

    Args:
        argv: Command-line arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="%(prog)s [--list] <name> [options]",
        description="Measurements behind the published tables. Run it in the root of the checkout.",
        epilog=listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--list", action="store_true", help="list all benchmarks and exit")
    parser.add_argument("name", nargs="?", help="the benchmark to run; add --help for its options")
    parser.add_argument("options", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    top = parser.parse_args(argv)
    names = list(find_benchmarks())
    if top.list or top.name is None:
        print(listing())
        return
    if top.name not in names:
        near = closest(top.name, names)
        hint = f"did you mean {' or '.join(near)}?" if near else "no name is close."
        parser.error(f"unknown benchmark {top.name!r}; {hint} All names: python -m benchmarks --list")
    module = load(top.name)
    args = option_parser(top.name, module).parse_args(top.options)
    args.command = shlex.join(["python", "-m", "benchmarks", top.name, *top.options])  # goes into the result file
    module.main(args)
