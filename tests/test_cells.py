"""Cells: every name is read back as what it names, and a benchmark grows without renaming anything."""

from __future__ import annotations

import copy
from dataclasses import replace
from math import comb, perm
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergeline.architectures import ARCHITECTURES
from mergeline.narrowing_options import OPTIONS as NARROWERS
from mergeline.pruning_options import OPTIONS
from stages.plan.expansion import expand_cells, idle_controls
from stages.plan.keys import (
    CellError,
    Choice,
    Edge,
    Merge,
    Narrowed,
    Prediction,
    Pruned,
    Sources,
    as_written,
    known,
    parse_cell,
    parse_edge,
    parse_key,
    parse_match,
    parse_merge,
    parse_narrowed,
    parse_prediction,
    parse_pruned,
    parse_sources,
)
from stages.plan.loading import load_params, parse_params
from stages.plan.params import Params
from stages.plan.pipelines import StageCell, make_plan
from tests.conftest import bench_values

ROOT = Path(__file__).resolve().parent.parent

# -- names ----------------------------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True)
architectures = st.sampled_from(tuple(ARCHITECTURES))


numbers = st.one_of(
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.1, 1e-5, 1e-300, 5e-324, 1e22, 0.1234567890123, 1 / 3, -0.25, 100.0]),
)
keys = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda key: key not in ("stop", "preserve", "weights"))
recipes = st.lists(
    st.tuples(keys, st.sampled_from(["kaiming_normal"]) | numbers.map(as_written)),
    max_size=2,
    unique_by=lambda pair: pair[0],
).map(tuple)
edges = st.builds(Edge, names, architectures, st.integers(0, 2**31 - 1), st.booleans(), recipes)


@st.composite
def sources(draw: st.DrawFn) -> Sources:
    """Edges of one task, or of as many different tasks."""
    count = draw(st.integers(1, 4))
    tasks = draw(st.lists(names, min_size=count, max_size=count, unique=True))
    if draw(st.booleans()):
        tasks = tasks[:1] * count
    recipe = draw(recipes)
    chosen = (draw(edges.map(lambda e, t=task: replace(e, task=t, recipe=recipe))) for task in tasks)
    return Sources(tuple(chosen), draw(st.sampled_from(["append", "sma", "x-y_2"])))


methods = st.builds(
    Choice,
    names,
    st.lists(st.tuples(keys, numbers), max_size=3, unique_by=lambda pair: pair[0]).map(tuple),
)
merges = st.builds(
    Merge,
    sources(),
    methods,
    st.builds(
        Choice,
        st.from_regex(r"[A-Za-z_][a-z_]{0,8}", fullmatch=True),
        st.lists(st.tuples(keys, numbers), max_size=2, unique_by=lambda pair: pair[0]).map(tuple),
    ),
    st.none() | st.from_regex(r"[a-z0-9]{1,6}(\.[a-z0-9_]{1,5}){0,3}", fullmatch=True),
    st.none() | st.lists(st.floats(0, 1), min_size=2, max_size=4).map(tuple),
    st.none() | st.integers(1, 99).map(str) | st.floats(0.01, 0.99).map("{:g}".format),
)


@given(edges)
def test_an_edges_name_is_read_back(edge: Edge) -> None:
    assert parse_edge(str(edge)) == edge


@given(sources())
def test_the_sources_name_is_read_back(own: Sources) -> None:
    assert parse_cell(str(own)) == (own, "")
    assert parse_sources(str(own)) == own


@given(edges, names)
def test_a_predictions_name_is_read_back(edge: Edge, task: str) -> None:
    prediction = Prediction(edge, task)
    assert parse_prediction(str(prediction)) == prediction


@given(sources(), methods)
def test_a_matchs_name_is_read_back_with_its_options(own: Sources, method: Choice) -> None:
    found = parse_match(f"{own}.{method}")
    assert found == (own, method)
    for (_, value), (_, expected) in zip(found[1].options, method.options, strict=True):
        assert isinstance(value, bool) == isinstance(expected, bool)


@given(merges)
def test_a_merges_name_is_read_back(merge: Merge) -> None:
    assert parse_merge(str(merge)) == merge


