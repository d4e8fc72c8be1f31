"""What a network's logits on labelled images are scored by, behind one registry.

A new metric is one file with a :class:`Metric` and one line here: evaluations, the table of results and its audit read
them from this registry.
"""

from __future__ import annotations

from mergeline.metrics.accuracy import ACCURACY
from mergeline.metrics.calibration import CALIBRATION_ERROR
from mergeline.metrics.loss import LOSS
from mergeline.metrics.mean_iou import MEAN_IOU
from mergeline.metrics.metric import Metric
from mergeline.registry import Registry

__all__ = ["METRICS", "Metric"]

METRICS: Registry[Metric] = Registry(
    "metric", "mergeline.metrics", Metric, (ACCURACY, LOSS, CALIBRATION_ERROR, MEAN_IOU)
)
