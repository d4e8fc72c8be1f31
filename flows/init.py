"""Making a benchmark in an empty folder: its parameters, pipeline and ignore files, git and DVC."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

from flows.editing import params_editor, profile_path
from mergeline.tasks import TASKS, TaskError
from mergeline.tasks.task import parted
from stages.errors import InputError
from stages.formats.files import write_bytes
from stages.plan import paths
from stages.plan.loading import parse_params
from stages.plan.packaged import packaged
from stages.plan.params import NAME

__all__ = ["Folder", "Model", "Setup", "folders_of", "make_benchmark"]

MADE = (paths.ARTIFACTS, paths.LOGS, paths.SCRATCH, paths.PREFECT)
IGNORED = "".join(f"/{folder}/\n" for folder in MADE) + f"__pycache__/\n/{paths.REPORTS}/*\n!/{paths.TEMPLATES}/\n"
DVC_IGNORED = "# What is no part of any dependency or output.\n__pycache__\n*.pyc\n"
CODE_HERE = "deps: [mergeline, stages]"
"""In the pipeline of a checkout of mergeline: its own folders."""
SIZES = ((48, 32), (10**9, 64))
"""Up to which median side of images networks read how many pixels; 224 is for those who have the machine for it."""
SAMPLED = 50


@dataclass(frozen=True)
class Folder:
    """A folder of images that becomes a task. ``side``: the median of the images' shorter sides, in pixels; ``notes``:
    what there is to say of it."""

    name: str
    root: Path
    classes: tuple[str, ...]
    images: int
    side: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """A checkpoint that becomes an edge model."""

    place: str
    architecture: str
    num_classes: int
    width: float
    input_size: int


@dataclass(frozen=True)
class Setup:
    """What a new benchmark is made of. ``profile``: its parameters' name; ``folders``: in place of the profile's tasks."""

    profile: str
    folders: Sequence[Folder] = ()
    models: Sequence[Model] = ()
    input_size: int | None = None


def folders_of(roots: Sequence[Path]) -> list[Folder]:
    """The tasks that folders of images make, each by its folder's name.

    Raises
    ------
    InputError: no folder, no images in it, one class alone, or a class with one image; names it and the fix.
    """
    found: list[Folder] = []
    for root in roots:
        try:
            found.append(_folder(root, _name(root, [own.name for own in found])))
        except TaskError as error:
            raise InputError(f"--images {root}: {error}") from None
    return found


def _folder(root: Path, name: str) -> Folder:
    raw = TASKS["folder"].load(TASKS["folder"].find(root))
    parted(name, raw)
    step = max(1, len(raw.samples) // SAMPLED)
    sides = [min(raw.samples[place].shape[:2]) for place in range(0, len(raw.samples), step)]
    return Folder(name, root, raw.classes, len(raw.samples), int(median(sides)), raw.said)


def _name(root: Path, taken: Sequence[str]) -> str:
    """A task's name from a folder's."""
    base = re.sub(r"[^a-z0-9]+", "-", root.resolve().name.lower()).strip("-")
    base = base if re.fullmatch(NAME, base) else f"task-{base}".strip("-")
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}-{count}"
    return name


def make_benchmark(target: Path, setup: Setup) -> list[str]:
    """Write a new benchmark; returns what there is to know of it, a line each. Nothing is left behind where it cannot be made.

    Raises
    ------
    InputError: the folder holds something already, an unknown profile, or checkpoints that fit no folder of images.
    """
    _check_empty(target)
    text = profile_path(target, setup.profile).read_text(encoding="utf-8")
    notes: list[str] = []
    if setup.folders:
        text, notes = _filled(text, target, setup)
    elif setup.models:
        raise InputError("--checkpoint stands in for a model of a task: name its images too, --images DIR")
    parse_params(_loaded(text), f"{target}/{paths.PARAMS}")
    existed = target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        notes += _set_up(target, text)
    except BaseException:
        _remove(target, keep=existed)
        raise
    return notes


def _check_empty(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; name a new folder")
    inside = sorted(path.name for path in target.iterdir() if path.name != ".git") if target.is_dir() else []
    if inside:
        raise InputError(f"{target} is not empty (it holds {', '.join(inside[:3])}); name a new folder")
    above = next(parent for parent in (target, *target.absolute().parents) if parent.exists())
    if not os.access(above, os.W_OK):
        raise InputError(f"{target} cannot be made: {above} may not be written to")


def _remove(target: Path, keep: bool) -> None:
    """Take back what was made, but for a folder (and its ``.git``) that was there before."""
    if not keep:
        shutil.rmtree(target, ignore_errors=True)
        return
    for path in target.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _set_up(target: Path, text: str) -> list[str]:
    pipeline = packaged(PurePosixPath(paths.PIPELINE_FILE)).read_text(encoding="utf-8")
    pipeline = pipeline.replace(CODE_HERE, f"deps: [{paths.CODE}]").replace(f", {paths.TEMPLATES}", "")
    for name, content in (
        (str(paths.PARAMS), text), (paths.PIPELINE_FILE, pipeline),
        (".gitignore", IGNORED), (".dvcignore", DVC_IGNORED),
        (".gitattributes", "pipelines/** linguist-generated -diff\ndvc.lock linguist-generated -diff\n"),
    ):  # fmt: skip
        write_bytes(target / name, content.encode())
    notes = []
    with_git = shutil.which("git") is not None
    below = False
    if with_git:
        asked = subprocess.run(
            ["git", "rev-parse", "--show-toplevel"], cwd=target, capture_output=True, text=True, check=False
        )
        below = asked.returncode == 0 and Path(asked.stdout.strip()) != target.resolve()
        if asked.returncode != 0:
            subprocess.run(["git", "init", "--quiet"], cwd=target, check=True, capture_output=True)
    else:
        notes.append("git is not installed: reports will not name a commit, and there is no history")
    from flows.dvc.initialise import initialise

    initialise(target, with_git, below)
    return notes


def _loaded(text: str) -> Any:
    from stages.formats import yaml12

    return yaml12.load(text)


def _filled(text: str, target: Path, setup: Setup) -> tuple[str, list[str]]:
    """A profile's parameters with one's own tasks, and checkpoints in place of edge models."""
    from ruamel.yaml.comments import CommentedMap

    editor = params_editor()
    params = editor.load(text)
    tasks = CommentedMap()
    for folder in setup.folders:
        own = CommentedMap(source="folder", root=_relative(folder.root, target))
        tasks[folder.name] = own
        tasks.yaml_add_eol_comment(
            f"{len(folder.classes)} classes, {folder.images} images, {folder.side} pixels", folder.name, 0
        )
    params["tasks"] = tasks
    names = [folder.name for folder in setup.folders]
    params["merges"] = _series(params, names)
    params["model"]["input_size"] = setup.input_size or next(
        size for side, size in SIZES if median(f.side for f in setup.folders) <= side
    )
    params["report"]["title"] = f"Merging networks of {', '.join(names)}"
    notes = [
        f"{own.name}: {len(own.classes)} classes, {own.images} images of about {own.side} pixels, from {own.root}"
        for own in setup.folders
    ]
    notes += [f"{own.name}: {note}" for own in setup.folders for note in own.notes]
    if setup.models:
        notes += _import(params, target, setup)
    text_out = io.StringIO()
    editor.dump(params, text_out)
    return text_out.getvalue(), notes


def _series(params: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Every task by itself, and one model of each of two tasks, as the profile's first series has it."""
    first = dict(next(iter(params["merges"].values())))
    series = {"same-task": {**first, "tasks": list(names)}}
    if len(names) > 1:
        pairs = [[one, other] for place, one in enumerate(names) for other in names[place + 1 :]]
        series["task-pairs"] = {"tasks": pairs, "homogeneous_only": True, "runs": "neighbours"}
    return series


