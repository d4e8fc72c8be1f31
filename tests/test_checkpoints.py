"""Checkpoints as people have them: read where they are a network, refused in one line where they are not."""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from mergeline.checkpoint_names import split_part
from mergeline.checkpoints import fitted, read_checkpoint
from mergeline.weights import WeightsError

State = dict[str, Tensor]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def renamed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def uncounted(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda state: state, ""),
    "state_dict": (lambda state: {"state_dict": state, "epoch": 3}, "took 'state_dict' out"),
    "model": (lambda state: {"model": state, "optimizer": {"state": {0: {"m": torch.ones(2)}}}}, "took 'model' out"),
    "nested": (
        lambda state: {"checkpoint": {"net": state}, "rng": {"cpu": torch.zeros(3, dtype=torch.uint8)}},
        "'checkpoint.net'",
    ),
    "trainer's arguments": (
        lambda state: {
            "model": state,
            "args": argparse.Namespace(out=pathlib.PosixPath("x")),
            "best": np.float64(0.5),
            "m": np.ones(2),
        },
        "took 'model' out",
    ),
    "data parallel": (renamed("module."), "took 'module.' off"),
    "compiled": (renamed("_orig_mod."), "took '_orig_mod.' out of names"),
    "compiled in data parallel": (renamed("module._orig_mod."), "took 'module.' off"),
    "a part compiled": (
        lambda state: {name.replace("0.", "0._orig_mod."): tensor for name, tensor in state.items()},
        "'_orig_mod.'",
    ),
    "Lightning": (
        lambda state: {
            "state_dict": renamed("model.")(state) | {"loss.weight": torch.ones(2)},
            "loops": {"fit": {"n": 1}},
        },
        "left out what stands beside it: loss.weight",
    ),
    "any prefix": (renamed("backbone.body."), "took 'backbone.body.' off"),
    "no counters": (uncounted, "set 1 counters of batch norms"),
    "half": (
        lambda state: {n: t.half() if t.is_floating_point() else t for n, t in state.items()},
        "made float32 of float16",
    ),
    "bfloat16": (
        lambda state: {n: t.bfloat16() if t.is_floating_point() else t for n, t in state.items()},
        "of bfloat16",
    ),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("form", WRAPPED)
