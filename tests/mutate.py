"""Mutation testing of one package.

It tells whether the tests of the package find small errors in its code.

``tests/MUTANTS.md`` describes its use. Mutants come from the operators of mutmut.
Unlike ``mutmut run`` it also mutates decorated functions, of which a registry of parts has many, and runs a sample. Each mutant runs
in a fork of a process that has collected the tests already, with the tests of the package that cover the mutated line.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import gc
import inspect
import json
import os
import random
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path
from typing import Any

import coverage  # type: ignore[import-not-found]
import libcst as cst  # type: ignore[import-not-found]
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider  # type: ignore[import-not-found]
from mutmut.mutation.file_mutation import Mutation, MutationVisitor, deep_replace  # type: ignore[import-not-found]
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_assignment  # type: ignore[import-not-found]
from mutmut.mutation.pragma_handling import IgnoredCode  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[1]
PYTEST = ("-q", "-x", "-s", "-n", "0", "-p", "no:cacheprovider", "--hypothesis-seed=0")
MUTANT_SECONDS = 500  # a loop that does not end counts as killed


def drop_keyword(call: cst.Call) -> Iterator[cst.Call]:
    """Drop each keyword argument of a call."""
    for index, argument in enumerate(call.args):
        if argument.keyword and argument.keyword.value != "strict" and len(call.args) > 1:
            yield call.with_changes(args=[*call.args[:index], *call.args[index + 1 :]])


# without mutants that set a value to None or drop a positional argument: nearly all of them raise TypeError at once
OPERATORS = [
    (kind, operator) for kind, operator in mutation_operators if operator not in (operator_assignment, operator_arg_removal)
]


class Visitor(MutationVisitor):
    """Mutates decorated functions too, but neither text for people nor type aliases."""

    def __init__(self):
        super().__init__([*OPERATORS, (cst.Call, drop_keyword)], IgnoredCode(set(), set(), set()))
        self.lines: dict[cst.CSTNode, tuple[int, int]] = {}

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Raise | cst.Decorator) or (isinstance(node, cst.SimpleString) and " " in node.raw_value):
            return True
        if isinstance(node, cst.Arg) and node.keyword and node.keyword.value == "strict":  # of zip, an assertion
            return True
        if isinstance(node, cst.Assign) and isinstance(node.value, cst.Subscript):
            name = node.value.value
            return isinstance(name, cst.Name) and name.value in ("Annotated", "Callable", "Literal")
        return not isinstance(node, cst.FunctionDef) and super()._skip_node_and_children(node)

    def _create_mutations(self, node: cst.CSTNode) -> None:
        position: Any = self.get_metadata(PositionProvider, node)
        self.lines[node] = position.start.line, position.end.line
        super()._create_mutations(node)


@dataclass(frozen=True)
class Mutant:
    """One change of a file, on the lines ``start`` to ``end``."""

    path: Path
    module: cst.Module
    mutation: Mutation
    start: int
    end: int

    @functools.cached_property  # costs 0.05 s, so only for the sample
    def source(self) -> str:
        module: Any = deep_replace(self.module, self.mutation.original_node, self.mutation.mutated_node)
        return module.code

    @property
    def description(self) -> str:
        changes = difflib.unified_diff(self.module.code.splitlines(), self.source.splitlines(), n=0, lineterm="")
        diff = [f"{line[0]} {line[1:].strip()}" for line in changes if line[0] in "+-" and line[:3] not in ("+++", "---")]
        return "\n".join([f"{self.path.relative_to(ROOT)}:{self.start}", *diff])


def mutants_of(path: Path) -> list[Mutant]:
    """All mutants of a file."""
    visitor = Visitor()
    module = MetadataWrapper(cst.parse_module(path.read_text(encoding="utf-8"))).visit(visitor)
    return [Mutant(path, module, mutation, *visitor.lines[mutation.original_node]) for mutation in visitor.mutations]


class MutatedLoader(SourceFileLoader):
    """Finder and loader of one module from a changed source."""

    def __init__(self, path: Path, source: str):
        super().__init__(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), str(path))
        self.source = source

    def get_code(self, fullname: str):
        return compile(self.source, self.path, "exec")

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name == self.name else None


def function_codes(code: types.CodeType) -> tuple[list[types.CodeType], list[object]]:
    """Split a compiled module.

    Returns:
        The code of functions and methods, and everything that runs at import.
    """
    functions, at_import = [], [code.co_code, code.co_names]
    for constant in code.co_consts:
        if not isinstance(constant, types.CodeType) or constant.co_name.startswith("<"):
            at_import.append(constant)
        elif constant.co_flags & inspect.CO_OPTIMIZED:
            functions.append(constant)
        else:  # the body of a class
            inner, inner_at_import = function_codes(constant)
            functions, at_import = functions + inner, at_import + inner_at_import
    return functions, at_import


def replace_functions(mutant: Mutant) -> bool:
    """Change the imported functions that a mutant changes.

    Returns:
        False if it changes what runs at import, such as a default.
    """
    original, mutated = (function_codes(compile(text, str(mutant.path), "exec")) for text in (mutant.module.code, mutant.source))
    if original[1] != mutated[1]:
        return False
    changed = {(old.co_qualname, old.co_firstlineno): new for old, new in zip(original[0], mutated[0], strict=True) if old != new}
    for function in gc.get_objects():
        if isinstance(function, types.FunctionType) and function.__code__.co_filename == str(mutant.path):
            code = function.__code__
            function.__code__ = changed.get((code.co_qualname, code.co_firstlineno), code)
    return True


def fork(run: Callable[[], object], seconds: int = 0) -> int:
    """Call a function in a fork.

    Limited in time, it has no output.

    Returns:
        0 or 1 for a false or a true result, 70 for an exception, the negative signal that ended it otherwise.
    """
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    status = 70
    try:
        if seconds:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            signal.alarm(seconds)
        status = int(bool(run()))
    finally:
        os._exit(status)


class MutationTesting:
    """pytest plugin that runs mutants instead of the collected tests."""

    def __init__(self, package: str, count: int, seed: int, out: Path):
        self.package, self.out, self.results_file = package, out, out / f"{package}-{seed}.json"
        self.mutants = [mutant for path in sorted((ROOT / "segzoo" / package).glob("*.py")) for mutant in mutants_of(path)]
        self.sample = random.Random(seed).sample(self.mutants, min(count, len(self.mutants)))

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        started, data_file = time.monotonic(), self.out / f"{self.package}.coverage"
        data_file.unlink(missing_ok=True)
        assert fork(lambda: self.cover(session, data_file)) == 0, f"tests/{self.package} fail without a mutant"
        data = coverage.CoverageData(str(data_file))
        data.read()
        print(f"{len(session.items)} tests, {time.monotonic() - started:.0f} s", flush=True)
        results = json.loads(self.results_file.read_text()) if self.results_file.exists() else {}
        for number, mutant in enumerate(self.sample, 1):
            name, started = mutant.description, time.monotonic()
            if results.get(name, "survived") == "survived":
                results[name] = self.result(mutant, session, data)
                self.results_file.write_text(json.dumps(results, indent=1))
            print(f"{number:3} {time.monotonic() - started:4.0f} s  {results[name]:8}  {name}", flush=True)
        killed = sum(results[mutant.description] != "survived" for mutant in self.sample)
        print(f"{self.package}: {len(self.mutants)} mutants, {len(self.sample)} sampled, {killed} killed")
        return True

    def cover(self, session: pytest.Session, data_file: Path) -> bool:
        """Run all tests and note the lines that each of them runs."""
        tracer = coverage.Coverage(data_file=str(data_file), include=[f"segzoo/{self.package}/*"])
        tracer.start()
        failed = run_items(session.items, session, tracer.switch_context)
        tracer.stop()
        tracer.save()
        return failed

    def result(self, mutant: Mutant, session: pytest.Session, data: coverage.CoverageData) -> str:
        """Return ``killed`` or ``survived``."""
        tests_of_line = data.contexts_by_lineno(str(mutant.path))
        covering = {test for line in range(mutant.start, mutant.end + 1) for test in tests_of_line.get(line, ()) if test}
        covering = covering or {test for tests in tests_of_line.values() for test in tests if test}  # it runs at import
        items = [item for item in session.items if item.nodeid in covering]

        def run() -> bool:
            loader = MutatedLoader(mutant.path, mutant.source)
            sys.meta_path.insert(0, loader)  # type: ignore[arg-type]
            if loader.name not in sys.modules or replace_functions(mutant):
                return run_items(items, session)
            for name, module in list(sys.modules.items()):
                if str(getattr(module, "__file__", "")).startswith(f"{ROOT}/") and name != "__main__":
                    del sys.modules[name]
            return pytest.main([*PYTEST, *sorted({str(item.path) for item in items})]) != 0

        status = fork(run, MUTANT_SECONDS) if items else 0
        assert status != 70, f"cannot run {mutant.description}"
        return "killed" if status else "survived"


def run_items(items: list[pytest.Item], session: pytest.Session, start: Callable[[str], object] = str) -> bool:
    """Run tests until one fails.

    Returns:
        Whether one failed.
    """
    for item, following in zip(items, [*items[1:], None], strict=True):
        start(item.nodeid)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("package")
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True, help="folder of results; mutants killed before are not run again")
    args, pytest_options = parser.parse_known_args()  # such as -k "a_new_test or another"
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    args.out.mkdir(parents=True, exist_ok=True)
    plugin = MutationTesting(args.package, args.count, args.seed, args.out.resolve())
    sys.exit(pytest.main([*PYTEST, *pytest_options, f"tests/{args.package}"], plugins=[plugin]))


if __name__ == "__main__":
    main()
