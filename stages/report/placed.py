"""Where placements put the blocks of shallow models, and how alike the blocks are that stand together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mergeline.depth import PLACEMENTS, Depths
from stages.formats.blocks import Similarity, matrices
from stages.report.rows import Row, key_of

__all__ = ["Blocks", "block_pairs", "likeness", "placement_lines", "segments"]


class Blocks(NamedTuple):
    """Two edges of different depth, the deeper first. ``similarity``: for each stage ``(deep, shallow)``."""

    cell: str
    similarity: Similarity


def block_pairs(rows: Iterable[Row]) -> list[Blocks]:
    """All pairs of edges whose blocks were compared, in the order of the rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["cell"], []).append(row)
    return [Blocks(cell, matrices(own)) for cell, own in found.items()]


def segments(blocks: Blocks, placement: str) -> tuple[tuple[int, ...], ...]:
    """For each stage and deep block, the shallow block whose segment it lies in."""
    shapes = [matrix.shape for matrix in blocks.similarity]
    depths = Depths(tuple(s for _, s in shapes), tuple(d for d, _ in shapes), blocks.similarity)
    placer = PLACEMENTS[placement]
    placed = placer.place(depths, placer.options())
    return tuple(
        tuple(int(at) for at in np.maximum.accumulate([-1 if b is None else b for b in own])) for own in placed
    )


def likeness(blocks: Blocks, placement: str) -> float:
    """Mean CKA of every deep block with the shallow block in whose segment it lies (heterogeneous_merging Sec. IV-D)."""
    pairs = zip(blocks.similarity, segments(blocks, placement), strict=True)
    return float(np.mean([matrix[deep, own] for matrix, at in pairs for deep, own in enumerate(at)]))


def placement_lines(blocks: Iterable[Row], rows: Iterable[Row]) -> list[list[str]]:
    """For each pair and placement its name, the positions of the shallow blocks, :func:`likeness`, and the units of its merges
    that have no partner; empty where nothing was merged.

    ``blocks``: likenesses of blocks; ``rows``: of ``results.parquet``.
    """
    lacking = _without_partner(rows)
    return [
        [
            pair.cell,
            name,
            _positions(segments(pair, name)),
            f"{likeness(pair, name):.3f}",
            lacking.get((pair.cell, name), ""),
        ]
        for pair in block_pairs(blocks)
        for name in PLACEMENTS
    ]


def _without_partner(rows: Iterable[Row]) -> dict[tuple[str, str], str]:
    """By the sources of a merge and their placement."""
    found = {}
    for row in rows:
        if row["kind"] == "merge" and row["without_partner"] is not None:
            sources = key_of(row).sources
            found[str(sources.unplaced), sources.placement] = str(row["without_partner"])
    return found


def _positions(found: Iterable[Sequence[int]]) -> str:
    stages = [[str(at + 1) for at, block in enumerate(own) if at == 0 or block != own[at - 1]] for own in found]
    return "; ".join(" ".join(starts) for starts in stages)
