"""The names of encoders of images and of texts, to be had without torch."""

from __future__ import annotations

from mergeline.kinds import Kind

__all__ = ["DINOV2", "ENCODERS", "LITE0", "MINILM", "EncoderError", "describe_encoder", "encoder_reads"]

DINOV2 = {
    "dinov2-s": "vit_small_patch14_dinov2.lvd142m",
    "dinov2-b": "vit_base_patch14_dinov2.lvd142m",
    "dinov2-l": "vit_large_patch14_dinov2.lvd142m",
}
LITE0 = "efficientnet-lite0"
MINILM = "minilm"
"""The encoder of texts."""
ENCODERS = (LITE0, *DINOV2, "timm:NAME", MINILM)
"""What ``similarity.encoder`` may name, those of images also with ``@SIZE``."""


class EncoderError(ValueError):
    """An encoder is unknown, or its package or weights are missing or damaged; the message names the fix."""


def describe_encoder(name: str) -> tuple[str, int | None]:
    """An encoder's base name and the size after ``@``, if there is one.

    Raises
    ------
    EncoderError: unknown; names those there are.
    """
    base, at, size = name.partition("@")
    if base not in (LITE0, *DINOV2, MINILM) and not (base.startswith("timm:") and len(base) > 5):
        raise EncoderError(f"unknown encoder {name!r}; known: {', '.join(ENCODERS)}, those of images also with @SIZE")
    if at and base == MINILM:
        raise EncoderError(
            f"encoder {name!r}: {MINILM} reads texts of the benchmark's own length; leave {at + size} out"
        )
    if at and not (size.isdecimal() and 16 <= int(size) <= 2048):
        raise EncoderError(f"encoder {name!r}: the size after @ must be 16 to 2048 pixels, like {base}@224")
    return base, int(size) if size else None


def encoder_reads(name: str) -> Kind:
    """What an encoder's inputs are."""
    return "texts" if name == MINILM else "images"
