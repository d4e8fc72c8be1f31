"""Where two networks differ in depth: the stages whose blocks one of them has more of, found from their modules.

Nothing is known of any architecture: a stage is a ``Sequential`` or ``ModuleList`` that both networks have at the same
place with another number of children. Its blocks are its children where these are of one kind (residual blocks of
ResNets, ConvNeXt and transformers), and else the runs from one layer to the next, which poolings part into stages (VGG).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

__all__ = ["Chain", "Stage", "find_chains", "stages_of"]

CONTAINERS = (nn.Sequential, nn.ModuleList)
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
BOUNDARIES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.FractionalMaxPool2d, nn.Upsample,
    nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle,
)  # fmt: skip
"""What changes the size of the maps, and so ends a stage of a plain network."""

Block = tuple[str, ...]
"""The names, inside of their container, of a block's modules in order."""


@dataclass(frozen=True)
class Stage:
    """Blocks of one container, in both networks, that can take each other's places."""

    shallow: tuple[Block, ...]
    deep: tuple[Block, ...]


@dataclass(frozen=True)
class Chain:
    """A container whose children differ in number. ``path``: its name in both networks; ``residual``: each of its blocks is
    one module that adds to what it is given."""

    path: str
    residual: bool
    stages: tuple[Stage, ...]
    others: tuple[tuple[str, str], ...] = field(default=())
    """Children that are no blocks: their names in the shallow and in the deep network."""


def find_chains(shallow: nn.Module, deep: nn.Module) -> tuple[Chain, ...]:
    """Every place where two networks differ in their number of blocks; empty where they differ in nothing.

    Raises
    ------
    ValueError: they differ in something else, or the stages cannot be matched; names the place and both block counts.
    """
    return tuple(_chains(shallow, deep, ""))


def stages_of(chains: Sequence[Chain]) -> tuple[Stage, ...]:
    """The stages of all chains, in order."""
    return tuple(stage for chain in chains for stage in chain.stages)


def _chains(shallow: nn.Module, deep: nn.Module, path: str) -> Iterator[Chain]:
    where = f"in {path!r}" if path else "at the top"
    if type(shallow) is not type(deep):
        raise ValueError(
            f"the networks cannot be matched: {where} one is a {type(shallow).__name__}, one a {type(deep).__name__}"
        )
    own, theirs = dict(shallow.named_children()), dict(deep.named_children())
    if isinstance(shallow, CONTAINERS) and len(own) != len(theirs):
        yield _chain(own, theirs, path)
        return
    if list(own) != list(theirs):
        odd = sorted(set(own) ^ set(theirs))
        raise ValueError(f"the networks cannot be matched: {where} only one of them has {', '.join(odd[:3])}")
    for name, child in own.items():
        yield from _chains(child, theirs[name], f"{path}.{name}" if path else name)


def _chain(own: dict[str, nn.Module], theirs: dict[str, nn.Module], path: str) -> Chain:
    if not own or not theirs:
        raise ValueError(f"the networks cannot be matched: {path!r} is empty in one of them")
    kinds = {type(child) for child in [*own.values(), *theirs.values()]}
    if len(kinds) == 1 and not kinds & {*LAYERS, *BOUNDARIES} and _has_layers(own, theirs):
        stage = Stage(tuple((name,) for name in own), tuple((name,) for name in theirs))
        _check_counts(path, [stage])
        return Chain(path, True, (stage,))
    first, second = _runs(own), _runs(theirs)
    parts = [[type(module) for _, module in others] for _, others in (first, second)]
    counts = [tuple(map(len, blocks)) for blocks, _ in (first, second)]
    if parts[0] != parts[1] or len(counts[0]) != len(counts[1]):
        between = [" ".join(kind.__name__ for kind in own) or "nothing" for own in parts]
        raise ValueError(
            f"the stages of {path!r} cannot be matched: one has {counts[0]} blocks and beside them {between[0]}, one {counts[1]} "
            f"and {between[1]}"
        )
    stages = [Stage(tuple(a), tuple(b)) for a, b in zip(first[0], second[0], strict=True)]
    _check_counts(path, stages)
    others = tuple((a, b) for (a, _), (b, _) in zip(first[1], second[1], strict=True))
    return Chain(path, False, tuple(stages), others)


def _has_layers(own: dict[str, nn.Module], theirs: dict[str, nn.Module]) -> bool:
    return all(next(child.parameters(), None) is not None for child in [*own.values(), *theirs.values()])


def _runs(children: dict[str, nn.Module]) -> tuple[list[list[Block]], list[tuple[str, nn.Module]]]:
    """The blocks of each stage of a plain chain, and the children that are none: those between them, and a last layer."""
    stages: list[list[Block]] = [[]]
    others: list[tuple[str, nn.Module]] = []
    for name, module in children.items():
        if isinstance(module, LAYERS):
            stages[-1].append((name,))
        elif not isinstance(module, BOUNDARIES) and stages[-1]:
            stages[-1][-1] += (name,)
        else:
            others.append((name, module))
            if stages[-1]:
                stages.append([])
    if stages[-1] and stages[-1][-1] == tuple(children)[-1:]:  # nothing follows the last layer: it makes the outputs
        name = stages[-1].pop()[0]
        others.append((name, children[name]))
    return [stage for stage in stages if stage], others


def _check_counts(path: str, stages: Sequence[Stage]) -> None:
    shallow, deep = (
        tuple(len(side) for side in sides) for sides in zip(*((s.shallow, s.deep) for s in stages), strict=True)
    )
    if any(own > total for own, total in zip(shallow, deep, strict=True)):
        raise ValueError(
            f"blocks {shallow} of {path!r} do not fit into {deep}: no stage may be longer than the deep network's"
        )
