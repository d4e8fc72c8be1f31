"""Stage ``code``: what code each stage runs, as one hash file per stage.

A stage depends on the modules that it imports, directly or through others, and on nothing else. Comments, docstrings
and formatting do not count. Registries (the ``__init__`` of matching, tasks, models) are not followed as a whole:
the match stage of a method depends on that method's file alone, so that a new method makes nothing stale.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

from stages.formats.files import write_json
from stages.plan import paths

__all__ = ["code_names", "module_closure", "planning_files", "run", "stage_code"]

PACKAGES = ("mergeline", "stages")
REGISTRY = "mergeline.matching"
ROOT = Path(__file__).resolve().parents[2]
NOT_RESULTS = ("stages.context", "stages.__main__")
"""Modules that every stage runs and that change no result; their own imports are followed."""
NOT_FOLLOWED = ("stages.plan.params",)
"""Modules whose imports only check names against registries."""


def run(context: Any, cell: str) -> None:
    """There is one; ``cell`` is not used."""
    for name in code_names():
        write_json(context.path(paths.code(name)), stage_code(name))


def code_names() -> list[str]:
    """All stages but this one, and ``match-<matcher>`` for each matcher in place of ``match``."""
    from mergeline.matching import MATCHERS
    from stages.__main__ import STAGES

    stages = [name for name in STAGES if name not in ("code", "match")]
    return sorted([*stages, *(f"match-{name}" for name in MATCHERS)])


def stage_code(name: str) -> dict[str, str]:
    """Module name to hash, for all modules that a stage (or the match stage of a matcher) runs."""
    from mergeline.matching import MATCHERS
    from stages.__main__ import STAGES

    plugins: set[str] = set()
    if name.startswith("match-"):
        matcher = MATCHERS[name.removeprefix("match-")]
        roots = [STAGES["match"].module]
        if (plugin := MATCHERS.plugin(matcher.name)) is not None:
            plugins.add(plugin)
        elif matcher.match.__module__ != f"{REGISTRY}.problem":
            roots.append(matcher.match.__module__)
        else:
            roots.append(_module_of_matcher(matcher.name))
        roots += ["stages.judging"] if matcher.judged is not None else []
    else:
        roots = [STAGES[name].module]
    closure = module_closure(roots)
    plugins |= _plugins_of(closure)
    own = {module: _module_hash(module) for module in sorted(closure)}
    return own | {key: digest for plugin in sorted(plugins) for key, digest in _package_hashes(plugin).items()}


def _plugins_of(closure: set[str]) -> set[str]:
    """Modules of installed packages that add to the registries which some modules import."""
    from mergeline.architectures import ARCHITECTURES
    from mergeline.depth import PLACEMENTS
    from mergeline.normalization import NORMALIZATIONS
    from mergeline.tasks import TASKS

    homes: dict[str, Any] = {
        "mergeline.architectures": ARCHITECTURES, "mergeline.depth": PLACEMENTS,
        "mergeline.normalization": NORMALIZATIONS, "mergeline.tasks": TASKS,
    }  # fmt: skip
    found = {registry.plugin(name) for home, registry in homes.items() if home in closure for name in registry}
    return {module for module in found if module is not None}


def _package_hashes(module: str) -> dict[str, str]:
    """Hashes of all modules of an installed package."""
    top = sys.modules[module.partition(".")[0]]
    folder = Path(str(top.__file__)).parent
    files = sorted(folder.rglob("*.py")) if hasattr(top, "__path__") else [Path(str(top.__file__))]
    return {
        f"plug-in {top.__name__}: {path.relative_to(folder).as_posix()}": _hash_of(path.read_text(encoding="utf-8"))
        for path in files
    }


def _module_of_matcher(name: str) -> str:
    """The module in the registry's imports that defines the matcher."""
    tree = ast.parse(_file(REGISTRY).read_text(encoding="utf-8"))
    from mergeline import matching

    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                value = getattr(matching, alias.asname or alias.name, None)
                if isinstance(value, matching.Matcher) and value.name == name:
                    return node.module
    raise LookupError(f"no import in {REGISTRY} gives the matcher {name!r}")


def module_closure(roots: list[str]) -> set[str]:
    """The project's modules that ``roots`` import, directly or not, with the roots themselves."""
    found: set[str] = set()
    todo = list(roots)
    while todo:
        module = todo.pop()
        if module in found:
            continue
        found.add(module)
        if module not in NOT_FOLLOWED:
            todo += [name for name in _imports(module) if name != REGISTRY]
    return found - set(NOT_RESULTS)


def planning_files() -> list[Path]:
    """Every file that planning may read: our own modules, with all registries, and those of plug-ins."""
    from mergeline.architectures import ARCHITECTURES
    from mergeline.depth import PLACEMENTS
    from mergeline.matching import MATCHERS
    from mergeline.normalization import NORMALIZATIONS
    from mergeline.tasks import TASKS

    # All of our own modules: reading them takes less time than finding out which of them planning imports.
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    for registry in (MATCHERS, NORMALIZATIONS, PLACEMENTS, ARCHITECTURES, TASKS):
        for name in registry:
            home = registry.plugin(name)
            source = getattr(sys.modules.get(home), "__file__", None) if home else None
            files |= {Path(source)} if source else set()
    return sorted(files)


@cache
def _imports(module: str) -> tuple[str, ...]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(_file(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return tuple(sorted(name for name in names if name.split(".")[0] in PACKAGES and _exists(name)))


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exists(module: str) -> bool:
    return _file(module).is_file()


@cache
def _module_hash(module: str) -> str:
    return _hash_of(_file(module).read_text(encoding="utf-8"))


def _hash_of(text: str) -> str:
    """Hash of a module's syntax tree without docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [s for s in node.body if not _is_text(s)] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
