"""The headline findings: sentences made from the numbers, with their intervals, and "no evidence" where there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product

import numpy as np

from stages.plan.keys import UNCHANGED, Narrowed, Pruned
from stages.report.analysis import (
    LEAST_POINTS,
    Correlation,
    Deviation,
    deviations,
    pair_results,
    run_values,
    spearman,
    trained_partner,
)
from stages.report.between import barriers
from stages.report.compressed import CompressedResult, compressed_results
from stages.report.diagnosed import Group, before_last, groups
from stages.report.figures import SIDES, FigureData
from stages.report.intervals import LEAST_RUNS, Paired, paired_difference
from stages.report.rows import Row, combination_of, method_label, score_word

__all__ = ["sentences"]


MOST_COMPARED = 12
"""Other methods that the main one is compared with in sentences; the tables have all."""
MOST_COMPRESSED = 12
"""Sentences on pruned networks, and on narrowed ones; the tables have all."""


def sentences(data: FigureData) -> list[str]:
    """The findings, most important first."""
    return [
        *_one_task(data),
        *_one_side(data),
        *_task_pairs(data),
        *_barriers(data),
        *_features(data),
        *islice(_pruning(data), MOST_COMPRESSED),
        *islice(_narrowing(data), MOST_COMPRESSED),
    ]


def _of_score(rows: Iterable[Row]) -> str:
    """What the percents of some rows are of, where that is no accuracy."""
    word = score_word(rows)
    return "" if word == "accuracy" else f"a {word} of " if word == "score" else f"an {word} of "


def _rows(data: FigureData, tasks: str) -> list[Row]:
    return [row for row in data.rows if row["tasks"] == tasks]


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def _interval(paired: Paired) -> str:
    if paired.n < LEAST_RUNS:
        return f"n = {paired.n}, too few for an interval"
    if math.isnan(paired.low):
        return f"n = {paired.n}, of too few models for an interval"
    return f"95 % interval {100 * paired.low:+.1f} to {100 * paired.high:+.1f}, paired over {paired.n} runs"


def _verdict(paired: Paired) -> str:
    return ", no evidence of a difference" if paired.low <= 0 <= paired.high else ""


def _one_task(data: FigureData) -> Iterator[str]:
    tasks = list(dict.fromkeys(r.tasks for r in data.results if r.same_task))
    for task in tasks:
        yield from _against_average(data, task)
        yield from _against_homogeneous(data, task, task)


def _against_average(data: FigureData, task: str) -> Iterator[str]:
    """The method against plain averaging, homogeneous and heterogeneous pairs apart, and these by what they differ in."""
    for difference in ("", *SIDES):
        name = f"of different {difference}" if difference else "of one architecture"

        def values(method: str, kind: str = difference) -> dict[str, float]:
            return run_values(
                data.usual,
                lambda r: (
                    r["tasks"] == task and not r["control"] and combination_of(r).difference == kind
                    and method_label(r) == method
                ),
            )  # fmt: skip

        aligned, averaged = values(data.method), values("identity")
        paired = paired_difference(aligned, averaged)
        if not paired.n or data.method == "identity":
            continue
        mean, plain = (100 * float(np.mean([v[k] for k in aligned if k in averaged])) for v in (aligned, averaged))
        verdict = _verdict(paired)
        yield (
            f"Merging two {task} models {name}, {data.method} reaches {_of_score(_rows(data, task))}{mean:.1f} %, "
            f"plain averaging {plain:.1f} %: {_points(paired.difference)} ({_interval(paired)}){verdict}."
        )


def _against_homogeneous(data: FigureData, tasks: str, label: str) -> Iterator[str]:
    every = [d for d in deviations(data.results, data.method) if d.tasks == tasks]
    for difference in SIDES:
        found = [d for d in every if d.difference == difference]
        if not found:
            continue
        values = [d.value for d in found]
        span = f"{100 * min(values):+.1f} to {100 * max(values):+.1f} points (mean {_points(float(np.mean(values)))}, "
        counted = f"{_points(values[0])} (1 pair, " if len(found) == 1 else f"{span}{len(found)} pairs, "
        yield (
            f"On {label}, merges of different {difference} differ from the mean of the homogeneous ones by "
            f"{counted}{data.method}); {_intervals(found)}."
        )
        if difference == "depths" and len(found) >= LEAST_POINTS:
            correlation = spearman([d.size_mismatch for d in found], values)
            yield f"Deviation against size mismatch on {label}: {_correlation(correlation)}."


def _intervals(found: Sequence[Deviation]) -> str:
    """What the intervals of some deviations say together."""
    known = [d for d in found if not math.isnan(d.low)]
    if not known:
        return "too few runs for intervals"
    below, above = sum(d.high < 0 for d in known), sum(d.low > 0 for d in known)
    if not below and not above:
        return "every interval holds zero, no evidence of a difference"
    text = f"the interval leaves zero out for {below} below and {above} above"
    return text if len(known) == len(found) else f"{text} of {len(known)} with enough runs"


def _correlation(found: Correlation) -> str:
    if math.isnan(found.rho):
        return f"too few pairs for a correlation (n = {found.n})"
    text = (
        f"Spearman {found.rho:+.2f} (p = {found.p_value:.2f}, 95 % interval {found.low:+.2f} to {found.high:+.2f}, "
        f"n = {found.n})"
    )
    return text if found.evident else f"no evidence of a relation, {text}"


def _one_side(data: FigureData) -> Iterator[str]:
    """What is left of a heterogeneous merge when one side never trained."""
    for difference, side in product(SIDES, range(2)):
        name = SIDES[difference][side]
        chosen = [
            (result, trained_partner(data.results, result, data.method))
            for result in pair_results(data.usual, f"untrained-{side}")
            if result.same_task and result.difference == difference and result.method == data.method
        ]
        chosen = [(result, partner) for result, partner in chosen if result.accuracy.n and partner.n]
        if not chosen:
            continue
        control = float(np.mean([result.accuracy.mean for result, _ in chosen]))
        trained = float(np.mean([partner.mean for _, partner in chosen]))
        rows = [row for row in data.usual if row["tasks"] in {result.tasks for result, _ in chosen}]
        gap = trained - control
        reading = (
            "so the merge hardly needs that side" if gap < 0.05
            else "so that side contributes, or an untrained one harms"
        )  # fmt: skip
        yield (
            f"With the {name} side never trained, merges of different {difference} ({data.method}) keep "
            f"{_of_score(rows)}{100 * control:.1f} % "
            f"against {100 * trained:.1f} % with both trained ({_points(gap)}, the same runs of {len(chosen)} "
            f"pair{'s' if len(chosen) > 1 else ''}): {reading}."
        )


def _task_pairs(data: FigureData) -> Iterator[str]:
    results = [r for r in data.results if not r.same_task]
    if not results:
        return

    def values(method: str) -> dict[str, float]:
        return run_values(
            data.usual, lambda r: not combination_of(r).same_task and not r["control"] and method_label(r) == method
        )

    aligned, averaged = values(data.method), values("identity")
    paired = paired_difference(aligned, averaged)
    if paired.n and data.method != "identity":
        verdict = _verdict(paired)
        yield (
            f"Over all task pairs, {data.method} is {_points(paired.difference)} against plain averaging in mean {data.word} of "
            f"the two tasks ({_interval(paired)}){verdict}."
        )
    others = [m for m in dict.fromkeys(r.method for r in results) if m not in (data.method, "identity")]
    for other in others[:MOST_COMPARED]:
        paired = paired_difference(aligned, values(other))
        if paired.n:
            verdict = _verdict(paired)
            yield f"Against {other}, {data.method} is {_points(paired.difference)} ({_interval(paired)}){verdict}."
    found = [d for d in deviations(data.results, data.method) if not d.same_task]
    for difference in SIDES:
        own = [d for d in found if d.difference == difference]
        if own:
            mean = float(np.mean([d.value for d in own]))
            yield (
                f"On task pairs, merges of different {difference} are on average {_points(mean)} from the mean of the "
                f"homogeneous ones (from {100 * min(d.value for d in own):+.1f} to {100 * max(d.value for d in own):+.1f}, "
                f"{len(own)} combinations); {_intervals(own)}."
            )
    known = {
        frozenset((row["first"], row["second"])): row["similarity"]
        for row in data.similarities
        if row["similarity"] is not None
    }
    by_pair: dict[frozenset[str], list[float]] = {}
    for d in found:
        by_pair.setdefault(frozenset(d.combination.tasks), []).append(d.value)
    pairs = [pair for pair in by_pair if pair in known]  # one point for each: its combinations share one similarity
    if len(pairs) >= LEAST_POINTS:
        correlation = spearman([known[pair] for pair in pairs], [float(np.mean(by_pair[pair])) for pair in pairs])
        yield f"That deviation against the tasks' similarity: {_correlation(correlation)}."


def _barriers(data: FigureData) -> Iterator[str]:
    """The barrier of the report's method, plain and normalised, against that of plain averaging with the same placement."""
    by_place: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for found in barriers(data.measured.get("curve", ())):
        placement = next(iter(found.group.merges.values())).sources.placement
        by_place.setdefault((found.group.setting, placement), {})[found.group.method] = found.accuracy
    for (setting, _), chosen in by_place.items():
        plains = {method: own for method, own in chosen.items() if method.split(" ")[0] == "identity"}
        unnormalised = [own for method, own in plains.items() if method.endswith(" none")]
        plain = next(iter([*unnormalised, *plains.values()]), None)
        for method, own in chosen.items():
            if plain is None or method.split(" ")[0] != data.method.split(" ")[0] or method.startswith("identity"):
                continue
            paired = paired_difference(own, plain)
            verdict = _verdict(paired)
            yield (
                f"Between two models ({setting}) accuracy falls by {100 * float(np.mean(list(own.values()))):.1f} points at worst "
                f"with {method}, by {100 * float(np.mean(list(plain.values()))):.1f} with plain averaging: "
                f"{_points(paired.difference)} ({_interval(paired)}){verdict}."
            )


