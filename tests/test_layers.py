"""The project's shape: which layer may know which, no circles, one home for folders' names, no long functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

from stages.plan import paths

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("mergeline", "stages", "flows")
"""Each may import from those before it."""
LONGEST = 60
LONG = {"mergeline.training.train"}
"""The one loop that reads best as a whole."""


@cache
def modules() -> dict[str, Path]:
    found = {}
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    """All of the project's modules that a module imports, also inside functions and for types alone."""
    names: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & modules().keys()
            if inner - modules().keys():
                names.add(node.module)
    return names & modules().keys() - {module}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_knows_only_those_below_it(layer: str) -> None:
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    own = [module for module in modules() if module.split(".")[0] == layer]
    assert len(own) > 20
    wrong = [(module, name) for module in own for name in imports(module) if name.split(".")[0] not in allowed]
    assert not wrong


def test_modules_import_each_other_in_no_circle() -> None:
    try:
        TopologicalSorter({module: imports(module) for module in modules()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def functions(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}.{child.name}", child
        inner = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        yield from functions(child, f"{name}.{child.name}" if inner else name)


def test_no_function_is_longer_than_a_page() -> None:
    long = {
        name
        for module in modules()
        for name, node in functions(tree(module), module)
        if (node.end_lineno or node.lineno) - node.lineno + 1 > LONGEST
    }
    assert long == LONG


def test_no_module_of_the_project_is_imported_behind_the_readers_back() -> None:
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                text = ast.unparse(node.args[0])
                assert not text.strip("\"'").startswith(LAYERS), f"{module} hides an import of {text}"


def path_words(node: ast.AST) -> Iterator[str]:
    """The text constants in expressions that make paths: ``a / "b"``, ``Path("b")``, ``glob``."""
    for child in ast.walk(node):
        if isinstance(child, ast.BinOp) and isinstance(child.op, ast.Div):
            parts: list[ast.AST] = [child.left, child.right]
        elif isinstance(child, ast.Call) and ast.unparse(child.func).split(".")[-1] in (
            "Path",
            "PurePosixPath",
            "glob",
        ):
            parts = list(child.args)
        else:
            continue
        for part in parts:
            for leaf in ast.walk(part):
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                    yield leaf.value


def test_folders_are_named_in_one_module_alone() -> None:
    places = [value for value in vars(paths).values() if isinstance(value, PurePosixPath)]
    names = {part for place in places for part in place.parts}
    assert {"artifacts", "reports", "pipelines", ".mergeline", "logs", "params.yaml", "timings"} <= names
    for module in modules():
        if module.split(".")[0] != "mergeline" and module != "stages.plan.paths":
            used = {word for text in path_words(tree(module)) for word in text.split("/")}
            assert not used & names, f"{module} names {sorted(used & names)}; stages.plan.paths knows them"


def test_names_of_cells_are_taken_apart_in_one_module_alone() -> None:
    for module in modules():
        if module.split(".")[0] == "mergeline" or module == "stages.plan.keys":
            continue
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                takes_apart = node.func.attr in ("split", "rsplit", "partition", "rpartition")
                assert (
                    not (takes_apart and ast.unparse(node.args[0]) in ("'+'", "'@'")) or module == "flows.dvc.stage"
                ), module
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
                assert ast.unparse(node.left) not in ("'+'", "'@'"), module


def test_the_threads_of_numpys_libraries_are_set_before_they_are_loaded() -> None:
    code = "import sys, stages.__main__; print([name for name in ('numpy', 'torch', 'scipy') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]"
