"""The plan: every stage says what it reads and writes, and DVC reads from its files exactly that."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo

from stages.fingerprints import places
from stages.fingerprints.fingerprint import read_fingerprint
from stages.fingerprints.notes import open_notes
from stages.fingerprints.outside import outside_inputs
from stages.plan import paths
from stages.plan.code import code_names
from stages.plan.expansion import base_edge
from stages.plan.keys import (
    Edge,
    parse_edge,
    parse_match,
    parse_merge,
    parse_narrowed,
    parse_prediction,
    parse_pruned,
    parse_sources,
    parse_task_pair,
)
from stages.plan.loading import load_params, parse_params
from stages.plan.params import Params
from stages.plan.pipelines import HEADER, Plan, StageCell, drift, make_plan, render, write_pipelines
from stages.registry import STAGES
from tests.conftest import bench_values

ROOT = Path(__file__).resolve().parent.parent


def demo() -> Params:
    return load_params(ROOT / "profiles" / "demo.yaml")


def rich() -> Params:
    """All kinds of stages: grids, stops, weights, imports, plain normalisation, whole-network matchers."""
    values = bench_values(
        imports={"bars.r17.s1": "mine/model.pth", "bars.r29.s0": "other/a model.v2.safetensors"},
        statistics={"moments": "full"},
    )
    values["methods"] |= {
        "zip": {"options": {"compatible": True}, "grid": {"alpha": [0.1, 0.3], "beta": [0]}},
        "aligned": {"use": "weight"},
    }
    values["merges"]["same"] |= {
        "normalize": ["reset", "none", "repair"],
        "stops": [None, "layer2.0"],
        "weights": [0.25, 0.75],
    }
    values["merges"]["same"]["preserves"] = [None, 2, 0.1]
    values["merges"]["swept"] = {
        "tasks": ["bars"],
        "architectures": ["r17"],
        "sweep": {"learning_rate": [0.01, 0.5], "shift": [0]},
    }
    values["normalize"]["repair"] = {"images": 8, "batch_size": 4, "sequential": True}
    values["pruning"] = {
        "few": {"tasks": ["late"], "architectures": ["r29"], "seeds": [1], "methods": ["magnitude", "wanda"],
                "sparsities": [0, 0.5], "normalize": ["none", "repair"]},
        "same": {"tasks": ["bars"], "architectures": ["r17"], "methods": ["wanda"], "sparsities": [0.5]},
        "again": {"tasks": ["bars"], "architectures": ["r17"], "seeds": [0], "methods": ["wanda"], "sparsities": [0.5]},
    }  # fmt: skip
    values["pruners"] = {"wanda": {"images": 8}}
    values["narrowing"] = {
        "few": {"tasks": ["late"], "architectures": ["r29"], "seeds": [1], "methods": ["zip", "largest"],
                "widths": [0.25, 1.0], "normalize": ["none", "reset"]},
        "again": {"tasks": ["late"], "architectures": ["r17"], "methods": ["zip"], "widths": [0.25]},
    }  # fmt: skip
    values["narrowers"] = {"zip": {"images": 8, "alpha": 1.0}}
    return parse_params(values)


def wide() -> Params:
    """Pairs of different widths, and of different depths and widths."""
    values = bench_values(methods={"permute": {}, "zip": {}}, statistics={"moments": "full"})
    values["normalize"]["repair"] = {"images": 8, "batch_size": 4}
    values["merges"] = {"widths": {
        "tasks": ["bars"], "architectures": ["r17", "r17x2", "r29"], "methods": ["permute", "zip"], "runs": "neighbours",
        "normalize": ["reset", "repair"], "placements": ["append", "lma"], "controls": ["untrained", "random"],
    }}  # fmt: skip
    return parse_params(values)


def transformers() -> Params:
    """Architectures with recipes of their own, from their design, from ``recipes`` and from a sweep."""
    values = bench_values(recipes={"vit8": {"epochs": 3}, "r17": {"learning_rate": 0.5, "optimizer": "adamw"}})
    values["normalize"]["repair"] = {"images": 8, "batch_size": 4}
    series = {"architectures": ["vit4", "vit8"], "normalize": ["none", "repair"]}
    values["merges"] |= {
        "depths": series | {"tasks": [["bars", "late"]], "placements": ["append", "lma"], "controls": ["untrained"]},
        "swept": series | {"tasks": ["bars"], "sweep": {"epochs": [1]}},
    }
    return parse_params(values)


BENCHMARKS = {
    "demo": demo,
    "small": lambda: parse_params(bench_values()),
    "rich": rich,
    "wide": wide,
    "transformers": transformers,
}


@pytest.fixture(params=BENCHMARKS)
def params(request: pytest.FixtureRequest) -> Params:
    return BENCHMARKS[request.param]()


def cells(plan: Plan, stage: str) -> dict[str, StageCell]:
    return {cell.cell: cell for cell in plan.stages if cell.stage == stage}


# -- what stages read and write ---------------------------------------------------------------------------------------


def test_every_input_below_artifacts_is_some_stages_output(params: Params) -> None:
    plan = make_plan(params)
    made = {out for stage in plan.stages for out in stage.outs}
    made |= {str(paths.task(name)) for name in params.tasks}
    made |= {str(paths.embedding(name)) for name in params.tasks}
    made |= {str(paths.code(name)) for name in code_names()}
    for stage in plan.stages:
        below = {dep for dep in stage.deps if dep.startswith("artifacts/")}
        assert below <= made, stage
        assert set(stage.deps) - below <= set(params.imports.values())


def test_every_output_is_made_once_and_lies_below_artifacts(params: Params) -> None:
    outs = [out for stage in make_plan(params).stages for out in stage.outs]
    assert len(outs) == len(set(outs))
    assert all(out.startswith("artifacts/") for out in outs)


def test_every_stage_is_named_once(params: Params) -> None:
    stages = make_plan(params).stages
    assert len({(stage.kind, stage.cell) for stage in stages}) == len(stages)
    assert {stage.stage for stage in stages} <= set(STAGES)


def test_every_cell_is_a_name_that_its_stage_reads(params: Params) -> None:
    readers: dict[str, Any] = {
        "predict": parse_prediction, "layers": parse_prediction, "statistics": parse_sources, "blocks": parse_sources,
        "evaluate-ensemble": parse_sources, "match": parse_match,
        "prune": parse_pruned, "evaluate-pruned": parse_pruned,
        "narrow": parse_narrowed, "evaluate-narrowed": parse_narrowed,
        "merge": parse_merge, "evaluate": parse_merge, "similarity": parse_task_pair,
    }  # fmt: skip
    for stage in make_plan(params).stages:
        assert readers.get(stage.stage, parse_edge)(stage.cell)


def test_every_stage_depends_on_the_code_it_runs(params: Params) -> None:
    for stage in make_plan(params).stages:
        first = PurePosixPath(stage.deps[0])
        assert first.parent == PurePosixPath("artifacts/code")
        assert first.stem == stage.stage or first.stem.startswith(f"{stage.stage}-")


def test_every_parameter_a_stage_names_is_there(params: Params) -> None:
    values = params.model_dump()
    for stage in make_plan(params).stages:
        for key in stage.params:
            place: Any = values
            for part in key.split("."):
                assert part in place, (stage.cell, key)
                place = place[part]


def test_the_same_parameters_give_the_same_plan(params: Params) -> None:
    assert make_plan(params) == make_plan(params)
    assert render(make_plan(params)) == render(make_plan(params))


def test_a_matcher_of_weights_waits_for_no_statistics() -> None:
    matches = cells(make_plan(rich()), "match")
    for cell, stage in matches.items():
        method = parse_match(cell)[1].name
        needs = any("statistics/" in dep for dep in stage.deps)
        assert needs == (method in ("permute", "zip"))
        matcher = {"aligned": "weight"}.get(method, method)
        assert stage.deps[0] == f"artifacts/code/match-{matcher}.json"


def test_no_statistics_are_taken_that_no_method_reads() -> None:
    values = bench_values(methods={"identity": {}, "weight": {}})
    for family in values["merges"].values():
        family.pop("methods", None)
    assert not cells(make_plan(parse_params(values)), "statistics")


def test_a_grid_cell_depends_on_the_options_beside_the_grid_alone() -> None:
    for cell, stage in cells(make_plan(rich()), "match").items():
        method = parse_match(cell)[1].name
        keys = {"zip": "methods.zip.options", "random": None}.get(method, f"methods.{method}")
        assert set(stage.params) == {"compute", "seed", "targets", keys} - {None}


def test_several_merges_share_one_match_and_one_pair_of_statistics() -> None:
    plan = make_plan(rich())
    merges = [merge for merge in plan.merges if merge.match == "bars.r17+r17.s0+s1.permute"]
    assert len(merges) == 18  # three normalisations, two stops, three preserves
    assert len(cells(plan, "match")) == len({merge.match for merge in plan.merges})
    for merge in merges:
        assert str(paths.match(merge.match)) in cells(plan, "merge")[str(merge)].deps


def test_a_merge_depends_on_the_options_of_its_normalisation_alone() -> None:
    merges = cells(make_plan(rich()), "merge")
    for cell, stage in merges.items():
        assert ("normalize.reset" in stage.params) == cell.endswith(".reset")
        assert not any(key.startswith(("methods", "evaluate", "train")) for key in stage.params)


def test_an_evaluation_setting_touches_predictions_and_evaluations_alone(params: Params) -> None:
    for stage in make_plan(params).stages:
        assert ("evaluate" in stage.params) == stage.stage.startswith(("evaluate", "predict"))


def test_an_edge_is_trained_finetuned_imported_or_left_untrained() -> None:
    plan = make_plan(rich())
    assert set(cells(plan, "import")) == {"bars.r17.s1", "bars.r29.s0"}
    assert set(cells(plan, "finetune")) == {"late.r17.s0", "late.r17.s1", "late.r29.s1"}
    assert set(cells(plan, "untrained")) == {"bars.r29.u0", "bars.r17.u0"}
    swept = {f"bars.r17-learning_rate={rate}-shift=0.s{seed}" for rate in (0.01, 0.5) for seed in (0, 1)}
    assert set(cells(plan, "train")) == {"bars.r17.s0", "dots.r17.s0", "dots.r17.s1", "dots.r29.s1", *swept}
    imported = cells(plan, "import")["bars.r17.s1"]
    assert "mine/model.pth" in imported.deps
    assert not any("history" in out for out in imported.outs)
    assert cells(plan, "finetune")["late.r17.s0"].deps[-1] == "artifacts/edges/dots.r17.s0/model.safetensors"
    assert "finetune" in cells(plan, "finetune")["late.r17.s0"].params
    assert "train" in cells(plan, "train")["bars.r17.s0"].params


def test_a_swept_edge_depends_on_the_settings_that_its_recipe_leaves_alone() -> None:
    plan = make_plan(rich())
    edge = cells(plan, "train")["bars.r17-learning_rate=0.5-shift=0.s0"]
    assert edge.kind == "train-learning_rate-shift"
    assert [key for key in edge.params if key.startswith("train")] == ["train.batch_size", "train.epochs"]


def test_every_pruned_cell_is_made_once_and_scored_from_what_its_setting_reads() -> None:
    plan = make_plan(rich())
    wanted = {
        f"late.r29.s1.{method}-sparsity={sparsity}.{normalize}"
        for method in ("magnitude", "wanda") for sparsity in ("0", "0.5") for normalize in ("none", "repair")
    } | {f"bars.r17.s{seed}.wanda-sparsity=0.5.none" for seed in (0, 1)}  # fmt: skip
    made = cells(plan, "prune")
    assert [str(cell) for cell in plan.pruned] == list(made)
    assert set(made) == set(cells(plan, "evaluate-pruned")) == wanted
    for name, stage in made.items():
        cell = parse_pruned(name)
        assert stage.deps[0] == f"artifacts/code/prune-{cell.normalize}.json"
        assert str(paths.edge_model(cell.edge)) in stage.deps
        assert ("normalize.repair" in stage.params) == (cell.normalize == "repair")
        assert ("pruners.wanda" in stage.params) == (cell.method == "wanda")
        assert "pruners.magnitude" not in stage.params


def test_every_narrowed_cell_is_made_once_and_scored_from_what_its_setting_reads() -> None:
    plan = make_plan(rich())
    wanted = {
        f"late.r29.s1.{method}-width={width}.{normalize}"
        for method in ("zip", "largest") for width in ("0.25", "1") for normalize in ("none", "reset")
    } | {f"late.r17.s{seed}.zip-width=0.25.none" for seed in (0, 1)}  # fmt: skip
    made = cells(plan, "narrow")
    assert [str(cell) for cell in plan.narrowed] == list(made)
    assert set(made) == set(cells(plan, "evaluate-narrowed")) == wanted
    for name, stage in made.items():
        cell = parse_narrowed(name)
        assert stage.deps[0] == f"artifacts/code/narrow-{cell.normalize}.json"
        assert {str(paths.edge_model(cell.edge)), str(paths.task("late"))} < set(stage.deps)
        assert ("normalize.reset" in stage.params) == (cell.normalize == "reset")
        assert [key for key in stage.params if key.startswith("narrowers")] == ["narrowers.zip"] * (
            cell.method == "zip"
        )


def test_another_width_to_narrow_to_adds_its_cells_and_touches_no_others() -> None:
    series = {"tasks": ["bars"], "architectures": ["r17"], "methods": ["zip", "random"], "widths": [0.5]}
    plans = [
        {
            f"{stage.stage}@{stage.cell}": stage
            for stage in make_plan(parse_params(bench_values(narrowing={"a": series | {"widths": widths}}))).stages
        }
        for widths in ([0.5], [0.75, 0.5])
    ]
    added = {
        f"{stage}@bars.r17.s{seed}.{method}-width=0.75.none"
        for stage in ("narrow", "evaluate-narrowed") for seed in (0, 1) for method in ("zip", "random")
    }  # fmt: skip
    assert plans[1].keys() - plans[0].keys() == added
    assert {name: plans[1][name] for name in plans[0]} == plans[0]


@pytest.mark.parametrize(
    ("section", "shares", "file", "cell"),
    [
        ("pruning", {"methods": ["magnitude"], "sparsities": [0.5]}, paths.PLANNED_PRUNED, "magnitude-sparsity=0.5"),
        ("narrowing", {"methods": ["zip"], "widths": [0.5]}, paths.PLANNED_NARROWED, "zip-width=0.5"),
    ],
)
def test_one_more_smaller_network_is_seen_where_no_parameter_may_name_it(
    tmp_path: Path, section: str, shares: dict[str, Any], file: PurePosixPath, cell: str
) -> None:
    more = bench_values(**{section: {"few": {"tasks": ["bars"]} | shares}})
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    texts = []
    for values in (bench_values(), more):
        write_pipelines(make_plan(parse_params(values)), tmp_path)
        texts.append((tmp_path / file).read_text())
    assert all(str(file) in stages[stage]["deps"] for stage in ("collect", "audit"))
    assert texts[0] == HEADER
    assert texts[1].splitlines()[1:] == [
        f"bars.{name}.s{seed}.{cell}.none" for name in ("r17", "r29") for seed in (0, 1)
    ]


def test_a_base_is_that_of_the_pretrain_task_with_the_same_architecture_and_seed() -> None:
    params = rich()
    assert base_edge(params, Edge("late", "r29", 1)) == Edge("dots", "r29", 1)
    assert base_edge(params, Edge("late", "r29", 1, trained=False)) is None
    assert base_edge(params, Edge("bars", "r17", 0)) is None


def test_every_edge_is_scored_and_every_group_has_its_ensemble(params: Params) -> None:
    plan = make_plan(params)
    assert set(cells(plan, "evaluate-edge")) == {str(edge) for edge in plan.edges}
    assert set(cells(plan, "evaluate-ensemble")) == {str(group) for group in plan.ensembles}
    assert set(cells(plan, "evaluate")) == set(cells(plan, "merge")) == {str(merge) for merge in plan.merges}
    assert set(cells(plan, "predict")) == {str(prediction) for prediction in plan.predictions}


# -- files ------------------------------------------------------------------------------------------------------------


def stages_in(text: str) -> int:
    return sum(len(group["foreach"]) for group in yaml.safe_load(text)["stages"].values())


def test_no_file_of_the_demo_is_too_long_for_dvc() -> None:
    files = render(make_plan(demo()))
    sizes = {path: stages_in(text) for path, text in files.items()}
    assert sum(sizes.values()) == len(make_plan(demo()).stages)
    assert max(sizes.values()) <= 60
    assert all(text.startswith(HEADER) for text in files.values())


def test_writing_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    plan = make_plan(parse_params(bench_values()))
    written, gone = write_pipelines(plan, tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in written} == {
        str(paths.PLANNED_PRUNED),
        str(paths.PLANNED_NARROWED),
        *map(str, render(plan)),
    }
    assert not gone
    assert write_pipelines(plan, tmp_path) == ([], [])
    assert drift(plan, tmp_path) == ({}, [])
    assert not list(tmp_path.rglob("*.new"))


def test_files_that_the_plan_no_longer_has_are_removed_with_their_locks_and_empty_folders(tmp_path: Path) -> None:
    write_pipelines(make_plan(rich()), tmp_path)
    for path in tmp_path.rglob("dvc.yaml"):
        path.with_suffix(".lock").write_text("schema: '2.0'\n")
    small = make_plan(parse_params(bench_values(merges={"same": {"tasks": ["bars"], "homogeneous_only": True}})))
    written, gone = write_pipelines(small, tmp_path)
    assert written
    assert gone
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("dvc.yaml")} == set(
        map(str, render(small))
    )
    assert all(path.with_suffix(".yaml").is_file() for path in tmp_path.rglob("dvc.lock"))
    folders = [folder for folder in (tmp_path / paths.PIPELINES).rglob("*") if folder.is_dir()]
    assert all(any(folder.iterdir()) for folder in folders)


def test_files_that_no_plan_wrote_are_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "pipelines" / "mine" / "dvc.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("stages: {}\n")
    assert write_pipelines(make_plan(parse_params(bench_values())), tmp_path)[1] == []
    assert own.is_file()


def test_an_edited_file_is_seen_and_written_again(tmp_path: Path) -> None:
    plan = make_plan(parse_params(bench_values()))
    write_pipelines(plan, tmp_path)
    path = next(iter(sorted(tmp_path.rglob("dvc.yaml"))))
    text = path.read_text()
    path.write_text(text + "# edited\n")
    assert list(drift(plan, tmp_path)[0]) == [path]
    assert write_pipelines(plan, tmp_path) == ([path], [])
    assert path.read_text() == text


def test_the_committed_pipelines_are_those_of_params_yaml() -> None:
    if not (ROOT / "pipelines").is_dir():
        pytest.skip("no pipelines are committed here")
    changed, gone = drift(make_plan(load_params(ROOT / "params.yaml")), ROOT)
    assert not changed, "run: mergeline plan"
    assert not gone, "run: mergeline plan"


def test_the_committed_fingerprints_are_those_of_the_data_in_packages(tmp_path: Path) -> None:
    """Versions aside: who installs another one has a changed file to commit."""
    if not (ROOT / places.INPUTS).is_dir():
        pytest.skip("no fingerprints are committed here")
    with open_notes(tmp_path) as notes:
        for source in outside_inputs(ROOT, load_params(ROOT / "params.yaml")):
            committed = read_fingerprint((ROOT / source.place).read_text(encoding="utf-8"))
            assert committed is not None
            assert committed.folders == source.fingerprint(notes).folders, "run: mergeline plan"


# -- what DVC makes of it ---------------------------------------------------------------------------------------------


@pytest.fixture
def repo(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repo]:
    """A DVC repository with the pipelines of a benchmark and the root's own stages."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    values = params.model_dump(exclude_none=True)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    write_pipelines(make_plan(params), tmp_path)
    with Repo.init(str(tmp_path)) as made:
        yield made


