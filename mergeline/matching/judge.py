"""How good a merge is by its accuracy (R² of values) on training images: what options are chosen by that the data must decide.

mudsc Sec. 4 chooses its balance so. Never judge on test images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mergeline.evaluation import target_of
from mergeline.heads import MultiHead
from mergeline.maps import UnitMap
from mergeline.metrics.tally import tally_of
from mergeline.network import assemble, normalise
from mergeline.normalization.reset import RESET
from mergeline.spaces import Spaces

__all__ = ["TrainingAccuracy"]


@dataclass(frozen=True)
class TrainingAccuracy:
    """Called with each model's maps: merges, recomputes batch statistics, and answers the mean accuracy over tasks.

    Tasks of values count with their own main metric (:data:`mergeline.metrics.MAIN`).

    Parameters
    ----------
    models: by head, of one topology up to their classifiers.
    batches: by head, normalised images ``(B, C, H, W)`` of its task and labels ``(B,)`` (or of every pixel, or its values), on the
        models' device. Where ``same_outputs``, heads of one task may share them.
    same_outputs: the models' outputs mean the same: one network of all layers in place of a trunk with a head for each.
    weights: each model's weight; uniform by default.
    readouts: by head, what turns outputs into logits (see :mod:`mergeline.text`); by default they are.
    """

    models: Mapping[str, nn.Module]
    spaces: Spaces
    batches: Mapping[str, Sequence[tuple[Tensor, Tensor]]]
    same_outputs: bool = False
    weights: Sequence[float] | None = None
    readouts: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, maps: Sequence[Mapping[str, UnitMap]]) -> float:
        network = self._merged(maps)
        scores = []
        for name, batches in self.batches.items():
            readout = self.readouts.get(name, lambda outputs: outputs)
            told = tally_of(target_of(batches[0][1]), batches[0][1].device)
            for images, labels in batches:
                outputs = network(images)
                told.add(readout(outputs[name] if isinstance(network, MultiHead) else outputs), labels.flatten())
            scores.append(told.value)
        return sum(scores) / len(scores)

    def _merged(self, maps: Sequence[Mapping[str, UnitMap]]) -> nn.Module:
        own = {name: [images for images, _ in batches] for name, batches in self.batches.items()}
        network = assemble(self.models, self.spaces, maps, same_outputs=self.same_outputs, weights=self.weights)
        return normalise(
            network, RESET.name, models=self.models, spaces=self.spaces, maps=maps, weights=self.weights,
            mixed=[images for parts in own.values() for images in parts], own=own,
        )  # fmt: skip
