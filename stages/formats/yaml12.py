"""Reading YAML as YAML 1.2 has it, and refusing what would be read wrongly in silence.

``1e-3`` is a number, ``on`` and ``no`` are words, and a key that stands twice is an error: the same values that DVC
reads.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["YamlError", "load"]


class YamlError(ValueError):
    """The text is not YAML, or a key stands twice."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlError(f"line {line}: a key must be a word or a number")
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise YamlError(f"line {line}: the key {key!r} already stands in line {seen[key]}")
            seen[key] = line
        return super().construct_mapping(node, deep)


_REPLACED = ("bool", "int", "float", "timestamp")
_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0].rsplit(":", 1)[-1] not in _REPLACED]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern, _firsts in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", rf"{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), list(_firsts))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))  # 010 is ten


def load(text: str) -> Any:
    """The value of a YAML text.

    Raises
    ------
    YamlError: with the line and what is wrong there.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise YamlError(f"{where}{getattr(error, 'problem', None) or error}") from error
