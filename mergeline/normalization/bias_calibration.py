"""``bias_calibration``: a bias weighs less the deeper its layer is (vanishing_feature Sec. 5.3), as features do that pass averaged
layers: ``b_l = sum_i w_i^l b_i`` with ``l`` counted from 1."""

from __future__ import annotations

from dataclasses import dataclass

from mergeline.normalization.idle import without_biases
from mergeline.normalization.normalizer import Finished, Normalizer

__all__ = ["BIAS_CALIBRATION", "BiasCalibrationOptions"]


@dataclass(frozen=True)
class BiasCalibrationOptions:
    """``bias_calibration`` has no options."""


def _run(finished: Finished, options: BiasCalibrationOptions) -> None:
    from mergeline.merging import UnitMerger
    from mergeline.normalization.merged_biases import merged_biases

    merger = UnitMerger(finished.spaces, finished.maps, finished.weights)
    states = [model.state_dict() for model in finished.sources.values()]
    for merged in merged_biases(finished):
        depth, name = merged.source.depth, merged.source.bias
        values = [
            state[name].double() * weight ** (depth - 1) for state, weight in zip(states, finished.weights, strict=True)
        ]
        bias = finished.network.get_parameter(merged.name)
        bias.copy_(merger.merge(name, 0, values))


BIAS_CALIBRATION = Normalizer(
    "bias_calibration",
    "biases weighed by each model's weight to the power of the layer's depth",
    BiasCalibrationOptions,
    _run,
    reads_images=False,
    idle=without_biases,
)