def relative(repo: Repo, path: str) -> str:
    return Path(path).relative_to(repo.root_dir).as_posix()


@pytest.mark.slow
def test_dvc_resolves_exactly_the_planned_stages_in_a_sound_graph(params: Params, repo: Repo) -> None:
    planned = {f"{stage.file}:{stage.kind}@{stage.cell}": stage for stage in make_plan(params).stages}
    resolved = {stage.addressing: stage for stage in repo.index.stages if stage.addressing.startswith("pipelines/")}
    assert set(resolved) == set(planned)
    for name, stage in resolved.items():
        cell = planned[name]
        assert stage.cmd == cell.command
        assert Path(stage.wdir) == Path(repo.root_dir)
        files = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
        assert [relative(repo, dep.fs_path) for dep in files] == list(cell.deps)
        assert [relative(repo, out.fs_path) for out in stage.outs] == list(cell.outs)
        keys = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
        assert [relative(repo, dep.fs_path) for dep in keys] == ["params.yaml"] * len(keys)
        assert sorted(key for dep in keys for key in dep.params) == sorted(cell.params)
    check_graph(repo, params)


def check_graph(repo: Repo, params: Params) -> None:
    """No cycle, no overlapping outputs, and the root's ``collect`` waits for every evaluation."""
    repo.index.check_graph()
    names = {stage.addressing for stage in repo.index.stages}
    assert {"code", "collect", *(f"prepare@{task}" for task in params.tasks)} <= names
    graph = repo.index.graph
    collect = next(stage for stage in graph if stage.addressing == "collect")
    upstream = {stage.addressing for stage in graph.successors(collect)}
    assert {name for name in upstream if ":evaluate" in name} == {name for name in names if ":evaluate" in name}


