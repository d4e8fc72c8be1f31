"""A stage depends on the code it runs: all of it, nothing else, and not on how it is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mergeline.matching import MATCHERS
from stages import code
from stages.__main__ import STAGES
from stages.code import NOT_FOLLOWED, NOT_RESULTS, code_names, module_closure, stage_code

ROOT = Path(code.ROOT)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """A copy of the code that is hashed in place of the real one; ``source(module, old, new)`` edits it."""
    for package in code.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", tmp_path)

    def forget() -> None:
        code._imports.cache_clear()
        code._module_hash.cache_clear()

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
    before = everything()
    source("mergeline.moments", old, new)
    assert not changed(before)


def test_an_edit_of_the_code_changes_the_stages_that_run_it(source: Callable[[str, str, str], None]) -> None:
    before = everything()
    source("mergeline.moments", "FOLD_ROWS = 8192", "FOLD_ROWS = 4096")
    found = changed(before)
    assert "statistics" in found
    assert not found & {"prepare", "predict", "collect"}


def test_an_edit_of_a_matcher_changes_no_other_matcher(source: Callable[[str, str, str], None]) -> None:
    before = everything()
    source("mergeline.matching.random", 'Matcher("random"', 'Matcher(name="random"'.replace("name=", ""))
    assert not changed(before)
    source(
        "mergeline.matching.random",
        "if model else np.arange(space.groups)",
        "if model > 0 else np.arange(space.groups)",
    )
    assert changed(before) == {"match-random"}


def test_an_edit_of_the_schema_changes_no_result_code_but_that_of_its_readers(
    source: Callable[[str, str, str], None],
) -> None:
    before = everything()
    source("stages.context", "self.last = 0.0", "self.last = -1.0")
    assert not changed(before)


def test_text_that_is_no_docstring_counts(source: Callable[[str, str, str], None]) -> None:
    before = everything()
    source("stages.predict", "on the test images", "on all test images")
    assert not changed(before)
    source("stages.predict", '.part("test")', '.part("train")')
    assert changed(before) == {"predict"}


# -- closures -------------------------------------------------------------------------------------------------------


def test_there_is_a_hash_file_for_every_stage_and_matcher() -> None:
    assert set(code_names()) == {name for name in STAGES if name not in ("code", "match")} | {
        f"match-{name}" for name in MATCHERS
    }


def test_a_matchers_closure_has_its_own_file_and_no_other_matchers() -> None:
    matching = {module for module in stage_code("match-permute") if module.startswith("mergeline.matching.")}
    assert matching == {"mergeline.matching.permute", "mergeline.matching.problem"}
    assert "stages.match" in stage_code("match-permute")


@pytest.mark.parametrize("name", MATCHERS)
def test_every_matchers_closure_has_the_module_that_defines_it(name: str) -> None:
    closure = stage_code(f"match-{name}")
    home = MATCHERS[name].options.__module__
    assert home in closure
    assert closure.keys() == module_closure(["stages.match", home])


def test_a_closure_holds_its_roots_and_only_modules_of_the_project() -> None:
    for name in code_names():
        closure = stage_code(name)
        assert closure
        assert all(module.split(".")[0] in code.PACKAGES for module in closure)
        assert not set(closure) & set(NOT_RESULTS)
        assert all(len(digest) == 16 for digest in closure.values())


def test_scoring_does_not_depend_on_matching_nor_preparing_on_torch_code() -> None:
    assert not any(module.startswith("mergeline.matching") for module in stage_code("evaluate-edge"))
    assert not any(module in stage_code("prepare") for module in ("mergeline.training", "mergeline.moments"))
    assert "mergeline.training" in stage_code("train")
    assert "mergeline.tasks.packaged" in stage_code("prepare")


PROBE = """
import builtins, importlib, json, os, sys
for name in ("torch", "torch.fx.experimental.optimization", "torch.utils.flop_counter", "torch._dynamo", "scipy.optimize",
             "numpy", "pyarrow.parquet", "pydantic", "yaml", "PIL.ImageFont", "safetensors.torch", "matplotlib.figure"):
    importlib.import_module(name)
found = {}
for stage, module in json.loads(sys.argv[1]).items():
    read, write = os.pipe()
    if os.fork() == 0:
        edges, real = set(), builtins.__import__
        def spy(name, globals=None, locals=None, fromlist=(), level=0):
            result = real(name, globals, locals, fromlist, level)
            importer = (globals or {}).get("__name__", "")
            if level == 0:
                for target in (name, *(f"{name}.{part}" for part in fromlist or ())):
                    if target in sys.modules:
                        edges.add((importer, target))
            return result
        builtins.__import__ = spy
        importlib.import_module(module)
        ours = ("mergeline", "stages", "flows")
        edges = [edge for edge in edges if all(part.split(".")[0] in ours for part in edge)]
        modules = [name for name in sys.modules if name.split(".")[0] in ours]
        with os.fdopen(write, "w") as stream:
            json.dump({"modules": modules, "edges": edges}, stream)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        found[stage] = json.load(stream)
    os.wait()
print(json.dumps(found))
"""
"""Imports each stage's module in a process that has none of the project's, and tells which module imported which."""


@pytest.mark.slow
def test_every_closure_covers_what_is_really_imported() -> None:
    modules = {name: entry.module for name, entry in STAGES.items() if name != "code"}
    result = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(modules)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(result.stdout)
    assert set(found) == set(modules)
    registry = {"mergeline", "stages", code.REGISTRY}  # packages: the two hold no code that stages run
    through_registry = module_closure([MATCHERS[name].options.__module__ for name in MATCHERS])
    for stage, seen in found.items():
        closure = set(stage_code("match-identity" if stage == "match" else stage))
        assert modules[stage] in closure
        loaded = set(seen["modules"]) - registry - set(NOT_RESULTS)
        assert loaded <= closure | through_registry, stage
        assert not any(module.startswith("flows") for module in loaded)
        for importer, target in seen["edges"]:
            if importer in closure - set(NOT_FOLLOWED) or importer in NOT_RESULTS:
                assert target in closure | registry | set(NOT_RESULTS), (stage, importer, target)