@given(
    st.builds(
        Pruned,
        edges,
        st.sampled_from(list(OPTIONS)),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["none", "reset", "repair", "rescale"]),
    )
)
def test_a_pruned_edges_name_is_read_back(pruned: Pruned) -> None:
    assert parse_pruned(str(pruned)) == pruned
    key = parse_key("pruned", str(pruned))
    assert (key.compressed, key.merge, key.sources.edges, str(key)) == (pruned, None, (pruned.edge,), str(pruned))


@pytest.mark.parametrize(
    "name",
    [
        "digits.r17.s0", "digits.r17.s0.magnitude", "digits.r17.s0.magnitude-sparsity=0.9",
        "digits.r17.s0.magnitude.repair", "digits.r17.s0.magnitude-sparsity=much.repair",
        "digits.r17.s0.magnitude-sparsity=0.90.repair", "digits.r17+r17.s0+s1.magnitude-sparsity=0.9.repair",
        "digits.r17.s0.magnitude-sparsity=0.9-samples=3.repair",
    ],
)  # fmt: skip
def test_what_is_no_pruned_edge_is_refused(name: str) -> None:
    with pytest.raises(CellError):
        parse_pruned(name)


@given(
    st.builds(
        Narrowed,
        edges,
        st.sampled_from(list(NARROWERS)),
        st.floats(0, 1, exclude_min=True),
        st.sampled_from(["none", "reset", "repair", "rescale"]),
    )
)
def test_a_narrowed_edges_name_is_read_back(narrowed: Narrowed) -> None:
    assert parse_narrowed(str(narrowed)) == narrowed
    key = parse_key("narrowed", str(narrowed))
    assert (key.compressed, key.made, key.sources.edges, str(key)) == (
        narrowed,
        narrowed,
        (narrowed.edge,),
        str(narrowed),
    )


@pytest.mark.parametrize(
    ("parse", "name"),
    [
        (parse_narrowed, "digits.r17.s0.zip-sparsity=0.5.reset"),
        (parse_narrowed, "digits.r17.s0.zip.reset"),
        (parse_narrowed, "digits.r17.s0.zip-width=wide.reset"),
        (parse_narrowed, "digits.r17.s0.zip-width=0.50.reset"),
        (parse_narrowed, "digits.r17+r17.s0+s1.zip-width=0.5.reset"),
        (parse_pruned, "digits.r17.s0.magnitude-width=0.5.reset"),
    ],
)
def test_what_is_no_narrowed_edge_is_refused(parse: Any, name: str) -> None:
    with pytest.raises(CellError):
        parse(name)


def test_a_pruned_and_a_narrowed_network_are_never_the_same() -> None:
    edge = Edge("digits", "r17", 0)
    assert Pruned(edge, "x", 0.5, "none") != Narrowed(edge, "x", 0.5, "none")
    assert str(Narrowed(edge, "zip", 0.5, "reset")) == "digits.r17.s0.zip-width=0.5.reset"


@given(st.lists(merges, max_size=5))
def test_different_merges_have_different_names(several: list[Merge]) -> None:
    assert len({str(merge) for merge in several}) == len(set(several))


@pytest.mark.parametrize(
    ("merge", "name"),
    [
        (
            Merge(Sources((Edge("digits", "r35", 0), Edge("digits", "r17", 1))), Choice("permute"), Choice("reset")),
            "digits.r35+r17.s0+s1.permute.reset",
        ),
        (
            Merge(
                Sources((Edge("a-b", "r50", 0), Edge("c", "r50", 1, False))),
                Choice("zip", (("alpha", 1e-5), ("beta", 0.0), ("compatible", True))),
                Choice("none"),
                "layer2.0.conv1",
                (0.25, 0.75),
            ),
            "a-b+c.r50+r50.s0+u1.zip-alpha=1e-05-beta=0-compatible=true-stop=layer2.0.conv1-weights=0.25+0.75.none",
        ),
        (
            Merge(
                Sources((Edge("digits", "vgg16", 0), Edge("digits", "vgg16", 1))),
                Choice("permute"),
                Choice("repair"),
                preserve="6",
            ),
            "digits.vgg16+vgg16.s0+s1.permute-preserve=6.repair",
        ),
    ],
)
def test_names_stay_what_they_are(merge: Merge, name: str) -> None:
    assert str(merge) == name
    assert parse_merge(name) == merge
    assert merge.match == name.split("-stop")[0].split("-preserve")[0].removesuffix(".reset")


