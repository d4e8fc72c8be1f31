"""Models of different widths: the widths of the network that they are merged into (heterogeneous_merging Sec. III-C).

Every model is traced by itself; the traces must be of one graph, with the same spaces in the same places, whose sizes alone
differ. The merged network has in each space as many units as the widest model, or as many as are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from mergeline.matching import MATCHERS, Matcher
from mergeline.resizing import resized, resized_shapes
from mergeline.sources import check_same_constants, check_same_names, check_same_topology, first_difference
from mergeline.spaces import Space, Spaces, trace
from mergeline.spaces.recording import record

__all__ = ["LEAST", "Width", "as_widest", "fitted", "merged_sizes"]

Width = float | Mapping[str, int]
"""Of a merged network: a share of the widest model's units in every space, or units by space."""
LEAST = 2
"""Units that a space has at least: one alone can take no other's place, and a trace does not follow it."""

Sizes = Mapping[str, list[int]]


def fitted(
    networks: Mapping[str, nn.Module],
    spaces: Spaces,
    matcher: Matcher,
    width: Width | None = None,
    same_outputs: bool = True,
) -> tuple[Spaces, nn.Module]:
    """The merged network's spaces, with each model's own where widths differ, and a network that has them.

    Parameters
    ----------
    networks: of one graph, of any widths.
    spaces: the first network's.
    width: what the merged network's spaces are to have, see :func:`merged_sizes`.
    same_outputs: the models' outputs mean the same; else their sizes may differ, and stay.

    Raises
    ------
    ValueError: the models differ in more than their widths; or the method, or a space, allows no other width.
    """
    check_same_names(networks)
    check_same_constants(networks, spaces)
    first = next(iter(networks.values()))
    others = [name for name, matcher in MATCHERS.items() if matcher.widths != "equal"]
    if matcher.widths == "equal" or (width is None and _one_width(networks, spaces, same_outputs)):
        if width is not None:
            raise ValueError(f"method {matcher.name!r} keeps the models' width; width is for {', '.join(others)}")
        check_same_topology(
            networks, spaces, same_outputs,
            f"models of different width are merged by {' and '.join(others)}, not by {matcher.name!r}",
        )  # fmt: skip
        return spaces, first
    own, units = _measured(networks, spaces, same_outputs)
    sizes = merged_sizes(spaces, units, width)
    if all(set(found) == {sizes[name]} for name, found in units.items()):
        return spaces, first
    _check_method(matcher, units, sizes)
    return _joined(networks, own, sizes, same_outputs)


def as_widest(networks: Mapping[str, nn.Module], spaces: Spaces, same_outputs: bool = True) -> tuple[Spaces, nn.Module]:
    """The spaces of a network as wide as the widest model in each, with every model's own where widths differ, and such a network.

    What :func:`fitted` gives any method that takes different widths; where all are of one width, ``spaces`` and the first model.

    Parameters
    ----------
    networks: of one graph, of any widths.
    spaces: the first network's.
    same_outputs: the models' outputs mean the same; else their sizes may differ, and stay.

    Raises
    ------
    ValueError: the models differ in more than their widths, or a space allows one width alone.
    """
    check_same_names(networks)
    check_same_constants(networks, spaces)
    if _one_width(networks, spaces, same_outputs):
        return spaces, next(iter(networks.values()))
    own, units = _measured(networks, spaces, same_outputs)
    return _joined(networks, own, merged_sizes(spaces, units), same_outputs)


def _measured(
    networks: Mapping[str, nn.Module], spaces: Spaces, same_outputs: bool
) -> tuple[dict[str, Spaces], dict[str, list[int]]]:
    """Each network's own spaces, and how many units each space has in each network."""
    own = _own_spaces(networks, spaces, same_outputs)
    return own, {space.name: [its[space.name].size for its in own.values()] for space in spaces.movable}


def _joined(
    networks: Mapping[str, nn.Module], own: Mapping[str, Spaces], sizes: Mapping[str, int], same_outputs: bool
) -> tuple[Spaces, nn.Module]:
    """The spaces of the merged sizes, with each network's own, and a network that has them."""
    reference, merged = _reference(networks, own, sizes)
    first = next(iter(own.values()))
    _check_shapes(networks, own, reference, sizes, frozenset() if same_outputs else first.output_tensors)
    return replace(merged, models=tuple(own.values())), reference


def merged_sizes(spaces: Spaces, units: Sizes, width: Width | None = None) -> dict[str, int]:
    """How many units each space of the merged network has.

    Parameters
    ----------
    units: of each space, how many each model has.
    width: a share of the widest model's units (rounded), in every space; or units by space, where spaces that are not named
        are as wide as the widest model; by default that for all.

    Raises
    ------
    ValueError: fewer than two units or more than all models have together, an unknown space, or a space whose units are
        compared with each other or stay in bundles, so that their number cannot change.
    """
    widest = {name: max(found) for name, found in units.items()}
    if width is None:
        sizes = widest
    elif isinstance(width, Mapping):
        odd = sorted(set(width) - set(widest))
        if odd:
            raise ValueError(f"width: unknown space {odd[0]!r}; this network's are: {', '.join(widest)}")
        sizes = widest | {name: _whole(name, asked) for name, asked in width.items()}
    else:
        share = _share(width)
        sizes = {name: max(min(LEAST, size), round(share * size)) for name, size in widest.items()}
    for name, size in sizes.items():
        if not min(LEAST, widest[name]) <= size <= sum(units[name]):
            raise ValueError(
                f"width: space {name!r} cannot have {size} units: {LEAST} at least, and at most the "
                f"{' + '.join(map(str, units[name]))} that the models have"
            )
        reason = _rigid(spaces, spaces[name])
        if reason and set(units[name]) != {size}:
            raise ValueError(
                f"space {name!r} has {', '.join(map(str, units[name]))} units in the models and is to have {size}, but {reason}: "
                "it must have one width. A width for other spaces alone is given by their names"
            )
    return sizes


