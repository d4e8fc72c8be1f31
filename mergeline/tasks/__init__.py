"""Tasks: labelled images or texts that edge models are trained on, one adapter each, behind one registry."""

from __future__ import annotations

from mergeline.registry import Registry
from mergeline.tasks.cifar import CIFAR10, CIFAR100
from mergeline.tasks.dense import COVERMAP, MASKS, VOC, WATERMAP
from mergeline.tasks.folders import (
    CUB,
    DTD,
    EUROSAT,
    FASHION,
    IMAGENET,
    INFOGRAPH,
    MNIST,
    NABIRDS,
    SVHN,
)
from mergeline.tasks.own_folder import FOLDER
from mergeline.tasks.packaged import DIGITS, FONTDIGITS, LANDCOVER, LETTERS, OPTDIGITS
from mergeline.tasks.pets import DOGS, PETS
from mergeline.tasks.task import Adapter, PreparedTask, RawTask, RawTexts, TaskError, prepare
from mergeline.tasks.texts import PACKAGES, SPAM, TEXTS, TWEETS, VERSES
from mergeline.tasks.values import ELEVATION, NIGHTLIGHTS, NYUV2, TASKONOMY

__all__ = ["TASKS", "Adapter", "PreparedTask", "RawTask", "RawTexts", "TaskError", "prepare"]

TASKS: Registry[Adapter] = Registry(
    "task",
    "mergeline.tasks",
    Adapter,
    (
        DIGITS, OPTDIGITS, LANDCOVER, FASHION, LETTERS, FONTDIGITS, MNIST, SVHN, EUROSAT, DTD, CUB, NABIRDS, INFOGRAPH, DOGS,
        PETS, CIFAR10, CIFAR100, IMAGENET, FOLDER, TWEETS, VERSES, SPAM, PACKAGES, TEXTS, COVERMAP, WATERMAP, VOC, MASKS,
        ELEVATION, NIGHTLIGHTS, NYUV2, *TASKONOMY,
    ),
)  # fmt: skip
