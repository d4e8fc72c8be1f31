"""Stage ``report``: ``reports/index.html``, one file with everything in it: what was run, findings, figures, tables."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from stages import papers as reference
from stages.formats.files import read_json, writing
from stages.git import git_says
from stages.plan import paths
from stages.plan.expansion import base_edge
from stages.plan.packaged import local_or_packaged
from stages.plan.params import Params
from stages.plan.pipelines import Plan, make_plan
from stages.plan.recipes import recipe_settings
from stages.report.catalogue import ALL_FIGURES
from stages.report.downloads import address_of, rows_of
from stages.report.figures import FigureData
from stages.report.findings import sentences
from stages.report.glossary import glossary
from stages.report.plot import figure_data
from stages.report.rows import score_word
from stages.report.stage_graph import stage_graph
from stages.report.tables import TABLES

__all__ = ["run"]

PACKAGES = ("mergeline", "torch", "numpy", "scipy", "pyarrow", "dvc", "prefect", "matplotlib")


def run(context: Any, cell: str) -> None:
    """There is one; ``cell`` is not used."""
    params: Params = context.params
    root: Path = context.root
    data = figure_data(params, root)
    plan = make_plan(params)
    timings = _timings(root)
    environment = Environment(
        loader=FileSystemLoader(local_or_packaged(root, paths.TEMPLATES)), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["breakable"] = breakable
    text = environment.get_template("index.html.j2").render(
        title=params.report.title,
        facts=_facts(root, data, timings),
        params=yaml.safe_dump(params.model_dump(mode="json") | _recipes(params, plan), sort_keys=False),
        findings=sentences(data),
        audit=read_json(context.path(paths.AUDIT)),
        repeat=_repeat(root),
        words=glossary(params, plan),
        figures=(figures := _figures(root, data.word)),
        sources=_sources(root, [figure["source"] for figure in figures]),
        tables=_tables(root, data),
        data_hashes=_data_hashes(data),
        graph=stage_graph(plan, list(params.tasks)),
        timings=timings,
        papers=_papers(params.report.papers),
        method=data.method,
    )
    with writing(context.path(paths.PAGE)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _repeat(root: Path) -> list[str]:
    """The commands that make this page again, from the code of its commit."""
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    return [*([f"git checkout {commit}"] if commit else []), "mergeline run"]


def _sources(root: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Every file that figures are drawn from, with its rows."""
    found = []
    for name in dict.fromkeys(names):
        path = root / paths.ARTIFACTS / name
        if path.suffix == ".parquet" and path.is_file():
            file = f"{Path(name).stem}.csv.gz"
            found.append({"name": name, "id": anchor(name), "file": file, **rows_of(path)})
    return found


def breakable(name: object) -> Markup:
    """A name as HTML that a narrow column may break behind each +."""
    return escape(name).replace("+", Markup("+<wbr>"))


def anchor(name: str) -> str:
    """Where a file's rows stand in the page."""
    return "rows-" + re.sub(r"[^a-z0-9]+", "-", name.lower())


def _recipes(params: Params, plan: Plan) -> dict[str, dict[str, Any]]:
    """The recipes by architecture, defaults filled in: all settings of those that are not trained as ``train`` says.

    Of an architecture that is finetuned alone, those of its finetuning.
    """
    found: dict[str, Any] = {}
    for edge in sorted(plan.edges, key=lambda edge: base_edge(params, edge) is not None):
        if edge.trained and not edge.recipe and str(edge) not in params.imports:
            section = "train" if base_edge(params, edge) is None else "finetune"
            settings = recipe_settings(params, edge, section)
            if settings != getattr(params, section).model_dump():
                found.setdefault(edge.architecture, settings)
    return {"recipes": found}


def _facts(root: Path, data: FigureData, timings: list[dict[str, Any]]) -> list[tuple[str, str]]:
    merges = {row["cell"] for row in data.rows if row["kind"] == "merge"}
    edges = {row["cell"] for row in data.rows if row["kind"] == "edge"}
    smaller = {kind: {row["cell"] for row in data.rows if row["kind"] == kind} for kind in ("pruned", "narrowed")}
    seconds = sum(entry["seconds"] for entry in timings)
    versions = ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name)))
    return [
        ("merges", f"{len(merges)} of {len(edges)} edge models"),
        *((f"{kind} networks", str(len(cells))) for kind, cells in smaller.items() if cells),
        ("commit", _commit(root)),
        ("machine", f"{platform.machine()}, {os.cpu_count()} cores, {_device()}, Python {platform.python_version()}"),
        ("versions", versions),
        *_judged(data),
        ("stage time", f"{seconds / 60:.1f} minutes over all stages' last runs"),
    ]


def _commit(root: Path) -> str:
    """The commit that is checked out, with its date; whether there is anything else in the folder."""
    commit = _git(root, "rev-parse", "--verify", "--quiet", "--short=12", "HEAD")
    if not commit:
        return "none: git keeps nothing of this yet"
    date = _git(root, "show", "--no-patch", "--format=%cs", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit} of {date}" + (" with changes that are not committed" if changed else "")