def _import(params: Any, target: Path, setup: Setup) -> list[str]:
    """Put checkpoints in place of edge models; each is of the one task that has as many classes."""
    shapes = {(model.width, model.input_size) for model in setup.models}
    if len(shapes) > 1:
        raise InputError(
            f"--checkpoint: the networks differ in width or input size ({sorted(shapes)}); a benchmark has one of each"
        )
    params["model"]["width"], params["model"]["input_size"] = shapes.pop()
    counts: dict[tuple[str, str], int] = {}
    for model in setup.models:
        fitting = [folder.name for folder in setup.folders if len(folder.classes) == model.num_classes]
        if len(fitting) != 1:
            known = ", ".join(f"{folder.name} {len(folder.classes)}" for folder in setup.folders)
            raise InputError(
                f"--checkpoint {model.place} tells {model.num_classes} classes apart, as {len(fitting) or 'none'} of the folders "
                f"do ({known}); write it into imports of params.yaml yourself: TASK.{model.architecture}.s0"
            )
        key = (fitting[0], model.architecture)
        seed = counts.get(key, 0)
        counts[key] = seed + 1
        params["imports"][f"{key[0]}.{key[1]}.s{seed}"] = _relative_checkpoint(model.place, target)
    names = list(dict.fromkeys(architecture for _, architecture in counts))
    params["architectures"] = names
    params["report"]["simplicity_reference"] = names[0]
    most = max(counts.values())
    params["seeds"] = list(range(max(2, most)))
    return [f"{place} stands in for {edge}" for edge, place in params["imports"].items()]


def _relative(path: Path, target: Path) -> str:
    return os.path.relpath(path.resolve(), target.resolve())


def _relative_checkpoint(place: str, target: Path) -> str:
    file, mark, part = place.partition("#")
    return _relative(Path(file), target) + mark + part
