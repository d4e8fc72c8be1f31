"""What a network's logits on labelled images are scored by, behind one registry.

A new metric is one file with a :class:`Metric` and one line here: evaluations, the table of results and its audit read
them from this registry. What a target is judged by first is said here too, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping

from mergeline.kinds import Target
from mergeline.metrics.accuracy import ACCURACY
from mergeline.metrics.calibration import CALIBRATION_ERROR
from mergeline.metrics.l1 import L1
from mergeline.metrics.loss import LOSS
from mergeline.metrics.mean_iou import MEAN_IOU
from mergeline.metrics.metric import Metric
from mergeline.metrics.r2 import R2
from mergeline.registry import Registry

__all__ = ["MAIN", "METRICS", "SCALED", "Metric", "main_metric"]

METRICS: Registry[Metric] = Registry(
    "metric", "mergeline.metrics", Metric, (ACCURACY, LOSS, CALIBRATION_ERROR, MEAN_IOU, L1, R2)
)

MAIN: Mapping[Target, str] = {"classes": ACCURACY.name, "pixels": ACCURACY.name, "values": R2.name}
"""By target, the metric that headlines, comparisons and judges read.

In all of them higher is better and 1 is perfect, so that means over tasks, and ratios of what is missing to 1, say something.
"""
SCALED: Mapping[Target, str] = {"pixels": MEAN_IOU.name, "values": R2.name}
"""By target of pixels, the metric of which a merge has a share of its sources'."""


def main_metric(target: Target) -> Metric:
    """What a task with such labels is judged by."""
    return METRICS[MAIN[target]]
