"""``bias_removal``: the biases of the last layers are 0 (vanishing_feature Sec. 5.3, A.6.1)."""

from __future__ import annotations

from dataclasses import dataclass

from mergeline.normalization.idle import without_biases
from mergeline.normalization.normalizer import Finished, Normalizer

__all__ = ["BIAS_REMOVAL", "BiasRemovalOptions"]


@dataclass(frozen=True)
class BiasRemovalOptions:
    """``layers``: how many of the last layers lose their bias, counted on the longest path; the paper found 5 to 6 best."""

    layers: int = 5

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"bias_removal: layers must be 1 at least, got {self.layers}")


def _run(finished: Finished, options: BiasRemovalOptions) -> None:
    from mergeline.normalization.merged_biases import merged_biases
    from mergeline.spaces.layers import node_depths

    most = max(node_depths(finished.spaces.graph).values())
    for merged in merged_biases(finished):
        if merged.source.depth > most - options.layers:
            finished.network.get_parameter(merged.name).zero_()


BIAS_REMOVAL = Normalizer(
    "bias_removal",
    "biases of the last layers set to 0",
    BiasRemovalOptions,
    _run,
    reads_images=False,
    idle=without_biases,
)
