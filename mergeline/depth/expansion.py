"""Expanding a shallow network to a deep topology.

An expanded network has identity blocks where no block of its own stands and computes the same function, bit for bit in
eval mode on the same device where blocks add to their input or a plain network's activation allows it, to rounding where
a layer norm follows the sum (depth_heterogeneity App. C; heterogeneous_merging III-B and S1).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mergeline.architectures import Architecture, as_wide, build, multiplier
from mergeline.depth import PLACEMENTS
from mergeline.depth.append import APPEND
from mergeline.depth.blocks import Block, Chain, find_chains, stages_of
from mergeline.depth.identities import plain_identity, residual_identity, settle_norms
from mergeline.depth.placer import Depths, Placement, Placer
from mergeline.kinds import Kind
from mergeline.resizing import with_sizes
from mergeline.spaces.recording import run_on
from mergeline.tokens import VOCABULARY
from mergeline.unit_statistics import LayerStatistics, UnitStatistics

__all__ = ["Similarity", "block_counts", "expand", "expand_statistics", "expand_to", "noise", "own_names", "place"]

Similarity = Sequence[Any]
"""For each stage ``(deep blocks, shallow blocks)``, how alike the blocks are; see :mod:`mergeline.depth.similarity`."""

SAME = 1e-5
"""How far an expanded network's outputs may be from its own, relative to their size."""


