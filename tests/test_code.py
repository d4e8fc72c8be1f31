"""A stage depends on the code it runs: all of it, nothing else, and not on how it is written."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mergeline.matching import MATCHERS
from mergeline.normalization import NORMALIZATIONS
from stages.plan import code
from stages.plan.code import NOT_RESULTS, code_names, module_closure, stage_code
from stages.registry import STAGES

ROOT = Path(code.ROOT)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """A copy of the code that is hashed in place of the real one; ``source(module, old, new)`` edits it."""
    for package in code.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", tmp_path)

    def forget() -> None:
        code._imports.cache_clear()
        code.module_hash.cache_clear()

    def edit(module: str, old: str, new: str) -> None:
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        forget()

    forget()
    yield edit
    monkeypatch.undo()
    forget()


def changed(before: dict[str, dict[str, str]]) -> set[str]:
    """The names whose code is not what it was."""
    return {name for name in before if stage_code(name) != before[name]}


def everything() -> dict[str, dict[str, str]]:
    return {name: stage_code(name) for name in code_names()}


# -- hashes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from __future__", "# a remark\nfrom __future__"),
        ('"""Streaming moments', '"""Other words on moments'),
        ('"""Add a batch: one', '"""Add another batch: one'),
        ("        self.n = 0\n", "        self.n = 0  # none yet\n\n"),
        ("self._shifts: list[Tensor] = []", "self._shifts: list[Tensor] = [\n        ]"),
    ],
    ids=["comment", "module docstring", "method docstring", "blank line", "line break"],
)
def test_how_code_is_written_does_not_count(old: str, new: str, source: Callable[[str, str, str], None]) -> None:
    before = code.module_hash("mergeline.moments")
    source("mergeline.moments", old, new)
    assert code.module_hash("mergeline.moments") == before


def test_an_edit_of_the_code_changes_the_stages_that_run_it_and_no_others(
    source: Callable[[str, str, str], None],
) -> None:
    before = everything()
    source("mergeline.moments", "FOLD_ROWS = 8192", "FOLD_ROWS = 4096")
    found = changed(before)
    assert found == {name for name, closure in before.items() if "mergeline.moments" in closure}
    assert {"statistics", "match-permute"} <= found
    assert not found & {"collect", "audit"}


def test_an_edit_of_a_matcher_changes_no_other_matcher(source: Callable[[str, str, str], None]) -> None:
    before = everything()
    source(
        "mergeline.matching.random",
        "if not model:",
        "if model == 0:",
    )
    assert changed(before) == {"match-random"}


def test_how_progress_is_shown_changes_no_result(source: Callable[[str, str, str], None]) -> None:
    before = everything()
    source("stages.context", "self.last = 0.0", "self.last = -1.0")
    assert not changed(before)


def test_a_stages_own_module_changes_that_stage_alone(source: Callable[[str, str, str], None]) -> None:
    before = everything()
    source("stages.predict", '.part("test")', '.part("train")')
    assert changed(before) == {"predict"}


# -- closures -------------------------------------------------------------------------------------------------------


def test_there_is_a_hash_file_for_every_stage_and_matcher() -> None:
    stages = {name for name, stage in STAGES.items() if name != "code" and not stage.variants}
    matches = {f"match-{name}" for name in MATCHERS}
    judged = {f"match-judged-{name}" for name, matcher in MATCHERS.items() if matcher.judged is not None}
    normalised = {f"{stage}-{name}" for stage in ("merge", "curve", "prune", "narrow") for name in NORMALIZATIONS}
    assert set(code_names()) == stages | matches | judged | normalised


def test_a_matchers_closure_has_its_own_file_and_no_other_matchers() -> None:
    matching = {module for module in stage_code("match-permute") if module.startswith("mergeline.matching.")}
    assert matching == {f"mergeline.matching.{name}" for name in ("idle", "permute", "problem", "ties", "weight")}
    assert "stages.match" in stage_code("match-permute")


@pytest.mark.parametrize("name", MATCHERS)
def test_every_matchers_closure_has_the_module_that_defines_it(name: str) -> None:
    closure = stage_code(f"match-{name}")
    home = MATCHERS[name].options.__module__
    assert home in closure
    assert closure.keys() == module_closure(["stages.match", home])
    assert "stages.match_judged" not in closure


def test_a_merge_depends_on_its_own_normalisation_alone() -> None:
    assert "mergeline.normalization.reset" in stage_code("merge-reset")
    assert "mergeline.normalization.reset" not in stage_code("merge-none")
    assert "mergeline.normalization.reset" in stage_code(
        "match-judged-dual_zip"
    )  # merges are judged as they are evaluated


def test_a_narrowed_edge_depends_on_zip_and_on_its_own_normalisation_alone() -> None:
    assert {"mergeline.matching.zip", "mergeline.normalization.repair"} <= stage_code("narrow-repair").keys()
    assert not {"mergeline.normalization.repair", "mergeline.matching.cca"} & stage_code("narrow-none").keys()
    assert "mergeline.narrowing" not in stage_code("evaluate-narrowed")


def test_a_pruned_edge_depends_on_its_own_normalisation_alone() -> None:
    assert {"mergeline.pruning", "mergeline.normalization.repair"} <= stage_code("prune-repair").keys()
    assert "mergeline.normalization.repair" not in stage_code("prune-none")
    assert "mergeline.pruning" not in stage_code("evaluate")  # an edit of a method makes no other evaluation stale


def test_a_closure_holds_its_roots_and_only_modules_of_the_project() -> None:
    for name in code_names():
        closure = stage_code(name)
        assert closure
        assert all(module.split(".")[0] in code.PACKAGES for module in closure)
        assert not set(closure) & set(NOT_RESULTS)
        assert all(len(digest) == 16 for digest in closure.values())


def test_stages_depend_on_what_they_need_and_not_on_what_others_do() -> None:
    assert not any(module.startswith("mergeline.matching") for module in stage_code("evaluate-edge"))
    assert "mergeline.tasks.packaged" in stage_code("prepare")
    assert "mergeline.training" in stage_code("train")
    assert "mergeline.training" not in stage_code("statistics")
    assert "mergeline.normalization" not in stage_code("match-permute")


PROBE = """
import builtins, importlib, json, sys
edges, real = set(), builtins.__import__
def spy(name, globals=None, locals=None, fromlist=(), level=0):
    result = real(name, globals, locals, fromlist, level)
    importer = (globals or {}).get("__name__") or ""
    for target in (name, *(f"{name}.{part}" for part in fromlist or ())):
        if level == 0 and target in sys.modules:
            edges.add((importer, target))
    return result
