"""Expanding a shallow network to a deep topology.

An expanded network has identity blocks where no block of its own stands and computes the same function, bit for bit in
eval mode on the same device (depth_heterogeneity App. C; heterogeneous_merging III-B).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mergeline.architectures import Architecture, build, stage_blocks
from mergeline.depth import PLACEMENTS
from mergeline.depth.placer import Placement, Placer
from mergeline.unit_statistics import LayerStatistics, UnitStatistics

__all__ = ["expand", "expand_statistics", "expand_to"]


def expand(state: Mapping[str, Tensor], deep: Architecture, placement: Placement) -> dict[str, Tensor]:
    """The state dict of a shallow bottleneck ResNet, expanded to ``deep``'s topology.

    Identity blocks have residual branch 0: convolutions 0, batch-norm weight and bias 0, running mean 0, running
    variance 1, no projection.

    Raises
    ------
    ValueError: the projection of a stage is not on its first block, or a tensor does not fit ``deep``.
    """
    target = build(deep).state_dict()
    moved = _moved_blocks(placement)
    result: dict[str, Tensor] = {}
    for name, like in target.items():
        source = _own_name(name, moved)
        if source is None:
            result[name] = torch.ones_like(like) if name.endswith("running_var") else torch.zeros_like(like)
            continue
        if source not in state:
            raise ValueError(f"{source!r} is missing from the state dict that is to be expanded to {deep.name}")
        if state[source].shape != like.shape:
            raise ValueError(
                f"{source!r} has shape {tuple(state[source].shape)}, {deep.name} at width {deep.width} "
                f"has {tuple(like.shape)}"
            )
        result[name] = state[source].clone()
    return result


def _moved_blocks(placement: Placement) -> dict[str, str]:
    """For each block of the deep topology that is one of the shallow network's, that block's name."""
    moved: dict[str, str] = {}
    for stage, blocks in enumerate(placement):
        if blocks and blocks[0] != 0:
            raise ValueError(f"stage {stage + 1}: its first block, the one with the projection, must stay first")
        for position, own in enumerate(blocks):
            if own is not None:
                moved[f"layer{stage + 1}.{position}."] = f"layer{stage + 1}.{own}."
    return moved


def _own_name(name: str, moved: Mapping[str, str]) -> str | None:
    """What the shallow network calls a tensor of the deep topology; None in an identity block."""
    prefix = ".".join(name.split(".")[:2]) + "." if name.startswith("layer") else ""
    if prefix and prefix not in moved:
        return None
    return moved[prefix] + name[len(prefix) :] if prefix else name


def expand_statistics(
    own: LayerStatistics, like: LayerStatistics, shallow: str, deep: str, placer: Placer
) -> dict[str, UnitStatistics]:
    """A shallow network's statistics by layer as its expansion has them: the residual branch of an identity block is 0.

    ``like``: statistics of a network of the deep topology, for its layers' names and sizes.
    """
    moved = _moved_blocks(placer.place(stage_blocks(shallow), stage_blocks(deep), placer.options()))
    n = max((statistics.n for statistics in own.values()), default=0)
    result = {}
    for name, statistics in like.items():
        source = _own_name(name, moved)
        zeros = torch.zeros_like(statistics.mean)
        result[name] = UnitStatistics(n, zeros, zeros) if source is None else own[source]
    return result


def expand_to(
    model: nn.Module, architecture: Architecture, deep_name: str, placement: str = "append"
) -> tuple[nn.Module, Architecture]:
    """``model`` in the topology of ``deep_name``, its blocks placed by a placement of :data:`PLACEMENTS`; itself where
    nothing is to be added."""
    if architecture.name == deep_name:
        return model, architecture
    deep = Architecture(deep_name, architecture.num_classes, architecture.width, architecture.input_size)
    placer = PLACEMENTS[placement]
    placed = placer.place(stage_blocks(architecture.name), stage_blocks(deep_name), placer.options())
    expanded = build(deep)
    expanded.load_state_dict(expand(model.state_dict(), deep, placed))
    return expanded.train(model.training), deep
