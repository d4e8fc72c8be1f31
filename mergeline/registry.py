"""Registries: what there is of a kind (methods, normalisations, placements, architectures, tasks), by name.

Those that come with mergeline stand in the registry's own module. An installed package adds its own by an entry point
in the registry's group, ``name = "package.module:ENTRY"``; they are loaded when the registry is first read. Anything
can be added at run time, as to a dictionary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import fields
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from types import NoneType, UnionType
from typing import Any, Generic, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["Named", "PluginError", "Registry", "entry_and_options", "options_of"]


class Named(Protocol):
    """What a registry holds."""

    @property
    def name(self) -> str: ...


class PluginError(ValueError):
    """An installed package's entry cannot be used; the message names the entry point and the package."""


T = TypeVar("T", bound=Named)
Options = TypeVar("Options")


class Registry(MutableMapping[str, T], Generic[T]):
    """Entries by name, in order: the project's own, then those of installed packages, then what is added at run time.

    Parameters
    ----------
    kind: what an entry is called in messages.
    group: the entry points that add to it.
    of: the type of an entry.
    own: the project's own entries.
    """

    def __init__(self, kind: str, group: str, of: type[T], own: Iterable[T]) -> None:
        self.kind = kind
        self.group = group
        self._of = of
        self._entries: dict[str, T] = {entry.name: entry for entry in own}
        self._plugins: dict[str, str] = {}
        self._loaded = False

    def __getitem__(self, name: str) -> T:
        self._load()
        try:
            return self._entries[name]
        except KeyError:
            raise KeyError(f"unknown {self.kind} {name!r}; known: {', '.join(self._entries)}") from None

    def __setitem__(self, name: str, entry: T) -> None:
        self._load()
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        self._load()
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._entries)

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def plugin(self, name: str) -> str | None:
        """The module that an installed package's entry comes from; None for the project's own."""
        self._load()
        return self._plugins.get(name)

    def _load(self) -> None:
        """Add what installed packages have, once.

        Raises
        ------
        PluginError: an entry cannot be loaded, is none of this kind, or takes a name that there is.
        """
        if self._loaded:
            return
        self._loaded = True
        try:
            for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
                entry = self._entry(point)
                self._entries[entry.name] = entry
                self._plugins[entry.name] = point.module
        except PluginError:
            self._loaded = False  # the next reader is told too
            raise

    def _entry(self, point: EntryPoint) -> T:
        package = point.dist.name if point.dist is not None else "an installed package"
        where = f"plug-in {point.name!r} of {package} ({self.group}: {point.value})"
        try:
            entry = point.load()
        except Exception as error:  # whatever its import runs into
            raise PluginError(
                f"{where} cannot be loaded: {type(error).__name__}: {error}; mend or uninstall it"
            ) from error
        if not isinstance(entry, self._of):
            raise PluginError(f"{where} is a {type(entry).__name__}, not a {self._of.__name__}; mend or uninstall it")
        if entry.name != point.name:
            raise PluginError(f"{where} calls itself {entry.name!r}; the entry point must have that name")
        if entry.name in self._entries and entry.name not in self._plugins:
            raise PluginError(f"{where}: there is a {self.kind} of that name already; rename or uninstall it")
        return entry


def entry_and_options(
    kind: str, name: str, entries: Mapping[str, Any], given: Mapping[str, object] | None
) -> tuple[Any, Any]:
    """An entry of a registry, and its options with some of them given.

    ``kind``: what an entry is called in errors.

    Raises
    ------
    ValueError: an unknown entry or option, with those that there are; or a value that the options refuse.
    """
    if name not in entries:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(entries)}")
    try:
        return entries[name], options_of(entries[name].options, given or {})
    except ValueError as error:
        raise ValueError(f"{kind} {name!r} {error}") from None


def options_of(kind: type[Options], given: Mapping[str, object]) -> Options:
    """Options (a dataclass) with some of them given.

    Raises
    ------
    ValueError: an option that there is not, or a value of another type than it has: a text in place of a switch, say.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    types = get_type_hints(kind)
    for key, value in given.items():
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"has no option {key!r}; {hint}options: {', '.join(known) or 'none'}")
        if not _is(value, types[key]):
            raise ValueError(f"option {key} is {value!r}, and takes {_said(types[key])}")
    return kind(**given)


def _is(value: object, kind: Any) -> bool:
    """Whether a value is of a type, as they are written for options; a whole number is a number, and neither a switch nor
    infinity is one."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(_is(value, one) for one in get_args(kind))
    if kind in (int, float):
        number = isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
        return number and math.isfinite(value)  # type: ignore[arg-type]
    return not isinstance(kind, type) or isinstance(value, kind)


def _said(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_said, get_args(kind)))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "nothing"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))
