"""Files between stages: what is read back is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergeline.api import merge
from mergeline.architectures import Architecture, build
from mergeline.depth.expansion import noise
from mergeline.heads import MultiHead, multi_head, trace_network
from mergeline.maps import Absent, Dense, Groups, Permutation, UnitMap
from stages.formats.maps import read_maps, write_maps
from stages.formats.merged import load_merged, save_merged
from tests.test_models import HEADED


@pytest.mark.parametrize("names", [("ant", "zebra"), ("zebra", "ant"), ("digits#2", "digits#10")])
@pytest.mark.parametrize("stop", [None, "layer2.0"])
def test_each_head_of_a_merged_network_comes_back_under_its_own_name(
    names: tuple[str, str], stop: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    architectures = {name: Architecture("r17", 4, 1 / 16, 32) for name in names}
    models = {name: build(architecture, seed).eval() for seed, (name, architecture) in enumerate(architectures.items())}
    network = multi_head(models, trace_network(next(iter(models.values())), 32), stop=stop).eval()
    save_merged(Path("merged.safetensors"), network, architectures, stop, heads=True)
    again = load_merged(Path("merged.safetensors"))
    assert isinstance(again, MultiHead)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = network(images), again(images)
    assert list(after) == list(names)
    for name in names:
        torch.testing.assert_close(after[name], before[name])
    assert not torch.allclose(after[names[0]], after[names[1]])


@pytest.mark.parametrize("method", ["zip", "transport"])
@pytest.mark.parametrize(
    ("heads", "choice"),
    [
        (True, {}),
        (True, {"stop": "layer2.0"}),
        (True, {"preserve": 2}),
        (True, {"preserve": 2, "stop": "layer2.0"}),
        (False, {}),
        (False, {"preserve": 2}),
    ],
)
def test_a_merge_of_two_widths_comes_back(method: str, heads: bool, choice: dict[str, Any], tmp_path: Path) -> None:
    names = {"a": "r17", "b": "r17x2"}
    architectures = {head: Architecture(name, 4, 1 / 16, 32) for head, name in names.items()}
    models = {head: build(architecture, 0).eval() for head, architecture in architectures.items()}
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = merge(models if heads else list(models.values()), images, method, **choice)
    path, preserve = tmp_path / "merged.safetensors", choice.get("preserve", 0)
    save_merged(
        path, made.model, architectures if heads else {"a": architectures["b"]}, choice.get("stop"), heads, preserve,
        2 if preserve else 0, kept=list(architectures.values()) if preserve and not heads else (),
    )  # fmt: skip
    with torch.no_grad():
        before, after = made.model(images), load_merged(path)(images)
    torch.testing.assert_close(after, before)


def test_heads_of_different_sizes_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    architectures = {"zebra": Architecture("r17", 5, 1 / 16, 32), "ant": Architecture("r17", 3, 1 / 16, 32)}
    models = {name: build(architecture, 0).eval() for name, architecture in architectures.items()}
    network = multi_head(models, trace_network(models["zebra"], 32)).eval()
    save_merged(Path("merged.safetensors"), network, architectures, None, heads=True)
    after = load_merged(Path("merged.safetensors"))(torch.zeros(1, 3, 32, 32))
    assert {name: logits.shape[1] for name, logits in after.items()} == {"zebra": 5, "ant": 3}


def test_maps_come_back_as_they_were_written(tmp_path: Path) -> None:
    maps: list[dict[str, UnitMap]] = [
        {"a": Permutation(np.array([1, 0, 2])), "b": Groups(np.array([0, 0, 1, 2]), 3), "c": Permutation.identity(2)},
        {
            "a": Absent(3, 3),
            "d": Absent(2, 4),
            "b": Groups(np.array([2, 1]), 3),
            "c": Dense(np.eye(2) + 0.25, np.eye(2)),
        },
    ]
    write_maps(tmp_path / "maps.parquet", maps, {"cell": "x"})
    found, description = read_maps(tmp_path / "maps.parquet")
    assert description["cell"] == "x"
    for own, back in zip(maps, found, strict=True):
        assert list(own) == list(back)
        for name, unit_map in own.items():
            assert type(back[name]) is type(unit_map)
            eye = torch.eye(unit_map.size, dtype=torch.float64)
            assert torch.equal(back[name].merge(eye, 0), unit_map.merge(eye, 0))
            assert torch.equal(back[name].unmerge(eye, 0), unit_map.unmerge(eye, 0))


@pytest.mark.parametrize("preserve", [0, 2])
@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize("name", HEADED)
def test_a_merge_of_every_kind_of_network_comes_back(name: str, heads: bool, preserve: int, tmp_path: Path) -> None:
    architecture = Architecture(name, 4, 0.5 if name.endswith("-gn") else 1 / 16, 32)
    models = {head: build(architecture, seed).eval() for seed, head in enumerate("ab")}
    batch = noise(32, architecture.reads).repeat_interleave(6, 0)
    sources = models if heads else list(models.values())
    made = merge(
        sources, {head: [batch] for head in models} if heads else [batch], "permute", "none", preserve=preserve
    )
    path = tmp_path / "merged.safetensors"
    architectures = dict.fromkeys(models, architecture) if heads else {"a": architecture}
    save_merged(path, made.model, architectures, None, heads, preserve, 2 if preserve else 0)
    again = load_merged(path)
    with torch.no_grad():
        before, after = made.model(batch), again(batch)
    torch.testing.assert_close(after, before)
