"""The architectures by name: what describes a network without building it.

Nothing here loads torch before a network is built, so that a benchmark can be planned and checked at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mergeline.kinds import Kind, Target
from mergeline.registry import Registry

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ARCHITECTURES",
    "BLOCKS",
    "GROUP_NORM_GROUPS",
    "INPUT_SIZES",
    "Architecture",
    "Design",
    "as_wide",
    "build",
    "deepest",
    "difference",
    "known_names",
    "multiplier",
    "size_mismatch",
    "stage_blocks",
]

BLOCKS: dict[str, tuple[int, int, int, int]] = {
    "r17": (1, 1, 2, 1),
    "r26": (2, 2, 2, 2),
    "r29": (2, 2, 3, 2),
    "r35": (2, 3, 4, 2),
    "r50": (3, 4, 6, 3),
    "r101": (3, 4, 23, 3),
    "r152": (3, 8, 36, 3),
}
"""Bottleneck blocks in each of the four stages (depth_heterogeneity Table 1)."""

VGG_BLOCKS: dict[str, tuple[int, int, int, int, int]] = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions between the poolings."""

VIT_BLOCKS = (4, 6, 8, 12)
"""Blocks of the vision transformers."""

INPUT_SIZES = (32, 64, 224)
"""Pixels, each with a stem of its own; or tokens of a text."""

GROUP_NORM_GROUPS = 8


@dataclass(frozen=True)
class Design:
    """An architecture: what makes its networks, and what is known of it without building one.

    ``make``: called with ``num_classes``, ``width`` and ``input_size``; loads torch only then. ``blocks``: per stage, empty
    where depth is not counted so. ``batch_norms``: whether it has any, if that is known. ``check``: raises ValueError for a
    description that it cannot build. ``compares``: what compares its units with each other, so that their number cannot change,
    if that is known. ``family``: its architectures differ in their blocks and their ``multiplier`` alone, which is how many times
    the channels there are. ``reads``: what its inputs are. ``tells``: what its outputs are of, "pixels" also where these have
    values. ``recipe``: settings of a training (fields of :class:`mergeline.training.Recipe`) where its networks need others than
    usual. ``foreign``: another library's, or a function's (:mod:`mergeline.foreign`): its inputs have any size,
    and it is no architecture of a benchmark.
    """

    name: str
    make: Callable[..., nn.Module]
    blocks: tuple[int, ...] = ()
    batch_norms: bool | None = None
    check: Callable[[Architecture], None] | None = None
    compares: str = ""
    family: str = ""
    multiplier: float = 1.0
    reads: Kind = "images"
    tells: Target = "classes"
    recipe: Mapping[str, Any] = field(default_factory=dict, hash=False)
    foreign: bool = False


def _wider(design: Design, times: int) -> Design:
    """The same with ``times`` the channels: ``r26x2``, ``vgg11x2-bn``."""

    def make(width: float, **sizes: Any) -> nn.Module:
        return design.make(width=times * width, **sizes)

    base, dash, norm = design.name.partition("-")
    return replace(design, name=f"{base}x{times}{dash}{norm}", make=make, multiplier=times * design.multiplier)


def _bottleneck(name: str) -> Design:
    def make(**sizes: Any) -> nn.Module:
        from mergeline.models.resnet import BottleneckResNet

        return BottleneckResNet(BLOCKS[name], **sizes)

    return Design(name, make, BLOCKS[name], batch_norms=True, family="bottleneck")


def _segmenter(name: str) -> Design:
    def make(**sizes: Any) -> nn.Module:
        from mergeline.models.segmenter import Segmenter

        return Segmenter(BLOCKS[name], **sizes)

    return Design(f"{name}-seg", make, BLOCKS[name], batch_norms=True, family="segmenter", tells="pixels")


SEGMENTERS = ("r17", "r26", "r50")


def _segmenter20(**sizes: Any) -> nn.Module:
    from torch import nn

    from mergeline.models.segmenter import Segmenter20

    return Segmenter20(nn.BatchNorm2d, **sizes)


def _resnet20(**sizes: Any) -> nn.Module:
    from torch import nn

    from mergeline.models.resnet20 import ResNet20

    return ResNet20(nn.BatchNorm2d, **sizes)


def _resnet20_gn(**sizes: Any) -> nn.Module:
    from mergeline.models.resnet20 import ResNet20, group_norm

    return ResNet20(group_norm(GROUP_NORM_GROUPS), **sizes)


def _check_groups(architecture: Architecture) -> None:
    if round(16 * architecture.width) % GROUP_NORM_GROUPS:
        raise ValueError(
            f"architecture {architecture.name!r}: group norm needs 16 * width divisible by {GROUP_NORM_GROUPS}, "
            f"got width={architecture.width}; take 0.5, 1, 2, ..."
        )