def test_a_benchmark_of_one_task_has_the_folder_that_its_table_reads(tmp_path: Path) -> None:
    values = bench_values()
    values["tasks"] = {"bars": values["tasks"]["bars"]}
    values["merges"] = {"same": values["merges"]["same"]}
    write_pipelines(make_plan(parse_params(values)), tmp_path)
    assert (tmp_path / paths.SIMILARITY).is_dir()


def test_another_placement_adds_cells_and_touches_no_others(params: Params) -> None:
    values = yaml.safe_load((ROOT / "profiles" / "demo.yaml").read_text(encoding="utf-8"))
    before = make_plan(parse_params(values))
    for series in values["merges"].values():
        series["placements"] = ["append", "lma"]
    after = make_plan(parse_params(values))
    known = {(stage.kind, stage.cell): stage for stage in after.stages}
    assert all(known[stage.kind, stage.cell] == stage for stage in before.stages)
    added = [stage for stage in after.stages if stage not in set(before.stages)]
    assert {stage.stage for stage in added} >= {"blocks", "statistics", "match", "merge", "evaluate"}
    assert all(stage.stage == "blocks" or "placement=lma" in stage.cell for stage in added)
    assert not {stage.stage for stage in added} & {"train", "finetune", "predict", "evaluate-ensemble", "layers"}


