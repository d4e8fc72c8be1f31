"""Depth: which block of a shallow network stands where in a deep topology, and the expansion.

An expanded network has identity blocks where no block of its own stands and computes the same function, bit for bit in
eval mode on the same device (depth_heterogeneity App. C; heterogeneous_merging III-B).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mergeline.architectures import Architecture, stage_blocks
from mergeline.models import build

__all__ = ["Placement", "expand", "expand_to", "place_append"]

Placement = tuple[tuple[int | None, ...], ...]
"""For each stage and each block of the deep topology: the shallow block that stands there, or None (identity)."""


def place_append(shallow: Sequence[int], deep: Sequence[int]) -> Placement:
    """Shallow blocks first, in order; identity blocks at the end of each stage (depth_heterogeneity App. C).

    >>> place_append((1, 2), (2, 2))
    ((0, None), (0, 1))
    """
    if len(shallow) != len(deep) or any(s > d for s, d in zip(shallow, deep, strict=True)):
        raise ValueError(f"blocks {tuple(shallow)} do not fit into {tuple(deep)}")
    return tuple(
        tuple(position if position < own else None for position in range(total))
        for own, total in zip(shallow, deep, strict=True)
    )


def expand(state: Mapping[str, Tensor], deep: Architecture, placement: Placement) -> dict[str, Tensor]:
    """The state dict of a shallow bottleneck ResNet, expanded to ``deep``'s topology.

    Identity blocks have residual branch 0: convolutions 0, batch-norm weight and bias 0, running mean 0, running
    variance 1, no projection.

    Raises
    ------
    ValueError: the projection of a stage is not on its first block, or a tensor does not fit ``deep``.
    """
    target = build(deep).state_dict()
    moved: dict[str, str] = {}
    for stage, blocks in enumerate(placement):
        if blocks and blocks[0] != 0:
            raise ValueError(f"stage {stage + 1}: its first block, the one with the projection, must stay first")
        for position, own in enumerate(blocks):
            if own is not None:
                moved[f"layer{stage + 1}.{position}."] = f"layer{stage + 1}.{own}."
    result: dict[str, Tensor] = {}
    for name, like in target.items():
        prefix = ".".join(name.split(".")[:2]) + "." if name.startswith("layer") else ""
        if prefix and prefix not in moved:
            result[name] = torch.ones_like(like) if name.endswith("running_var") else torch.zeros_like(like)
            continue
        source = moved[prefix] + name[len(prefix) :] if prefix else name
        if source not in state:
            raise ValueError(f"{source!r} is missing from the state dict that is to be expanded to {deep.name}")
        if state[source].shape != like.shape:
            raise ValueError(
                f"{source!r} has shape {tuple(state[source].shape)}, {deep.name} at width {deep.width} "
                f"has {tuple(like.shape)}"
            )
        result[name] = state[source].clone()
    return result


def expand_to(model: nn.Module, architecture: Architecture, deep_name: str) -> tuple[nn.Module, Architecture]:
    """``model`` in the topology of ``deep_name`` (appended identity blocks); itself where nothing is to be added."""
    if architecture.name == deep_name:
        return model, architecture
    deep = Architecture(deep_name, architecture.num_classes, architecture.width, architecture.input_size)
    placement = place_append(stage_blocks(architecture.name), stage_blocks(deep_name))
    expanded = build(deep)
    expanded.load_state_dict(expand(model.state_dict(), deep, placement))
    return expanded.train(model.training), deep