def _vgg(layers: str, norm: str) -> Design:
    def make(**sizes: Any) -> nn.Module:
        from torch import nn

        from mergeline.models.vgg import VGG, ChannelNorm, layer_plan

        return VGG(layer_plan(VGG_BLOCKS[layers]), {"": None, "-bn": nn.BatchNorm2d, "-ln": ChannelNorm}[norm], **sizes)

    family = "" if norm == "-ln" else f"vgg{norm}"  # behind a layer norm no layer can be an identity
    compares, blocks = ("layer norm", ()) if norm == "-ln" else ("", VGG_BLOCKS[layers])
    return Design(layers + norm, make, blocks, norm == "-bn", compares=compares, family=family)


def _linear(name: str, depth: int, residual: bool = False) -> Design:
    def make(num_classes: int, width: float, input_size: int) -> nn.Module:
        from mergeline.models.linear import LinearNetwork

        return LinearNetwork(depth, num_classes, 3 * input_size**2, max(1, round(32 * width)), residual)

    return Design(name, make, batch_norms=False)


BERT_LAYERS = (3, 6, 12)
FINETUNED: dict[str, Any] = {
    "optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 0.01, "warmup": 0.1, "batch_size": 32, "epochs": 2,
}  # fmt: skip
"""How BERT's encoders are trained on from weights that are trained already."""


def _bert(layers: int) -> Design:
    """MiniLM's shape, whose two depths come with trained weights: 12 heads of 32 units."""

    def make(num_classes: int, width: float, input_size: int) -> nn.Module:
        from mergeline.models.bert import BertShape, SentenceBert
        from mergeline.tokens import VOCABULARY

        dim = 12 * max(1, round(32 * width))
        return SentenceBert(BertShape(VOCABULARY, layers, dim, 12, 4 * dim, max(512, input_size)), num_classes)

    return Design(
        f"bert{layers}",
        make,
        (layers,),
        batch_norms=False,
        compares="layer norm",
        family="bert",
        reads="texts",
        recipe=FINETUNED,
    )


TRANSFORMER: dict[str, Any] = {
    "optimizer": "adamw", "learning_rate": 3e-3, "weight_decay": 0.05, "warmup": 0.2, "batch_size": 32, "epochs": 10,
}  # fmt: skip
"""How vision transformers are trained from scratch on small data."""


def _vit(depth: int) -> Design:
    def make(**sizes: Any) -> nn.Module:
        from mergeline.models.vit import ViT

        return ViT(depth, **sizes)

    return Design(
        f"vit{depth}", make, (depth,), batch_norms=False, compares="layer norm", family="vit", recipe=TRANSFORMER
    )


def _swin(**sizes: Any) -> nn.Module:
    from mergeline.models.swin import swin

    return swin(**sizes)


RESNET20 = Design("resnet20", _resnet20, batch_norms=True, family="resnet20")

NARROW: tuple[Design, ...] = (
    *(_bottleneck(name) for name in BLOCKS),
    RESNET20,
    _wider(RESNET20, 4),
    Design("resnet20-gn", _resnet20_gn, batch_norms=False, check=_check_groups, compares="group norm"),
    *(_vgg(layers, norm) for layers in VGG_BLOCKS for norm in ("", "-bn", "-ln")),
    _linear("linear5", 5),
    _linear("linear5-res", 5, residual=True),
    _linear("linear8", 8),
    *(_vit(depth) for depth in VIT_BLOCKS),
    Design("swin", _swin, batch_norms=False, compares="layer norm", recipe=TRANSFORMER),
    *map(_bert, BERT_LAYERS),
    *map(_segmenter, SEGMENTERS),
    Design("r20-seg", _segmenter20, batch_norms=True, family="segmenter20", tells="pixels"),
)
WIDER = (2, 4)
"""Times the channels at which there are bottleneck ResNets and VGG, those with layer norm left out: it compares units with each
other, so that theirs cannot be mapped to another number of them."""
WIDENED = ("bottleneck", "vgg", "vgg-bn")
"""The families of these."""

ARCHITECTURES: Registry[Design] = Registry(
    "architecture",
    "mergeline.architectures",
    Design,
    (*NARROW, *(_wider(design, times) for design in NARROW if design.family in WIDENED for times in WIDER)),
)
"""Bottleneck ResNets (width 1 is 64 channels), ResNet-20 (16 channels; x4: 64), VGG (64 channels), linear networks (32 units),
vision transformers (three heads of 64 units), Swin (heads of 32 units) and BERT's encoders (12 heads of 32 units), which read
texts; ``r26-seg`` and its like tell the class of every pixel, or its value; ``NAMEx2`` has twice the channels of ``NAME``."""


