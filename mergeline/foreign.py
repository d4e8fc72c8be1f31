"""Networks of other libraries and functions of one's own: ``torchvision:resnet18``, ``timm:NAME``, ``package.module:function``.

What makes them is only imported when a network is built.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mergeline.architectures import ARCHITECTURES, Design, known_names

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LIBRARIES", "ForeignError", "design_of", "learn", "library_names"]

LIBRARIES = ("torchvision", "timm")
"""Libraries whose networks are made by their names; any other name before the colon is a module with a function in it."""


class ForeignError(ValueError):
    """A name that nothing makes a network for; the message names the nearest one, or the fix."""


def learn(name: str, *, code: bool = True) -> None:
    """Make ``name`` an architecture, if it is none yet.

    Parameters
    ----------
    code: whether a function of any module may be called; not for names that were read from a file.

    Raises
    ------
    ForeignError: no such library, network, module or function.
    """
    if name not in ARCHITECTURES:
        ARCHITECTURES[name] = design_of(name, code=code)


def design_of(name: str, *, code: bool = True) -> Design:
    """What makes the networks of a name, without making it an architecture; as for :func:`learn`."""
    library, colon, own = name.partition(":")
    if not colon or not library or not own:
        near = difflib.get_close_matches(name, list(ARCHITECTURES), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ForeignError(
            f"unknown architecture {name!r}; {hint}known: {known_names()}; or torchvision:NAME, timm:NAME, package.module:function"
        )
    if library in LIBRARIES:
        _check_name(library, own)
        make = partial(_from_library, library, own)
    elif code:
        make = partial(_from_function, _function(library, own))
    else:
        raise ForeignError(
            f"{name} is a function, and none is called because a file names it; name the architecture yourself"
        )
    return Design(name, make, foreign=True, family=name)


def library_names(library: str) -> list[str]:
    """The networks for images that an installed library makes by their names.

    Raises
    ------
    ForeignError: it is not installed.
    """
    if importlib.util.find_spec(library) is None:
        raise ForeignError(f"{library} is not installed. Install it: pip install {library}")
    if library == "timm":
        import timm

        return list(timm.list_models())
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _check_name(library: str, own: str) -> None:
    known = library_names(library)
    if own.partition(".")[0] not in known:
        near = ", ".join(difflib.get_close_matches(own, known, 3))
        raise ForeignError(f"{library} has no network {own!r}" + (f"; did you mean {near}?" if near else ""))


def _from_library(library: str, own: str, num_classes: int, width: float, input_size: int) -> nn.Module:
    if library == "timm":
        import timm

        return timm.create_model(own, pretrained=False, num_classes=num_classes)
    import torchvision

    return torchvision.models.get_model(own, weights=None, num_classes=num_classes)


def _function(module: str, name: str) -> Callable[..., Any]:
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ForeignError(f"{module}:{name} cannot be imported: {error}; is its folder on PYTHONPATH?") from error
    if not callable(found):
        raise ForeignError(f"{module}:{name} is no function that makes a network, but a {type(found).__name__}")
    return found


def _from_function(function: Callable[..., Any], num_classes: int, width: float, input_size: int) -> nn.Module:
    """Called with what it takes of the number of classes, the width and the input size."""
    from torch import nn

    taken = inspect.signature(function).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    given = {"num_classes": num_classes, "width": width, "input_size": input_size}
    chosen = {name: value for name, value in given.items() if name in taken or (anything and name == "num_classes")}
    made = function(**chosen)
    if not isinstance(made, nn.Module):
        raise ForeignError(
            f"{function.__module__}:{function.__name__} made a {type(made).__name__} and no torch.nn.Module"
        )
    return made
