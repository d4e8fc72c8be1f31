"""Changing ``params.yaml`` from the command line: one value, or a whole profile. Comments stay; nothing is lost."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.errors import InputError
from stages.formats import yaml12
from stages.formats.files import write_bytes
from stages.plan import paths
from stages.plan.loading import parse_params
from stages.plan.packaged import packaged

__all__ = ["apply_settings", "params_editor", "profile_path", "profiles", "proposal", "use_profile"]


def profiles(root: Path) -> dict[str, Path]:
    """Complete parameter files by name: those that come with mergeline, and the benchmark's own, which stand before them."""
    folders = (packaged(paths.PROFILES), root / paths.PROFILES)
    found = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    return dict(sorted(found.items()))


def profile_path(root: Path, name: str) -> Path:
    """A profile's file.

    Raises
    ------
    InputError: there is none of that name; lists those there are.
    """
    known = profiles(root)
    if name not in known:
        raise InputError(f"unknown profile {name!r}; known: {', '.join(known) or 'none'}")
    return known[name]


def use_profile(root: Path, name: str) -> Path | None:
    """Make ``params.yaml`` the profile's. What stood there is kept as a copy, whose path is the result, unless it was a
    profile itself or is the same."""
    source = profile_path(root, name)
    target = root / paths.PARAMS
    text = source.read_text(encoding="utf-8")
    kept = None
    if target.is_file():
        current = target.read_text(encoding="utf-8")
        if current == text:
            return None
        if all(current != path.read_text(encoding="utf-8") for path in profiles(root).values()):
            kept = _keep(root, target)
    write_bytes(target, text.encode())
    return kept


def params_editor() -> Any:
    """What reads and writes parameter files with their comments, in the form that people write them."""
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 4096
    editor.indent(mapping=2, sequence=4, offset=2)
    return editor


def apply_settings(root: Path, settings: Sequence[str]) -> Path | None:
    """Set values in ``params.yaml`` (``train.epochs=3``, ``seeds=[0,1]``); the path of the copy that is kept.

    Raises
    ------
    InputError: not ``key=value``, a key without a section, or a result that is not valid. Then nothing is changed.
    """
    target = root / paths.PARAMS
    text = target.read_text(encoding="utf-8")
    changed = with_settings(text, settings)
    if yaml12.load(changed) == yaml12.load(text):
        return None
    kept = _keep(root, target)
    write_bytes(target, changed.encode())
    return kept


def with_settings(text: str, settings: Sequence[str]) -> str:
    """The text of a params file with some values set.

    Raises
    ------
    InputError: as :func:`apply_settings`.
    """
    editor = params_editor()
    data = editor.load(text)
    for setting in settings:
        path, separator, value = setting.partition("=")
        if not separator or not path:
            raise InputError(f"--set {setting}: expected key=value, like train.epochs=3")
        _set(data, path.split("."), _on_one_line(_value(setting, value)))
    stream = io.StringIO()
    editor.dump(data, stream)
    changed = stream.getvalue()
    parse_params(yaml12.load(changed), f"{paths.PARAMS} with --set")
    return changed


def proposal(root: Path, profile: str | None, settings: Sequence[str]) -> str | None:
    """What ``params.yaml`` would be with a profile and settings; None where neither is given."""
    if profile is None and not settings:
        return None
    text = (profile_path(root, profile) if profile else root / paths.PARAMS).read_text(encoding="utf-8")
    return with_settings(text, settings) if settings else text


def _value(setting: str, text: str) -> Any:
    try:
        return yaml12.load(text)
    except yaml12.YamlError as error:
        raise InputError(f"--set {setting}: {error}") from error


def _on_one_line(value: Any) -> Any:
    """A list as people write it in a params file: ``[0, 1]``."""
    from ruamel.yaml.comments import CommentedSeq

    if not isinstance(value, list):
        return value
    entries = CommentedSeq(value)
    entries.fa.set_flow_style()
    return entries


def _set(data: Any, keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        if not isinstance(data.get(key), dict):
            raise InputError(f"--set {'.'.join(keys)}: there is no section {key!r} in params.yaml")
        data = data[key]
    data[keys[-1]] = value


def _keep(root: Path, path: Path) -> Path:
    folder = root / paths.KEPT_PARAMS
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"params-{time.strftime('%Y%m%d-%H%M%S')}.yaml"
    shutil.copyfile(path, kept)
    return kept