def block_counts(chains: Sequence[Chain]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The blocks of each stage, of the shallow network and of the deep one."""
    stages = stages_of(chains)
    return tuple(len(stage.shallow) for stage in stages), tuple(len(stage.deep) for stage in stages)


@torch.no_grad()
def expand(
    model: nn.Module,
    deep: nn.Module,
    example: Any,
    placement: Placement | None = None,
    chains: Sequence[Chain] | None = None,
) -> nn.Module:
    """A copy of ``model`` with as many blocks as ``deep`` has, and the names of ``deep``; itself where nothing is to be added.

    Identity blocks have residual branch 0: convolutions and linear layers 0, batch-norm weight and bias 0, running mean 0,
    running variance 1, no projection. In a plain network an identity is a convolution whose kernel is 1 at its centre.

    Parameters
    ----------
    deep: a network of the deep topology; its weights are not read.
    example: a batch, on which the function is compared with the model's.
    placement: for each stage of ``chains``; ``append`` by default.
    chains: where the two differ, if that is known (:func:`mergeline.depth.blocks.find_chains`).

    Raises
    ------
    ValueError: the networks cannot be matched, the placement is none, or no identity block exists for them.
    """
    chains = find_chains(model, deep) if chains is None else chains
    if not chains:
        return model
    placement = place(chains, APPEND) if placement is None else placement
    _check_placement(placement, *block_counts(chains))
    expanded = deepcopy(model)
    own = iter(placement)
    inserted: list[tuple[nn.Module, nn.Module]] = []
    for chain in chains:
        inserted += _extend(expanded, deep, chain, [next(own) for _ in chain.stages])
    modes = {module: module.training for network in (model, expanded) for module in network.modules()}
    try:
        for network in (model, expanded):
            network.eval()
        settle_norms(expanded, inserted, example)
        _check_function(model, expanded, example)
    except RuntimeError as error:
        raise ValueError(f"the network cannot be expanded: with identity blocks it does not run: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    return expanded


def own_names(deep_names: Sequence[str], chains: Sequence[Chain], placement: Placement) -> dict[str, str | None]:
    """For each tensor or layer of the deep topology, the shallow network's name of it; None in an identity block."""
    prefixes: dict[str, str | None] = {}
    own = iter(placement)
    for chain in chains:
        start = f"{chain.path}." if chain.path else ""
        for at, source in _children(chain, [next(own) for _ in chain.stages]).items():
            prefixes[f"{start}{at}."] = None if source is None else f"{start}{source}."
    found: dict[str, str | None] = {}
    for name in deep_names:
        prefix = next((prefix for prefix in prefixes if f"{name}.".startswith(prefix)), "")
        source = prefixes[prefix] if prefix else ""
        found[name] = None if source is None else f"{source}{f'{name}.'[len(prefix) :]}".removesuffix(".")
    return found


def _children(chain: Chain, placed: Sequence[Sequence[int | None]]) -> dict[str, str | None]:
    """For each child of the deep network's container, in order, the shallow network's child that stands there."""
    found: dict[str, str | None] = {deep: shallow for shallow, deep in chain.others}
    for stage, blocks in zip(chain.stages, placed, strict=True):
        for names, block in zip(stage.deep, blocks, strict=True):
            source: Sequence[str | None] = [None] * len(names) if block is None else stage.shallow[block]
            found |= dict(zip(names, source, strict=True))
    return found


def _check_placement(placement: Placement, shallow: tuple[int, ...], deep: tuple[int, ...]) -> None:
    """Each stage has its own blocks, all of them, in order, the first where it was."""
    if len(placement) != len(deep):
        raise ValueError(f"a placement of {len(placement)} stages, where blocks {shallow} go into {deep}")
    for number, (blocks, own, total) in enumerate(zip(placement, shallow, deep, strict=True), 1):
        stands = [block for block in blocks if block is not None]
        if len(blocks) != total or stands != list(range(own)):
            raise ValueError(
                f"stage {number}: {blocks} does not place blocks 0 to {own - 1} among {total}, each once, in order"
            )
        if blocks[0] != 0:
            raise ValueError(f"stage {number}: its first block, the one with the projection, must stay first")


def _extend(
    model: nn.Module, deep: nn.Module, chain: Chain, placed: Sequence[Sequence[int | None]]
) -> list[tuple[nn.Module, nn.Module]]:
    """Put identities into a container of ``model``; each residual one with the module that it follows."""
    container, like = model.get_submodule(chain.path), deep.get_submodule(chain.path)
    own, theirs = dict(container.named_children()), dict(like.named_children())
    children: dict[str, nn.Module] = {
        at: own[name] for at, name in _children(chain, placed).items() if name is not None
    }
    inserted = []
    for stage, blocks in zip(chain.stages, placed, strict=True):
        before: Block = stage.deep[0]
        for names, block in zip(stage.deep, blocks, strict=True):
            if block is None and chain.residual:
                if len(stage.shallow) > 1:
                    pattern = own[stage.shallow[1][0]]
                else:  # there is a first block alone, which has a projection
                    sizes = _other_sizes(theirs[stage.deep[0][0]], own[stage.shallow[0][0]], chain.path)
                    pattern = with_sizes(theirs[names[0]], sizes) if sizes else theirs[names[0]]
                children[names[0]] = residual_identity(pattern)
                inserted.append((children[before[0]], children[names[0]]))
            elif block is None:
                made = plain_identity([children[name] for name in before], [theirs[name] for name in names], chain.path)
                children |= dict(zip(names, made, strict=True))
            before = names
    container._modules = {name: children[name] for name in theirs}
    return inserted


def _other_sizes(deep: nn.Module, shallow: nn.Module, path: str) -> dict[int, int]:
    """By the sizes of a deep network's block those of the shallow network's; empty where they are the same."""
    theirs, own = ({name: t for name, t in block.state_dict().items() if t.dim()} for block in (deep, shallow))
    found: dict[int, int] = {}
    for name in theirs.keys() & own.keys():
        for size, other in zip(theirs[name].shape[:2], own[name].shape[:2], strict=False):
            if found.setdefault(size, other) != other:
                raise ValueError(
                    f"the network cannot be expanded: it has one block alone in {path!r}, and of blocks of its widths {size} units "
                    f"of the deep network would be {found[size]} here and {other} there"
                )
    return found if any(size != other for size, other in found.items()) else {}


def _check_function(model: nn.Module, expanded: nn.Module, example: Any) -> None:
    outputs = [pytree.tree_leaves(run_on(network, example)) for network in (model, expanded)]
    for one, two in zip(*outputs, strict=True):
        if isinstance(one, Tensor) and one.is_floating_point():
            scale = float(one.abs().max()) or 1.0
            apart = float((one - two).abs().max()) if one.shape == two.shape else float("inf")
            if not apart <= SAME * scale:
                raise ValueError(
                    f"the network cannot be expanded: with identity blocks its outputs differ by {apart:.2g}, so that its blocks "
                    "do not add to what they are given"
                )


# -- the benchmark's architectures ------------------------------------------------------------------------------------


def expand_to(
    model: nn.Module, architecture: Architecture, deep_name: str, placement: str = "append", similarity: Similarity = ()
) -> tuple[nn.Module, Architecture]:
    """``model`` with the blocks of ``deep_name`` at its own width, its blocks placed by a placement of :data:`PLACEMENTS`; itself
    where nothing is to be added.

    ``similarity``: of the blocks, for a placement that compares them.

    Raises
    ------
    ValueError: there is no such architecture at the model's width, or the model cannot be expanded.
    """
    name = as_wide(deep_name, multiplier(architecture.name))
    if architecture.name == name:
        return model, architecture
    deep = Architecture(name, architecture.num_classes, architecture.width, architecture.input_size)
    like = build(deep)
    chains = find_chains(model, like)
    return expand(
        model,
        like,
        noise(architecture.input_size, architecture.reads),
        place(chains, PLACEMENTS[placement], similarity),
        chains,
    ), deep


def place(chains: Sequence[Chain], placer: Placer, similarity: Similarity = ()) -> Placement:
    """Where the blocks of the shallow network stand.

    Raises
    ------
    ValueError: it compares blocks and was given no similarity, or that of other blocks.
    """
    if placer.compares and not similarity and chains:
        raise ValueError(f"placement {placer.name!r} needs the similarity of the blocks")
    depths = Depths(*block_counts(chains), tuple(similarity) if placer.compares else ())
    return placer.place(depths, placer.options())


def noise(size: int, reads: Kind = "images") -> Tensor:
    """An input on which what a network computes shows: an image ``(1, 3, S, S)`` or a text ``(1, S)``; always the same."""
    generator = torch.Generator().manual_seed(0)
    if reads == "texts":
        return torch.randint(1, VOCABULARY, (1, size), generator=generator)
    return torch.randn(1, 3, size, size, generator=generator)


def expand_statistics(
    own: LayerStatistics,
    like: LayerStatistics,
    shallow: Architecture,
    deep: Architecture,
    placement: str,
    similarity: Similarity = (),
) -> dict[str, UnitStatistics] | None:
    """A shallow network's statistics by layer as its expansion has them: the residual branch of an identity block is 0.

    ``like``: statistics of a network of the deep topology, of any width, for its layers' names. None for plain networks, whose
    identities give what lies between the layers, of which there are no statistics.
    """
    with torch.device("meta"):
        network = build(deep)
        chains = find_chains(build(shallow), network)
    if not all(chain.residual for chain in chains):
        return None
    names = own_names(list(like), chains, place(chains, PLACEMENTS[placement], similarity))
    n = max((statistics.n for statistics in own.values()), default=0)
    units = {name: tensor.shape[0] for name, tensor in network.state_dict().items() if tensor.dim()}
    result = {}
    for name, statistics in like.items():
        source = names[name]
        zeros = statistics.mean.new_zeros(units[name])
        result[name] = UnitStatistics(n, zeros, zeros) if source is None else own[source]
    return result