def _share(width: object) -> float:
    if isinstance(width, bool) or not isinstance(width, int | float) or not width > 0:
        raise ValueError(f"width must be a share of the widest model's units above 0, or units by space, got {width!r}")
    return float(width)


def _whole(name: str, asked: object) -> int:
    if isinstance(asked, bool) or not isinstance(asked, int):
        raise ValueError(f"width: space {name!r} must have a whole number of units, got {asked!r}")
    return asked


def _rigid(spaces: Spaces, space: Space) -> str:
    """Why a space's number of units cannot change; empty where it can."""
    if space.compared:
        return f"{space.compared} compares its units with each other, which no other number of them commutes with"
    if space.bundles > 1:
        return f"its units stay in {space.bundles} bundles (heads, or groups)"
    if any(other.bundle_space == space.name for other in spaces.movable):
        return "its units are bundles (heads, or groups) of others"
    return "" if space.observations else "its units are seen nowhere"


def _one_width(networks: Mapping[str, nn.Module], spaces: Spaces, same_outputs: bool) -> bool:
    """Whether all tensors of all networks have the same shapes."""
    apart = frozenset() if same_outputs else spaces.output_tensors
    first, *others = (
        {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name not in apart}
        for network in networks.values()
    )
    return all(first == other for other in others)


def _own_spaces(networks: Mapping[str, nn.Module], spaces: Spaces, same_outputs: bool) -> dict[str, Spaces]:
    """Each network's own spaces, those of equal shapes traced once.

    Raises
    ------
    ValueError: a network computes something else than the first, or has other spaces; names both.
    """
    first = next(iter(networks))
    known: dict[tuple[tuple[int, ...], ...], Spaces] = {}
    own = {}
    for name, network in networks.items():
        shapes = tuple(tuple(tensor.shape) for tensor in network.state_dict().values())
        recording = record(network, spaces.example) if shapes in known else None
        if recording is None:
            known[shapes] = spaces if name == first else trace(network, spaces.example)
        its = own[name] = known[shapes]
        difference = first_difference(spaces.recording, recording or its.recording) or _other_spaces(spaces, its)
        if difference:
            raise ValueError(f"model {name!r} differs from {first!r} in more than its widths: {difference}")
        for space in spaces:
            if spaces[space].fixed and same_outputs and spaces[space].size != its[space].size:
                raise ValueError(
                    f"model {name!r} has {its[space].size} units in {space!r}, {first!r} {spaces[space].size}; models of "
                    "different outputs go in a mapping, not in a list"
                )
    return own


def _other_spaces(ours: Spaces, theirs: Spaces) -> str:
    """What is not the same in two traces but for the spaces' sizes; empty if all is."""
    if [node.name for node in ours.graph.nodes] != [node.name for node in theirs.graph.nodes]:
        return "its operations are called differently"
    odd = [name for name in [*ours, *theirs] if name not in ours or name not in theirs]
    if odd or list(ours) != list(theirs):
        return (
            f"one of them has a space {odd[0]!r} that the other has not (one unit alone is none)"
            if odd
            else "its spaces have another order"
        )
    return next(
        (
            f"the units of space {name!r} stand in other places"
            for name in ours
            if _places(ours[name]) != _places(theirs[name])
        ),
        "",
    )


def _places(space: Space) -> object:
    """Where a space's units stand, however many they are."""
    return (
        [(axis.tensor, axis.axis, axis.repeat, axis.produces) for axis in space.axes],
        [(place.node, place.axes, place.index.shape[1]) for place in space.observations],
        (space.bundles > 1, space.bundle_space, space.fixed),
    )


def _check_method(matcher: Matcher, units: Sizes, sizes: Mapping[str, int]) -> None:
    if matcher.widths == "any":
        return
    for name, size in sizes.items():
        if size not in units[name]:
            raise ValueError(
                f"method {matcher.name!r} maps units to those of a model, but space {name!r} is to have {size} units and the "
                f"models have {', '.join(map(str, units[name]))}; choose one of them, or zip"
            )


def _reference(
    networks: Mapping[str, nn.Module], own: Mapping[str, Spaces], sizes: Mapping[str, int]
) -> tuple[nn.Module, Spaces]:
    """A network of the merged widths, and its spaces: a model that has them, or else one made from the widest."""
    for name, its in own.items():
        if all(its[space].size == size for space, size in sizes.items()):
            return networks[name], its
    widest = max(own, key=lambda name: sum(space.size for space in own[name].movable))
    return resized(networks[widest], own[widest], sizes)


def _check_shapes(
    networks: Mapping[str, nn.Module],
    own: Mapping[str, Spaces],
    reference: nn.Module,
    sizes: Mapping[str, int],
    apart: frozenset[str],
) -> None:
    """Every tensor of every model must have the merged network's shape once its units are mapped."""
    wanted = {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}
    for name, network in networks.items():
        for key, shape in resized_shapes(network, own[name], sizes).items():
            if key not in apart and shape != wanted[key]:
                raise ValueError(
                    f"model {name!r}: {key!r} has shape {tuple(network.state_dict()[key].shape)}, which its widths do not bring "
                    f"to the merged network's {wanted[key]}"
                )
