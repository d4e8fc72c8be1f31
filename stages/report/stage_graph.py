"""The pipeline as a picture: kinds of stages, how many cells each has, and what feeds what, as inline SVG."""

from __future__ import annotations

from collections import Counter
from html import escape

from stages.plan.pipelines import Plan

__all__ = ["stage_graph"]

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 128, 42, 26, 14
SHARED = ("prepare", "embed", "collect", "audit", "plot", "report")


def stage_graph(plan: Plan, tasks: list[str]) -> str:
    """An SVG with a box per kind of stage, from left to right in the order of the data."""
    counts = Counter(stage.stage for stage in plan.stages)
    counts.update({"prepare": len(tasks), "embed": len(tasks), "collect": 1, "audit": 1, "plot": 1, "report": 1})
    links = _links(plan)
    columns = _columns(set(counts), links)
    height = max(len(column) for column in columns) * (BOX_HEIGHT + GAP_Y)
    width = len(columns) * (BOX_WIDTH + GAP_X) - GAP_X
    place: dict[str, tuple[float, float]] = {}
    for x, column in enumerate(columns):
        top = (height - len(column) * (BOX_HEIGHT + GAP_Y) + GAP_Y) / 2
        for y, kind in enumerate(column):
            place[kind] = (x * (BOX_WIDTH + GAP_X), top + y * (BOX_HEIGHT + GAP_Y))
    parts = [
        f'<svg viewBox="-2 -2 {width + 4} {height + 4}" style="min-width:{0.85 * width:.0f}px" role="img" '
        'aria-label="stages of the pipeline">'
    ]
    for source, target in sorted(links):
        (x0, y0), (x1, y1) = place[source], place[target]
        a, b, c, d = x0 + BOX_WIDTH, y0 + BOX_HEIGHT / 2, x1, y1 + BOX_HEIGHT / 2
        middle = (a + c) / 2
        parts.append(
            f'<path class="link" d="M{a:.0f},{b:.0f} C{middle:.0f},{b:.0f} {middle:.0f},{d:.0f} {c:.0f},{d:.0f}"/>'
        )
    for kind, (left, top) in place.items():
        number = f"{counts[kind]} cells" if counts[kind] > 1 else "one cell"
        parts.append(
            f'<g class="box"><rect x="{left}" y="{top:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
            f'<text x="{left + 10}" y="{top + 18:.0f}">{escape(kind)}</text>'
            f'<text class="count" x="{left + 10}" y="{top + 34:.0f}">{number}</text></g>'
        )
    return "".join([*parts, "</svg>"])


def _links(plan: Plan) -> set[tuple[str, str]]:
    """Which kind reads what which kind writes."""
    maker = {out: stage.stage for stage in plan.stages for out in stage.outs}
    links = set()
    for stage in plan.stages:
        for dep in stage.deps:
            if dep in maker:
                links.add((maker[dep], stage.stage))
            elif "/tasks/" in dep:
                links.add(("prepare", stage.stage))
            elif "/embeddings/" in dep:
                links.add(("embed", stage.stage))
    ends = {stage.stage for stage in plan.stages if any("/evaluations/" in out for out in stage.outs)}
    links |= {
        (kind, "collect") for kind in ends | ({"similarity"} if any("embed" in link for link in links) else set())
    }
    links |= {("prepare", "embed"), ("collect", "audit"), ("collect", "plot"), ("plot", "report"), ("audit", "report")}
    return {(a, b) for a, b in links if a != b} - _implied(links)


def _implied(links: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Links that a longer way says already."""
    after: dict[str, set[str]] = {}
    for a, b in links:
        after.setdefault(a, set()).add(b)

    def reaches(start: str, end: str) -> bool:
        todo, seen = [start], set()
        while todo:
            node = todo.pop()
            if node == end:
                return True
            if node not in seen:
                seen.add(node)
                todo += after.get(node, ())
        return False

    return {(a, b) for a, b in links if any(reaches(c, b) for c in after[a] if c not in (b, a))}


def _columns(kinds: set[str], links: set[tuple[str, str]]) -> list[list[str]]:
    """Kinds by the length of the longest way to them."""
    level = dict.fromkeys(kinds, 0)
    for _ in kinds:
        for a, b in links:
            level[b] = max(level[b], level[a] + 1)
    return [sorted(k for k in kinds if level[k] == i) for i in range(max(level.values()) + 1)]