def test_what_trainers_wrap_is_taken_off_and_said(form: str, legacy: bool, tmp_path: Path) -> None:
    wrap, words = WRAPPED[form]
    model = network()
    exact = form not in ("half", "bfloat16")
    torch.save(wrap(model.state_dict()), tmp_path / "a.ckpt", _use_new_zipfile_serialization=not legacy)
    found = fitted(read_checkpoint(tmp_path / "a.ckpt"), network(1).state_dict())
    assert words in " ".join(found.notes)
    assert list(found.state) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert found.state[name].dtype == tensor.dtype
        torch.testing.assert_close(found.state[name], tensor, rtol=0, atol=0 if exact else 1e-2)


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    state = network().state_dict()
    save_file(state, tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.bin")
    for name in ("a.pth", "b.bin"):
        found = fitted(read_checkpoint(tmp_path / name), state)
        assert all(torch.equal(found.state[key], state[key]) for key in state)
        assert found.notes == ()


def test_of_several_networks_the_part_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": network(0).state_dict(), "model_ema": network(1).state_dict()}, path)
    with pytest.raises(
        WeightsError,
        match=r"several networks: model \(9 tensors\), model_ema \(9 tensors\)\. Say which: .*a\.pth#model",
    ):
        read_checkpoint(path)
    found = fitted(read_checkpoint(f"{path}#model_ema"), network().state_dict())
    assert torch.equal(found.state["3.weight"], network(1).state_dict()["3.weight"])
    with pytest.raises(WeightsError, match=r"has no part 'ema'; it has model, model_ema"):
        read_checkpoint(f"{path}#ema")


@given(st.from_regex(r"[a-z/.]+", fullmatch=True), st.from_regex(r"[a-z_.]+", fullmatch=True))
def test_parts_stand_behind_the_file(file: str, part: str) -> None:
    assert split_part(file) == (Path(file), None)
    assert split_part(f"{file}#{part}") == (Path(file), part)


class Code:
    """An object whose pickle runs a command when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch touched",)


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def saved(value: object, path: Path, **options: Any) -> bytes:
    torch.save(value, path, **options)
    return path.read_bytes()


def with_code(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"")
        archive.writestr("m/code/__torch__.py", b"")
    return path.read_bytes()


REFUSED: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda path: b"", "is empty; copy or fetch it again"),
    "LFS": (
        lambda path: b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
        "a pointer of Git LFS .* git lfs pull",
    ),
    "page": (lambda path: b"\n<!DOCTYPE html><html>", "is a page of a site"),
    "Keras": (lambda path: b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "words": (lambda path: b"hello", "neither safetensors, nor a file of torch.save, nor ONNX"),
    "cut archive": (lambda path: halved(saved(network().state_dict(), path)), "is cut short or damaged"),
    "cut legacy": (
        lambda path: halved(saved(network().state_dict(), path, _use_new_zipfile_serialization=False)),
        "is cut short",
    ),
    "other archive": (
        lambda path: (zipfile.ZipFile(path, "w").close(), path.read_bytes())[1],
        "is an archive, but not of torch.save",
    ),
    "TorchScript": (with_code, "is a TorchScript program, and code is not run here"),
    "whole model": (
        lambda path: saved(network(), path),
        r"holds an object of torch\.nn\.modules\.\w+\.\w+, .*model\.state_dict",
    ),
    "code": (lambda path: saved(Code(), path), r"holds an object of \w+\.system"),
    "pickle of code": (lambda path: pickle.dumps(Code()), r"holds an object of \w+\.system"),
    "pickle": (lambda path: pickle.dumps({"a": 1}), "is a pickle that torch.save did not write"),
    "a list": (lambda path: saved([torch.ones(2)], path), "holds no state dict but a list"),
    "a tensor": (lambda path: saved(torch.ones(2), path), "holds one tensor and no state dict"),
    "no network": (lambda path: saved({"epoch": 3, "losses": [1.0]}, path), "holds no network"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_network_is_refused_in_one_line_and_nothing_is_run(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = REFUSED[form]
    path = tmp_path / "a.pth"
    path.write_bytes(make(path))
    with pytest.raises(WeightsError, match=words) as caught:
        read_checkpoint(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert "\x1b" not in said
    assert "weights_only" not in said
    assert not (tmp_path / "touched").exists()


def test_a_safetensors_file_cut_at_any_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(network().state_dict(), path)
    content = path.read_bytes()
    for length in (4, 9, 60, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"a\.safetensors is (cut short|damaged)"):
            read_checkpoint(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"lost\.pth is missing"):
        read_checkpoint(tmp_path / "lost.pth")
    with pytest.raises(WeightsError, match="is a folder; name the file"):
        read_checkpoint(tmp_path)


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda state: state | {name: change(state[name])}


UNFIT: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (lambda state: {n: t for n, t in state.items() if n != "3.bias"}, r"does not fit: 3\.bias is missing"),
    "unknown": (lambda state: state | {"4.weight": torch.ones(2)}, r"4\.weight is unknown"),
    "shape": (changed("3.weight", lambda t: torch.ones(5, 4)), r"3\.weight has shape \(5, 4\), expected \(2, 4\)"),
    "not a number": (
        changed("0.weight", lambda t: t.index_fill(0, torch.tensor([1]), torch.nan)),
        r"0\.weight has 27 values of 108 that are not finite",
    ),
    "infinite": (changed("0.bias", lambda t: t + torch.inf), r"0\.bias has 4 values of 4 that are not finite"),
    "variance": (changed("1.running_var", lambda t: t - 3), r"1\.running_var has negative variances, down to -2"),
    "whole numbers": (changed("0.weight", lambda t: t.to(torch.int8)), r"0\.weight holds int8 where weights are"),
    "quantised": (
        changed("0.weight", lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
        "quantised or sparse",
    ),
    "sparse": (changed("3.weight", lambda t: t.to_sparse()), "quantised or sparse"),
    "parametrised": (
        lambda state: (
            {n: t for n, t in state.items() if n != "3.weight"}
            | {"3.parametrizations.weight.original0": torch.ones(2, 1)}
        ),
        "keeps a parametrised weight",
    ),
}


@pytest.mark.parametrize("form", UNFIT)
def test_what_does_not_fit_names_the_tensor(form: str, tmp_path: Path) -> None:
    change, words = UNFIT[form]
    torch.save(change(network().state_dict()), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=words) as caught:
        fitted(read_checkpoint(tmp_path / "a.pth"), network().state_dict())
    assert "\n" not in str(caught.value)
