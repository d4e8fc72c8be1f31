"""Stage ``code``: what code each stage runs, as one hash file per stage.

A stage depends on the modules that it imports, directly or through others, and on nothing else. Comments, docstrings
and formatting do not count. The registries of methods and normalisations are not followed as a whole: the match stage
of a method depends on that method's file alone, so that a new method makes nothing stale.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mergeline.registry import Registry
from stages.formats.files import json_text, write_json
from stages.plan import paths
from stages.plan.packaged import packaged
from stages.registry import STAGES, Stage, code_name

__all__ = ["code_names", "installed_code", "module_closure", "module_hash", "planning_files", "run", "stage_code"]

PACKAGES = ("mergeline", "stages")
ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "index.html.j2"
NOT_RESULTS = ("stages.context", "stages.__main__", "stages.registry")
"""Modules that every stage runs and that change no result; their own imports are followed."""


def run(context: Any, cell: str) -> None:
    """There is one; ``cell`` is not used."""
    for name in code_names():
        write_json(context.path(paths.code(name)), stage_code(name))


def code_names() -> dict[str, tuple[str, str]]:
    """The stage and the variant behind each name: all stages but this one, with variants once for each of them."""
    found = {
        code_name(stage, variant): (stage, variant)
        for stage, entry in STAGES.items()
        if stage != "code"
        for variant in (_variants(entry) if entry.variants else ("",))
    }
    return dict(sorted(found.items()))


def _variants(stage: Stage) -> Iterator[str]:
    for name, entry in _registries()[stage.variants].items():
        if not stage.only or getattr(entry, stage.only) is not None:
            yield name


def stage_code(name: str) -> dict[str, str]:
    """Module name to hash, for all modules that a stage (or one variant of it, see :func:`code_names`) runs."""
    stage, variant = code_names()[name]
    entry = STAGES[stage]
    roots, plugins = [entry.module], set()
    if variant:
        if (plugin := _registries()[entry.variants].plugin(variant)) is not None:
            plugins.add(plugin)
        else:
            roots.append(_module_of_entry(entry.variants, variant))
    closure = module_closure(roots)
    plugins |= _plugins_of(closure)
    own = {module: module_hash(module) for module in sorted(closure)}
    template = packaged(paths.TEMPLATES) / TEMPLATE
    if stage == "report" and template.is_file():
        own["stages.report.page, its template"] = hashlib.sha256(template.read_bytes()).hexdigest()[:16]
    return own | {key: digest for plugin in sorted(plugins) for key, digest in _package_hashes(plugin).items()}


@cache
def _registries() -> dict[str, Registry[Any]]:
    """The registries by the module that holds each."""
    from mergeline.architectures import ARCHITECTURES
    from mergeline.depth import PLACEMENTS
    from mergeline.matching import MATCHERS
    from mergeline.metrics import METRICS
    from mergeline.normalization import NORMALIZATIONS
    from mergeline.tasks import TASKS

    return {
        "mergeline.architectures": ARCHITECTURES, "mergeline.depth": PLACEMENTS, "mergeline.matching": MATCHERS,
        "mergeline.metrics": METRICS, "mergeline.normalization": NORMALIZATIONS, "mergeline.tasks": TASKS,
    }  # fmt: skip


def _plugins_of(closure: set[str]) -> set[str]:
    """Modules of installed packages that add to the registries which some modules import."""
    homes = {home: registry for home, registry in _registries().items() if home in closure}
    found = {registry.plugin(name) for registry in homes.values() for name in registry}
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


def _module_of_entry(home: str, name: str) -> str:
    """The module that defines an entry of a registry: the one that the registry's module imports it from."""
    registry = sys.modules[home]
    for node in ast.parse(_file(home).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                value = getattr(registry, alias.asname or alias.name, None)
                if value is _registries()[home][name]:
                    return node.module
    raise LookupError(f"no import in {home} gives {name!r}")


def module_closure(roots: list[str]) -> set[str]:
    """The project's modules that ``roots`` import, directly or not, with the roots themselves."""
    found: set[str] = set()
    todo = list(roots)
    while todo:
        module = todo.pop()
        if module in found:
            continue
        found.add(module)
        todo += [name for name in _imports(module) if name not in _apart()]
    return found - set(NOT_RESULTS)


@cache
def _apart() -> set[str]:
    """Registries that are not followed as a whole, as a stage runs one entry of each."""
    return {entry.variants for entry in STAGES.values() if entry.variants}


def planning_files() -> list[Path]:
    """Every file that planning may read: our own modules, with all registries, and those of plug-ins."""
    # All of our own modules: reading them takes less time than finding out which of them planning imports.
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    for registry in _registries().values():
        for name in registry:
            home = registry.plugin(name)
            source = getattr(sys.modules.get(home), "__file__", None) if home else None
            files |= {Path(source)} if source else set()
    return sorted(files)


def installed_code(root: Path) -> str | None:
    """The text of :data:`stages.plan.paths.CODE` for a benchmark that does not hold mergeline's code; None for one that does."""
    pipeline = root / paths.PIPELINE_FILE
    if not pipeline.is_file() or str(paths.CODE) not in pipeline.read_text(encoding="utf-8"):
        return None
    digest = hashlib.sha256("".join(_hash_of(path.read_text(encoding="utf-8")) for path in planning_files()).encode())
    return json_text({"mergeline": version("mergeline"), "code": digest.hexdigest()})


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
def module_hash(module: str) -> str:
    """The hash of one of the project's modules, without comments, docstrings and formatting."""
    return _hash_of(_file(module).read_text(encoding="utf-8"))


@cache
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