def test_weights_that_sum_to_one_still_do_when_read_back() -> None:
    own = Sources(tuple(Edge("a", "r17", seed) for seed in range(3)))
    merge = Merge(own, Choice("permute"), Choice("reset"), None, (1 / 3, 1 / 3, 1 / 3))
    again = parse_merge(str(merge))
    assert again.weights is not None
    assert sum(again.weights) == 1


def test_a_recipe_stands_once_for_all_sources() -> None:
    hot = (("learning_rate", 0.05), ("epochs", 3))
    own = Sources((Edge("a", "r35", 0, recipe=hot), Edge("a", "r17", 1, recipe=hot)))
    assert str(own) == "a.r35+r17-learning_rate=0.05-epochs=3.s0+s1"
    assert str(own.edges[1]) == "a.r17-learning_rate=0.05-epochs=3.s1"
    assert own.recipe_label == "learning_rate=0.05-epochs=3"
    assert own.combination.architectures_label == "r35+r17-learning_rate=0.05-epochs=3"
    assert own.topology == "r35"
    assert own.combination != Sources((Edge("a", "r35", 0), Edge("a", "r17", 1))).combination
    with pytest.raises(CellError, match="were trained by different recipes"):
        Sources((Edge("a", "r35", 0, recipe=hot), Edge("a", "r17", 1)))


def test_sources_know_their_tasks_topology_and_control() -> None:
    same = Sources((Edge("a", "r35", 0), Edge("a", "r17", 1)))
    assert (same.tasks, same.same_task, same.topology, same.homogeneous, same.control) == (
        ("a",),
        True,
        "r35",
        False,
        "",
    )
    pair = Sources((Edge("a", "r17", 0), Edge("b", "r17", 1)))
    assert (pair.tasks, pair.same_task, pair.homogeneous) == (("a", "b"), False, True)
    assert Sources((Edge("a", "r17", 0), Edge("a", "r17", 0))).control == "self"
    assert Sources((Edge("a", "r17", 0), Edge("a", "r29", 0, False))).control == "untrained-1"


@pytest.mark.parametrize(
    ("parse", "name", "message"),
    [
        (parse_cell, "digits", "is not a cell; cells are named tasks.architectures.seeds"),
        (parse_cell, "digits.r17", "is not a cell"),
        (parse_cell, "digits.r17+r35.s0", "1 tasks, 2 architectures and 1 seeds"),
        (parse_cell, "a+b.r17.s0+s1", "2 tasks, 1 architectures and 2 seeds"),
        (parse_cell, "digits.r17.0", "'0' is not a seed; seeds are named s0, s1"),
        (parse_cell, "digits.r17.sx", "'sx' is not a seed"),
        (parse_cell, "digits.r17.s²", "is not a seed"),
        (parse_cell, "digits+digits.r17+r17.s0+s1", "is written 'digits.r17\\+r17.s0\\+s1'"),
        (parse_edge, "digits.r17-epochs=03.s0", "is written 'digits.r17-epochs=3.s0'"),
        (parse_edge, "digits.r17-epochs=[3].s0", "is not a plain value"),
        (parse_edge, "digits.r17.s00", "is written 'digits.r17.s0'"),
        (parse_edge, "digits.r17+r17.s0+s1", "is not one edge model"),
        (parse_edge, "digits.r17.s0.more", "is not one edge model"),
        (parse_edge, "digits.r17.s0.", "is written 'digits.r17.s0'"),
        (parse_sources, "digits.r17+r17.s0+s1.permute", "names more than the sources of a merge"),
        (parse_sources, "digits.r17+r17.s0+s1-stop=2", "after the seeds only -placement=NAME can stand"),
        (parse_sources, "digits.r17+r17.s0+s1-placement=append", "is written 'digits.r17\\+r17.s0\\+s1'"),
        (parse_prediction, "digits.r17.s0", "is not a prediction; predictions are named like digits.r35.s0.on-"),
        (parse_prediction, "digits.r17+r17.s0+s1.on-digits", "is not a prediction"),
        (parse_match, "digits.r17+r17.s0+s1", "names no method"),
        (parse_match, "digits.r17+r17.s0+s1.zip-alpha=0.30", "'zip-alpha=0.30' is written 'zip-alpha=0.3'"),
        (parse_match, "digits.r17+r17.s0+s1.zip-alpha=[1", r"'\[1' is not a value"),
        (parse_match, "digits.r17+r17.s0+s1.zip-alpha=[1]", r"'\[1\]' is not a plain value"),
        (parse_merge, "digits.r17+r17.s0+s1.permute", "names no method and normalisation, like digits"),
        (parse_merge, "digits.r17+r17.s0+s1.permute-weights=a+b.reset", "'a' is not a weight"),
        (parse_merge, "digits.r17+r17.s0+s1.zip-alpha=1e-5.reset", "is written .*zip-alpha=1e-05.reset"),
    ],
)
def test_a_name_that_cannot_be_read_says_why(parse: Any, name: str, message: str) -> None:
    with pytest.raises(CellError, match=message):
        parse(name)