def test_blocks_are_compared_once_whatever_is_done_with_them_after() -> None:
    values = bench_values()
    values["merges"] = {
        "depth": {"tasks": ["bars"], "seeds": [0], "normalize": ["none", "reset"], "placements": ["sma", "lma"]}
    }
    plan = make_plan(parse_params(values))
    assert [str(pair) for pair in plan.block_pairs] == ["bars.r29+r17.s0+s0"]
    made = "artifacts/blocks/bars.r29+r17.s0+s0.parquet"
    assert [stage.cell for stage in plan.stages if made in stage.outs] == ["bars.r29+r17.s0+s0"]
    readers = {stage.stage for stage in plan.stages if made in stage.deps}
    assert readers == {"statistics", "match", "merge"}


def test_blocks_of_two_widths_are_compared_where_their_number_differs() -> None:
    values = bench_values(methods={"transport": {}}, architectures=["r17", "r17x2", "r29x2"])
    values["merges"] = {"widths": {"tasks": ["bars"], "seeds": [0], "placements": ["lma"]}}
    plan = make_plan(parse_params(values))
    assert [str(merge.sources) for merge in plan.merges] == [
        "bars.r17x2+r17.s0+s0", "bars.r29x2+r17.s0+s0-placement=lma", "bars.r29x2+r17x2.s0+s0-placement=lma",
    ]  # fmt: skip
    assert [str(pair) for pair in plan.block_pairs] == ["bars.r29x2+r17.s0+s0", "bars.r29x2+r17x2.s0+s0"]


def test_normalising_another_way_takes_no_moments_of_pairs_and_matches_nothing_again() -> None:
    values = bench_values()
    values["normalize"]["repair"] = {"images": 24, "batch_size": 12}
    before = make_plan(parse_params(values))
    values["merges"]["same"]["normalize"] = ["reset", "repair"]
    after = make_plan(parse_params(values))
    assert set(before.stages) <= set(after.stages)
    added = {stage.stage for stage in set(after.stages) - set(before.stages)}
    assert added == {"layers", "merge", "evaluate"}