builtins.__import__ = spy
for module in sys.argv[1:]:
    importlib.import_module(module)
builtins.__import__ = real
ours = lambda name: name.split(".")[0] in ("mergeline", "stages", "flows")
print(json.dumps([[edge for edge in edges if ours(edge[0]) and ours(edge[1])], [name for name in sys.modules if ours(name)]]))
"""
"""Imports modules in a fresh process and tells which module of the project imported which, and all that were loaded."""


def only_described(module: str) -> bool:
    """Whether a module is a package whose own file runs nothing: it holds a docstring, or nothing at all."""
    path = ROOT.joinpath(*module.split("."), "__init__.py")
    return path.is_file() and all(
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
    )


@pytest.mark.slow
def test_closures_cover_what_is_really_imported() -> None:
    modules = sorted({entry.module for entry in STAGES.values()})
    result = subprocess.run(
        [sys.executable, "-c", PROBE, *modules], capture_output=True, text=True, check=True, cwd=ROOT
    )
    edges, loaded = json.loads(result.stdout)
    registries = {"mergeline.matching", "mergeline.tasks", "mergeline.models"}
    assert len(edges) > 100
    for importer, target in edges:
        assert target in {*code._imports(importer), *registries, importer}, (importer, target)
    reached = (
        set(NOT_RESULTS)
        | module_closure([*modules, *registries])
        | module_closure([*code._imports("mergeline.matching"), *code._imports("mergeline.normalization")])
        | {"mergeline.normalization"}
    )
    assert {name for name in set(loaded) - {"mergeline", "stages"} if not only_described(name)} <= reached
    assert {"stages.train", "mergeline.spaces", "mergeline.training"} <= set(loaded)