def test_an_unknown_name_lists_those_that_there_are() -> None:
    assert known("task", "a", ["a", "b"]) == "a"
    with pytest.raises(CellError, match="unknown task 'c'; there are: a, b"):
        known("task", "c", ["a", "b"])


# -- how many, and how a benchmark grows ------------------------------------------------------------------------------


def names_of(params: Params) -> list[str]:
    return [str(merge) for merge in expand_cells(params, params.merges)]


def test_the_small_benchmark_has_these_merges() -> None:
    assert names_of(parse_params(bench_values())) == [
        "bars.r17+r17.s0+s1.identity.reset",
        "bars.r17+r17.s0+s1.permute.reset",
        "bars.r17+r17.s0+s0.identity.reset",
        "bars.r17+r17.s0+s0.permute.reset",
        "bars.r17+r17.s0+s1.random.reset",
        "bars.r29+r17.s0+s0.permute.reset",
        "bars.r29+r17.u0+s0.permute.reset",
        "bars.r29+r17.s0+u0.permute.reset",
        "bars+late.r17+r17.s0+s1.permute.reset",
        "bars+late.r17+r17.s1+s0.permute.reset",
    ]


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_a_profile_has_as_many_merges_as_its_lists_say(name: str) -> None:
    params = load_params(ROOT / "profiles" / f"{name}.yaml")
    same, pairs = params.merges["same-task"], params.merges["task-pairs"]
    n_archs, n_seeds, n_methods = len(params.architectures), len(params.seeds), len(params.methods)
    depth_pairs = comb(n_archs, 2)
    runs = n_archs * comb(n_seeds, 2) + depth_pairs * n_seeds**2
    controls = n_archs * n_methods + (n_archs + depth_pairs) + depth_pairs * 2 * n_methods
    assert same.controls == ["self", "random", "untrained"]
    assert len(expand_cells(params, {"same": same})) == len(same.tasks) * (runs * n_methods + controls)
    seeds = pairs.seeds or params.seeds
    assert len(seeds) == 2
    assert pairs.both_directions
    directions = n_archs + 2 * depth_pairs  # models of one architecture have none
    expected = len(pairs.tasks) * directions * perm(2, 2) * n_methods
    assert len(expand_cells(params, {"pairs": pairs})) == expected
    assert len(set(names_of(params))) == len(names_of(params))


def grown(**changes: Any) -> dict[str, Any]:
    values = copy.deepcopy(bench_values())
    for family in values["merges"].values():
        for key in ("seeds", "architectures", "methods"):
            family.pop(key, None)
    return values | changes


GROWTH = {
    "seed": grown(seeds=[0, 1, 2]),
    "method": grown(methods={"identity": {}, "permute": {}, "weight": {}}),
    "architecture": grown(architectures=["r17", "r29", "r35"]),
    "shallower architecture in front": grown(architectures=["r35", "r17", "r29"]),
    "pair": grown(
        merges=grown()["merges"] | {"more": {"tasks": [["dots", "bars"], ["late", "bars"]], "both_directions": True}}
    ),
    "task": grown(tasks=grown()["tasks"] | {"extra": {"source": "folder", "root": "x"}}),
    "sweep": grown(merges=grown()["merges"] | {"swept": {"tasks": ["bars"], "sweep": {"epochs": [1, 3]}}}),
    "normalisation": grown(
        merges=grown()["merges"] | {"plain": {"tasks": ["bars"], "normalize": ["reset", "none"], "seeds": [0, 1]}}
    ),
}


@pytest.mark.parametrize("what", GROWTH)
def test_growing_a_benchmark_only_adds_cells(what: str) -> None:
    before, after = names_of(parse_params(grown())), names_of(parse_params(GROWTH[what]))
    assert set(before) <= set(after)
    assert [name for name in after if name in set(before)] == before or what.endswith("in front")