def _judged(data: FigureData) -> list[tuple[str, str]]:
    """What stands in place of accuracy, where some tasks are judged by something else."""
    if data.word == "accuracy":
        return []
    words = {row["tasks"]: score_word([row]) for row in data.rows if row["kind"] == "edge"}
    said = ", ".join(f"{task} by {word}" for task, word in words.items())
    return [
        (
            "judged by",
            f"{said}; these stand where tables, figures and findings say score or accuracy, and means over tasks are of them (R²: "
            "share of the variance of the pixels' values that is explained, 0 for their mean and less for what is worse)",
        )
    ]


def _git(root: Path, *arguments: str) -> str:
    return (git_says(root, *arguments) or "").strip()


def _device() -> str:
    driver = Path("/proc/driver/nvidia/gpus")
    names = [
        line.partition(":")[2].strip()
        for path in (sorted(driver.glob("*/information")) if driver.is_dir() else [])
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("Model:")
    ]
    return ", ".join(names) if names else "no GPU"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _worded(text: str, word: str) -> str:
    """A title or caption of a benchmark that is judged by something else than accuracy."""
    if word == "accuracy":
        return text
    several = word if word.endswith("²") else f"{word}s"
    return (
        text.replace("Accuracy", word.capitalize())
        .replace("Training accuracy", f"Training {word}")
        .replace("accuracies", several)
    )


def _figures(root: Path, word: str) -> list[dict[str, Any]]:
    found = []
    for spec in ALL_FIGURES:
        path = root / paths.FIGURES / f"{spec.name}.svg"
        if path.is_file():
            svg = path.read_text(encoding="utf-8")
            found.append(
                {
                    "name": spec.name, "title": _worded(spec.title, word), "caption": _worded(spec.caption, word),
                    "rows": spec.rows,
                    "wide": _width(svg) > COLUMN, "table": spec.table, "source": spec.source, "rows_at": anchor(spec.source),
                    "svg": _inline(svg),
                }
            )  # fmt: skip
    return found


COLUMN = 440.0
"""Points up to which a figure stands beside another; one of several panels has a line of its own."""


def _width(svg: str) -> float:
    found = re.search(r'<svg[^>]*? width="([\d.]+)pt"', svg)
    return float(found[1]) if found else 0.0


def _inline(svg: str) -> str:
    """An SVG to stand inside a page: scaled by the page, its ink in the page's colour."""
    svg = re.sub(r"^.*?(?=<svg)", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("#4a4a4a", "currentColor")


def _tables(root: Path, data: FigureData) -> list[dict[str, Any]]:
    found = []
    for spec in TABLES:
        header, lines = spec.make(data)
        if lines:
            found.append(
                {
                    "name": spec.name, "title": spec.title, "caption": _worded(spec.caption, data.word),
                    "header": header, "lines": lines, "files": _files(root, spec.name),
                    "words": [_words(column) for column in zip(*lines, strict=True)],
                }
            )  # fmt: skip
    return found


def _files(root: Path, name: str) -> list[dict[str, str]]:
    """A table's own files, to be taken out of the page."""
    kinds = {"CSV": ("csv", "text/csv"), "Markdown": ("md", "text/markdown")}
    found = {word: (root / paths.TABLES / f"{name}.{ending}", kind) for word, (ending, kind) in kinds.items()}
    return [
        {"word": word, "file": path.name, "address": address_of(path.read_bytes(), kind)}
        for word, (path, kind) in found.items()
        if path.is_file()
    ]


def _words(column: Sequence[Any]) -> bool:
    """Whether a column holds words, which are set from the left, and no numbers."""
    said = [str(value) for value in column if value not in ("", None, "missing")]
    return bool(said) and not any(re.match(r"[+-]?\d", text) for text in said)


def _data_hashes(data: FigureData) -> list[tuple[str, str]]:
    hashes: dict[str, str] = {}
    for row in data.rows:
        for part in (row["data"] or "").split():
            task, _, digest = part.partition("=")
            hashes[task] = digest
    return sorted(hashes.items())


def _timings(root: Path) -> list[dict[str, Any]]:
    """Seconds by kind of stage, from the notes that stages leave beside their results."""
    folder = root / paths.TIMINGS
    groups: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            groups.setdefault(entry["stage"], []).append(float(entry["seconds"]))
        except (OSError, ValueError, KeyError):
            continue
    total = sum(sum(values) for values in groups.values()) or 1.0
    rows = [
        {"stage": name, "count": len(values), "seconds": sum(values), "share": sum(values) / total}
        for name, values in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def _papers(chosen: Sequence[str]) -> list[dict[str, Any]]:
    """The papers that are followed, and those of their tables that stand beside the numbers here."""
    return [
        {
            "title": paper.title, "authors": paper.authors, "link": paper.link,
            "tables": [
                {"name": table, "text": reference.format_table(table, rows)}
                for table, rows in reference.tables(name).items()
                if table in chosen
            ],
        }
        for name, paper in reference.PAPERS.items()
    ]  # fmt: skip
