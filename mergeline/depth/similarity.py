"""How alike the blocks of two networks are, stage by stage: what ``sma`` and ``lma`` place by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mergeline.cka import MinibatchCka, centred_gram, sample_rows
from mergeline.depth.blocks import Chain
from mergeline.spaces.recording import run_on

__all__ = ["block_similarity"]


@torch.no_grad()
def block_similarity(
    shallow: nn.Module, deep: nn.Module, chains: Sequence[Chain], batches: Iterable[Any]
) -> tuple[NDArray[np.float64], ...]:
    """Unbiased minibatch CKA of the blocks' outputs (heterogeneous_merging Sec. III-B), in one pass of either model.

    Parameters
    ----------
    shallow, deep: put in eval mode here; on one device. chains: where they differ (``find_chains``).
    batches: of the same inputs for both, at least 4 samples each.

    Returns
    -------
    For each stage ``(deep blocks, shallow blocks)``.

    Raises
    ------
    ValueError: no batches, one of fewer than 4 samples, a block that has no output of its own for each sample, or one whose
        outputs are not finite.
    """
    places = [(chain.path, stage) for chain in chains for stage in chain.stages]
    ends = [
        [[f"{path}.{block[-1]}".removeprefix(".") for block in blocks] for blocks in (stage.deep, stage.shallow)]
        for path, stage in places
    ]
    found = [MinibatchCka() for _ in places]
    for model in (deep, shallow):
        model.eval()
    names = [[name for own in ends for name in own[side]] for side in range(2)]
    with _watched(deep, names[0]) as one, _watched(shallow, names[1]) as two:
        for batch in batches:
            run_on(deep, batch)
            run_on(shallow, batch)
            for similarity, own in zip(found, ends, strict=True):
                similarity.add(
                    *([_gram(seen, name) for name in side] for seen, side in zip((one, two), own, strict=True))
                )
            one.clear()
            two.clear()
    return tuple(similarity.matrix() for similarity in found)


def _gram(seen: dict[str, Tensor], name: str) -> Tensor:
    if name not in seen:
        raise ValueError(f"blocks cannot be compared: {name!r} was not run")
    if not bool(torch.isfinite(seen[name]).all()):
        raise ValueError(f"blocks cannot be compared: {name!r} gives values that are not finite")
    return seen[name]


@contextmanager
def _watched(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The Gram matrices of some modules' last outputs, by name; taken at once, as what comes next may overwrite them."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name in dict.fromkeys(names):

        def keep(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            tensor = next(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))
            seen[name] = centred_gram(sample_rows(tensor).float())

        handles.append(model.get_submodule(name).register_forward_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