@pytest.mark.parametrize("what", GROWTH)
def test_growing_a_benchmark_changes_no_stage_that_there_was(what: str) -> None:
    def stages(values: dict[str, Any]) -> dict[str, StageCell]:
        return {f"{stage.stage}@{stage.cell}": stage for stage in make_plan(parse_params(values)).stages}

    before, after = stages(grown()), stages(GROWTH[what])
    assert {name: after.get(name) for name in before} == before


ELASTIC = {"zip": {}, "transport": {}}


@pytest.mark.parametrize(
    ("tasks", "architectures", "idle"),
    [
        ("bars", ["r17", "r29"], []),
        ("bars", ["r17"], ["untrained"]),
        ("bars", ["r17x2", "r17"], []),
        (["bars", "late"], ["r17", "r29"], ["self"]),
        (["bars", "late"], ["r17"], ["self", "untrained"]),
        (["bars", "late", "dots"], ["r17"], ["self", "random", "untrained"]),
    ],
)
def test_a_control_that_makes_no_merge_is_named(tasks: Any, architectures: list[str], idle: list[str]) -> None:
    series = {"tasks": [tasks], "architectures": architectures, "controls": ["self", "random", "untrained"]}
    params = parse_params(
        grown(seeds=[0, 1, 2], merges={"own": series}, methods=ELASTIC, statistics={"moments": "full"})
    )
    said = idle_controls(params)
    assert [line.split()[:2] for line in said] == [["merges.own.controls:", control] for control in idle]
    made = {merge.method.name for merge in expand_cells(params, params.merges)}
    assert ("random" in made) == ("random" not in idle)


def test_no_profile_names_a_control_that_makes_no_merge() -> None:
    for path in sorted((ROOT / "profiles").glob("*.yaml")):
        assert idle_controls(load_params(path)) == [], path.name


def test_the_deeper_model_is_the_reference() -> None:
    params = parse_params(grown(architectures=["r17", "r35", "r29"]))
    for merge in expand_cells(params, params.merges):
        depths = [list(ARCHITECTURES).index(edge.architecture) for edge in merge.edges]
        assert depths == sorted(depths, reverse=True)


def test_two_widths_are_merged_by_the_methods_that_can_the_wider_first() -> None:
    series = {"tasks": ["bars"], "seeds": [0], "controls": ["self", "random", "untrained"], "placements": ["lma"]}
    values = grown(
        architectures=["r17x2", "r17"], statistics={"moments": "full"}, merges={"widths": series},
        methods={"identity": {}, "permute": {}, "mine": {"use": "zip"}, "transport": {}},
    )  # fmt: skip
    runs = [f"bars.r17x2+r17.{seeds}" for seeds in ("s0+s0", "u0+s0", "s0+u0")]
    assert names_of(parse_params(values)) == [
        f"{run}.{method}.reset" for run in runs for method in ("mine", "transport")
    ]


def test_two_depths_and_widths_are_merged_the_deeper_first() -> None:
    series = {"tasks": ["bars"], "seeds": [0], "methods": ["zip"]}
    values = grown(
        architectures=["r17x4", "r29"], statistics={"moments": "full"}, merges={"a": series}, methods=ELASTIC
    )
    (found,) = expand_cells(parse_params(values), parse_params(values).merges)
    assert str(found) == "bars.r29+r17x4.s0+s0.zip.reset"
    assert (found.sources.topology, found.sources.difference) == ("r29x4", "depths and widths")
    assert [str(pair) for pair in found.sources.depth_pairs] == ["bars.r29+r17x4.s0+s0"]
    assert not found.sources.homogeneous


def test_another_width_adds_cells_and_changes_none() -> None:
    narrow = grown(methods={"permute": {}, "zip": {}}, statistics={"moments": "full"})
    wide = narrow | {"architectures": ["r17", "r29", "r17x2"]}
    before, after = (names_of(parse_params(values)) for values in (narrow, wide))
    assert set(before) < set(after)
    assert all("x2" in name for name in set(after) - set(before))
    assert not [name for name in after if "r17x2+r17." in name and ".permute." in name]