@dataclass(frozen=True)
class Architecture:
    """What it takes to build a network again: its name, classes, width multiplier and input size in pixels (or tokens)."""

    name: str
    num_classes: int
    width: float = 1.0
    input_size: int = 224

    def __post_init__(self) -> None:
        if self.name not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {self.name!r}; known: {known_names()}")
        if self.num_classes < 1 or not 0 < self.width < math.inf:
            raise ValueError(
                f"architecture {self.name!r}: needs num_classes >= 1 and width > 0, "
                f"got num_classes={self.num_classes}, width={self.width}"
            )
        if self.input_size not in INPUT_SIZES and not ARCHITECTURES[self.name].foreign:
            raise ValueError(f"input size {self.input_size} has no stem; known: {', '.join(map(str, INPUT_SIZES))}")
        check = ARCHITECTURES[self.name].check
        if check is not None:
            check(self)

    @property
    def reads(self) -> Kind:
        """What the network's inputs are."""
        return ARCHITECTURES[self.name].reads


INITIALIZATIONS = ("kaiming_normal", "kaiming_uniform")
"""How the weights of convolutions and linear layers can be drawn anew; see :data:`mergeline.models.init.INITIALIZERS`."""


def build(architecture: Architecture, seed: int | None = None, initialization: str | None = None) -> nn.Module:
    """The network of ``architecture``; with ``seed`` its initial weights depend on that seed alone.

    ``initialization``: one of :data:`INITIALIZATIONS`, in place of the architecture's own.
    """
    import torch

    from mergeline.models.init import INITIALIZERS

    make = partial(
        ARCHITECTURES[architecture.name].make,
        num_classes=architecture.num_classes,
        width=architecture.width,
        input_size=architecture.input_size,
    )
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        network = make()
        if initialization is not None:
            INITIALIZERS[initialization](network)
        return network


def known_names() -> str:
    """The architectures in words: those of more channels are not named one by one."""
    narrow = [name for name, design in ARCHITECTURES.items() if design.multiplier == 1 and not design.foreign]
    wider = next((name for name, design in ARCHITECTURES.items() if design.multiplier == 2), "")
    return ", ".join(narrow) + (f"; and wider ones such as {wider}" if wider else "")


def stage_blocks(name: str) -> tuple[int, ...]:
    """Residual blocks per stage of the architecture ``name``; empty where depth is not counted in blocks."""
    return ARCHITECTURES[name].blocks if name in ARCHITECTURES else ()


def multiplier(name: str) -> float:
    """How many times the channels of its family the architecture ``name`` has; 1 for one that is not known."""
    return ARCHITECTURES[name].multiplier if name in ARCHITECTURES else 1.0


def _family(name: str) -> str:
    return ARCHITECTURES[name].family if name in ARCHITECTURES else ""


def as_wide(name: str, channels: float) -> str:
    """The architecture with the blocks of ``name`` and ``channels`` times the channels of its family.

    Raises
    ------
    ValueError: there is none.

    >>> as_wide("r50x2", 1)
    'r50'
    """
    if multiplier(name) == channels:
        return name
    for other, design in ARCHITECTURES.items():
        same = (design.family, design.blocks) == (_family(name), stage_blocks(name))
        if design.family and same and design.multiplier == channels:
            return other
    raise ValueError(f"there is no architecture with the blocks of {name} and {channels:g} times the channels")


def deepest(names: Sequence[str]) -> str:
    """The architecture whose topology holds all the others: the blocks of the deepest, the channels of the widest.

    Raises
    ------
    ValueError: no one of them has at least as many blocks as every other in every stage, or none is as wide with them.

    >>> deepest(["r17", "r50", "r35"])
    'r50'
    >>> deepest(["r50", "r26x2"])
    'r50x2'
    """
    for name in names:
        if all(other == name or _holds(name, other) for other in names):
            return as_wide(name, max(map(multiplier, names)))
    raise ValueError(
        f"none of {', '.join(names)} can hold the others: depths and widths can differ only within one family"
    )


def _holds(deep: str, shallow: str) -> bool:
    if _family(deep) != _family(shallow):
        return False
    counts = stage_blocks(deep), stage_blocks(shallow)
    if not counts[0] and not _family(deep):
        return False
    return len(counts[0]) == len(counts[1]) and all(d >= s for d, s in zip(*counts, strict=True))


def difference(names: Iterable[str]) -> str:
    """What architectures that are merged differ in: "depths", "widths", "depths and widths", or "" for one alone.

    >>> difference(["r26x2", "r26"])
    'widths'
    """
    kinds = set(names)
    widths = len(set(map(multiplier, kinds))) > 1
    depths = len(kinds) > 1 and (not widths or len({(_family(name), stage_blocks(name)) for name in kinds}) > 1)
    return " and ".join(word for word, differ in (("depths", depths), ("widths", widths)) if differ)


def size_mismatch(first: str, second: str) -> float:
    """Per stage ``|n_A - n_B| / max(n_A, n_B)`` blocks, averaged over stages (depth_heterogeneity Sec. 3); widths do not count.

    >>> size_mismatch("r50", "r50")
    0.0
    """
    pairs = list(zip(stage_blocks(first), stage_blocks(second), strict=True))
    return sum(abs(a - b) / max(a, b) for a, b in pairs) / len(pairs) if pairs else 0.0
