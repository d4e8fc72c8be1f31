"""How an edge model is trained: the one home of what overrides what, and of what of it an edge depends on.

From weak to strong: the defaults of the schema, the recipe of the architecture's design, what ``train`` or ``finetune`` sets in
params.yaml, ``recipes.ARCHITECTURE``, and the edge's own settings, which a sweep gives it.
"""

from __future__ import annotations

from typing import Any

from mergeline.architectures import ARCHITECTURES
from stages.plan.keys import INITIALIZATION, Edge
from stages.plan.params import Params, Training

__all__ = ["WITHOUT_MOMENTUM", "recipe_keys", "recipe_settings"]

WITHOUT_MOMENTUM = ("adamw",)
"""Optimizers that do not read the setting ``momentum``."""


def recipe_settings(params: Params, edge: Edge, section: str) -> dict[str, Any]:
    """Every setting of the schema's :class:`Training` as ``edge`` is trained. ``section``: ``train`` or ``finetune``."""
    settings = {key: value for key, value in edge.recipe if key != INITIALIZATION}
    for given in _sections(params, edge, section).values():  # no setting is read that a stronger one overrides
        settings |= {key: getattr(given, key) for key in given.model_fields_set if key not in settings}
    return Training().model_dump() | dict(ARCHITECTURES[edge.architecture].recipe) | settings


def recipe_keys(params: Params, edge: Edge, section: str) -> list[str]:
    """The parameters that :func:`recipe_settings` reads: of each section what nothing stronger overrides."""
    overridden = {key for key, _ in edge.recipe}
    found: list[str] = []
    for name, given in _sections(params, edge, section).items():
        chosen = given.model_fields_set
        found += [f"{name}.{key}" for key in sorted(chosen - overridden)] if overridden else [name]
        overridden |= chosen
    return found


def _sections(params: Params, edge: Edge, section: str) -> dict[str, Training]:
    """The sections of params.yaml that say how ``edge`` is trained, the stronger first."""
    own = params.recipes.get(edge.architecture)
    return ({} if own is None else {f"recipes.{edge.architecture}": own}) | {section: getattr(params, section)}