def test_both_directions_make_each_task_the_reference_once() -> None:
    family = {"tasks": [["bars", "dots"]], "both_directions": True, "methods": ["permute"]}
    params = parse_params(grown(merges={"pairs": family}, architectures=["r17", "r29"]))
    mixed = [
        f"{tasks}.r29+r17.{seeds}.permute.reset" for tasks in ("bars+dots", "dots+bars") for seeds in ("s0+s1", "s1+s0")
    ]
    alike = [
        f"bars+dots.{name}+{name}.{seeds}.permute.reset" for name in ("r17", "r29") for seeds in ("s0+s1", "s1+s0")
    ]
    assert sorted(names_of(params)) == sorted([*mixed, *alike]), (
        "of one architecture the other direction is the same merge"
    )


@pytest.mark.parametrize("change", [{"weights": [0.7, 0.3]}, {"tasks": [["bars", "dots"], ["dots", "bars"]]}])
def test_a_direction_that_is_another_merge_or_is_listed_is_made(change: dict[str, Any]) -> None:
    family = {"tasks": [["bars", "dots"]], "both_directions": True, "homogeneous_only": True, "methods": ["permute"]}
    params = parse_params(grown(merges={"pairs": family | change}, architectures=["r17"]))
    assert sum(name.startswith("dots+bars.r17+r17") for name in names_of(params)) == 2


def test_models_of_different_tasks_never_share_a_seed_and_equal_models_never_merge() -> None:
    params = parse_params(grown(seeds=[0, 1, 2]))
    for merge in expand_cells(params, {"pairs": params.merges["pairs"]}):
        assert len({edge.seed for edge in merge.edges}) == 2
    same = params.merges["same"].model_copy(update={"controls": []})
    runs = [merge.sources for merge in expand_cells(params, {"same": same})]
    assert all(len(set(own.edges)) == 2 for own in runs)
    assert {own.edges[0].seed == own.edges[1].seed for own in runs if not own.homogeneous} == {True, False}


def test_neighbouring_runs_stand_next_to_each_other_in_the_list_of_seeds() -> None:
    family = {"tasks": ["bars"], "homogeneous_only": True, "runs": "neighbours", "methods": ["permute"]}
    params = parse_params(grown(seeds=[5, 3, 9, 1], merges={"same": family}, architectures=["r17"]))
    assert names_of(params) == [f"bars.r17+r17.{run}.permute.reset" for run in ("s5+s3", "s3+s9", "s9+s1")]


def test_a_grid_makes_one_cell_for_each_combination_of_options() -> None:
    method = {"options": {"compatible": True}, "grid": {"alpha": [1e-4, 0.3], "beta": [0, 0.125, 1.0]}}
    family = {"tasks": ["bars"], "homogeneous_only": True, "stops": [None, "layer2.0"]}
    params = parse_params(
        grown(methods={"zip": method}, statistics={"moments": "full"}, merges={"a": family}, architectures=["r17"])
    )
    found = expand_cells(params, params.merges)
    assert len(found) == 2 * 3 * 2
    assert str(found[0]) == "bars.r17+r17.s0+s1.zip-alpha=0.0001-beta=0.reset"
    assert str(found[-1]) == "bars.r17+r17.s0+s1.zip-alpha=0.3-beta=1-stop=layer2.0.reset"


def test_a_sweep_makes_edges_for_each_combination_of_settings() -> None:
    values = bench_values(merges={"swept": {"tasks": ["bars"], "architectures": ["r17"], "methods": ["permute"],
                                            "sweep": {"learning_rate": [1.0, 0.05], "epochs": [1]}}})  # fmt: skip
    assert names_of(parse_params(values)) == [
        f"bars.r17+r17-learning_rate={rate}-epochs=1.s0+s1.permute.reset" for rate in ("1", "0.05")
    ]
    for merge in make_plan(parse_params(values)).merges:
        assert parse_merge(str(merge)) == merge


def test_more_than_two_models_are_merged_at_once() -> None:
    family = {"tasks": ["bars"], "models": 3, "methods": ["permute"], "weights": [0.5, 0.25, 0.25]}
    params = parse_params(grown(seeds=[0, 1, 2, 3], merges={"three": family}, architectures=["r17"]))
    assert names_of(params) == [
        f"bars.r17+r17+r17.{run}.permute-weights=0.5+0.25+0.25.reset"
        for run in ("s0+s1+s2", "s0+s1+s3", "s0+s2+s3", "s1+s2+s3")
    ]