def _features(data: FigureData) -> Iterator[str]:
    """What is left of the input before the classifier, by what was done after merging with the report's method."""
    found = groups(data.measured.get("diagnosis", ()))
    main = next((_settings(group) for group in found if group.method == data.method), None)
    shares: dict[str, dict[str, float]] = {}
    for group in found:
        if _settings(group) == main:
            name = str(next(iter(group.merges.values())).normalize)
            shares.setdefault(name, {}).update(before_last(group))
    parts = [
        f"{100 * float(np.mean(list(own.values()))):.0f} %{{}} "
        f"{'without normalisation' if name == 'none' else f'after {name}'} (n = {len(own)})"
        for name, own in shares.items()
        if own
    ]
    if parts:
        first, *others = parts
        said = [first.format(" of the input-induced features of their sources"), *(part.format("") for part in others)]
        yield f"In the last layer before the classifier, merges by {main} keep {', '.join(said)}."


def _settings(group: Group) -> str:
    """A merge's method and settings, without the normalisation."""
    merge = next(iter(group.merges.values()))
    return merge.label(usual=str(merge.normalize))


def _pruning(data: FigureData) -> Iterator[str]:
    """What each normalisation does to pruned networks, at the highest sparsity that has numbers with it and without."""
    highest: dict[tuple[str, str, str, str], tuple[CompressedResult, CompressedResult]] = {}
    found = [result for result in compressed_results(data.rows, Pruned.kind) if result.runs]
    plain = {(r.task, r.model, r.method, r.share): r for r in found if r.normalize == UNCHANGED}
    for result in found:
        partner = plain.get((result.task, result.model, result.method, result.share))
        key = (result.task, result.model, result.method, result.normalize)
        if partner is None or partner is result or not partner.runs.keys() & result.runs.keys():
            continue
        if key not in highest or highest[key][0].share < result.share:
            highest[key] = result, partner
    for result, partner in highest.values():
        paired = paired_difference(result.runs, partner.runs)
        shared = [run for run in result.runs if run in partner.runs]
        after, before = (100 * float(np.mean([r.runs[run] for run in shared])) for r in (result, partner))
        verdict = _verdict(paired)
        yield (
            f"At sparsity {result.share:g}, {result.normalize} changes {result.model} on {result.task}, pruned by "
            f"{result.method}, from {_of_score(_rows(data, result.task))}{before:.1f} % to {after:.1f} %: "
            f"{_points(paired.difference)} ({_interval(paired)}){verdict}."
        )


def _narrowing(data: FigureData) -> Iterator[str]:
    """What joining units is worth against keeping some of them, at each width, after each normalisation."""
    found = [result for result in compressed_results(data.rows, Narrowed.kind) if result.runs]
    by_setting = {(r.setting, r.share, r.normalize, r.method): r for r in found}
    for (setting, share, normalize, method), joined in by_setting.items():
        others = [by_setting.get((setting, share, normalize, other)) for other in ("largest", "random")]
        compared = [(other, paired_difference(joined.runs, other.runs)) for other in others if other is not None]
        if method != "zip" or share == 1 or not any(paired.n for _, paired in compared):
            continue
        against = " and ".join(
            f"{_points(paired.difference)} against {other.method} ({_interval(paired)}{_verdict(paired)})"
            for other, paired in compared
            if paired.n
        )
        yield (
            f"Zipped to {100 * share:g} % of its units ({normalize}), {joined.model} on {joined.task} has "
            f"{_of_score(_rows(data, joined.task))}{100 * joined.accuracy.mean:.1f} %, "
            f"before {100 * joined.before.mean:.1f} %: {against}."
        )
