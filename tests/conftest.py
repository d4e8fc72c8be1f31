"""What the tests share: one thread, tiny separable data, and a few tiny networks trained on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from torch import Tensor, nn

from mergeline.architectures import Architecture, build
from mergeline.heads import trace_network
from mergeline.images import normalize
from mergeline.spaces import Spaces
from mergeline.training import Recipe, train

if TYPE_CHECKING:
    from tests.small_report import SmallReport

torch.set_num_threads(1)
settings.register_profile("mergeline", deadline=None, derandomize=True, max_examples=40, database=None)
settings.load_profile("mergeline")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@dataclass(frozen=True)
class Toy:
    """A separable task: ``images`` ``(N, 32, 32, 3)`` uint8, ``labels`` ``(N,)`` int64, ``classes`` classes."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: int

    def tensors(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.images), torch.from_numpy(self.labels)

    def inputs(self, count: int | None = None) -> Tensor:
        """Normalised images as a network reads them."""
        return normalize(torch.from_numpy(self.images[:count]))


def make_toy(count: int = 192, classes: int = 4, seed: int = 0) -> Toy:
    """Each class is a bright bar at a place and in a colour of its own, on noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = rng.integers(0, 60, (count, 32, 32, 3))
    colours = np.random.default_rng(7).integers(60, 196, (classes, 3))
    for image, label in zip(images, labels, strict=True):
        row = 3 + label * 26 // classes
        image[row : row + 4, 4:28] += colours[label]
    return Toy(images.astype(np.uint8), labels.astype(np.int64), classes)


@dataclass(frozen=True)
class Trained:
    """Tiny r17 networks of one architecture, trained on the toy task from different starts, and their spaces."""

    models: tuple[nn.Module, ...]
    architecture: Architecture
    spaces: Spaces
    toy: Toy

    def states(self) -> list[dict[str, Tensor]]:
        return [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in self.models]


TINY = Architecture("r17", 4, 1 / 16, 32)


def train_tiny(toy: Toy, seed: int, architecture: Architecture = TINY, epochs: int = 3) -> nn.Module:
    model = build(architecture, seed)
    recipe = Recipe(epochs=epochs, batch_size=32, learning_rate=0.1, shift=1)
    train(model, *toy.tensors(), recipe, torch.Generator().manual_seed(seed))
    return model.eval()


@pytest.fixture(scope="session")
def small_report(tmp_path_factory: pytest.TempPathFactory) -> SmallReport:
    """A report of made-up numbers; tests must not change its files."""
    from tests.small_report import make_report

    return make_report(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def toy() -> Toy:
    return make_toy()


@pytest.fixture(scope="session")
def trained(toy: Toy) -> Trained:
    """Three tiny trained networks. Tests must not change them."""
    models = tuple(train_tiny(toy, seed) for seed in range(3))
    return Trained(models, TINY, trace_network(models[0], TINY.input_size), toy)


def _enliven(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.dim() == 1:
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(0.5 + noise if name.endswith(("running_var", "weight")) else noise - 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def enliven() -> Callable[..., nn.Module]:
    """``enliven(model, seed)``: norms, biases and batch statistics at random values, in place of their equal starts."""
    return _enliven


def bench_values(**changes: Any) -> dict[str, Any]:
    """Plain values of a small but complete params.yaml; ``changes`` replace whole sections."""
    values: dict[str, Any] = {
        "seed": 0,
        "compute": {"device": "cpu", "threads": 1},
        "model": {"input_size": 32, "width": 0.0625},
        "architectures": ["r17", "r29"],
        "seeds": [0, 1],
        "tasks": {
            "bars": {"source": "folder", "root": "data/bars"},
            "dots": {"source": "folder", "root": "data/dots"},
            "late": {"source": "folder", "root": "data/bars", "classes": [2, 0], "pretrain": "dots"},
        },
        "train": {"epochs": 2, "batch_size": 16, "shift": 1},
        "finetune": {"epochs": 1, "batch_size": 16, "learning_rate": 0.02},
        "statistics": {"images": 24, "batch_size": 12},
        "methods": {"identity": {}, "permute": {}},
        "normalize": {"reset": {"images": 24, "batch_size": 12}},
        "merges": {
            "same": {"tasks": ["bars"], "architectures": ["r17"], "controls": ["self", "random"]},
            "depth": {"tasks": ["bars"], "seeds": [0], "methods": ["permute"], "controls": ["untrained"]},
            "pairs": {"tasks": [["bars", "late"]], "architectures": ["r17"], "methods": ["permute"], "seeds": [0, 1]},
        },
        "evaluate": {"batch_size": 20},
        "similarity": {"encoder": "efficientnet-lite0", "tau": 1000.0},
        "targets": {"kind": "logits"},
        "imports": {},
        "report": {"title": "a test"},
    }
    return {**values, **changes}
