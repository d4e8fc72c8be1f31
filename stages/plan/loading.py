"""Reading params.yaml: every fault is found before anything runs, and said with its key and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from stages.errors import InputError
from stages.formats import yaml12
from stages.plan import paths
from stages.plan.consistency import faults_of, suggestion
from stages.plan.params import Params

__all__ = ["ParamsError", "load_params", "parse_params", "read_params_file"]


class ParamsError(InputError):
    """``params.yaml`` is not valid; the message lists every fault with its key, what is allowed, and the fix."""


def read_params_file(path: Path) -> Any:
    """The plain values of a params file.

    Raises
    ------
    ParamsError: missing, no regular file, or not YAML.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise ParamsError(f"{path} is no regular file; take it away, and write the parameters to a file of that name")
    try:
        values = yaml12.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing. Make it a profile: mergeline run --profile demo") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} cannot be read: {error}") from error
    except yaml12.YamlError as error:
        raise ParamsError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected keys and values at the top, found {type(values).__name__}")
    return values


def parse_params(values: Any, origin: str = str(paths.PARAMS)) -> Params:
    """Check plain values against the schema.

    Raises
    ------
    ParamsError: every fault, one a line, with the key's path.
    """
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        lines = [line for fault in error.errors() for line in _fault_lines(fault, values)]
        raise _error(lines, origin) from None
    if faults := faults_of(params):
        raise _error(faults, origin)
    return params


def _error(lines: list[str], origin: str) -> ParamsError:
    return ParamsError("\n".join(f"{origin}: {line}" for line in dict.fromkeys(lines)))


def load_params(path: Path) -> Params:
    """Read and check a params file."""
    return parse_params(read_params_file(path), path.name)


def _fault_lines(fault: Any, values: Any) -> list[str]:
    location = [part for part in fault["loc"] if not _is_union_tag(part)]
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    message, kind = fault["msg"], fault["type"]
    if kind == "extra_forbidden":
        allowed = sorted(_fields_at(location[:-1]))
        return [f"{path}: unknown key{suggestion(str(location[-1]), allowed)}; allowed: {', '.join(allowed)}"]
    if kind == "missing":
        return [f"{path}: is missing"]
    given = fault.get("input")
    shown = f", got {given!r}" if isinstance(given, str | int | float | bool | None) else ""
    return [f"{path}: {message.removeprefix('Value error, ')}{shown}"]


def _is_union_tag(part: Any) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("str", "list"))


def _fields_at(location: list[Any]) -> list[str]:
    """The keys that the section at a path may have."""
    section: type[BaseModel] | None = Params
    inside_mapping = False
    for part in location:
        if inside_mapping:  # a name that the user chose, in tasks, methods or merges
            inside_mapping = False
        elif section is not None and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            inside_mapping = getattr(annotation, "__origin__", None) is dict
            section = _inner_section(annotation)
    return list(section.model_fields) if section is not None else []


def _inner_section(annotation: Any) -> type[BaseModel] | None:
    """The section class inside a field's type (behind dict, Optional and Annotated)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_inner_section(argument) for argument in getattr(annotation, "__args__", ()))
    return next((section for section in inner if section is not None), None)
