"""What a run is likely to take: times of other settings are scaled by their work, and stages run beside each other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.dvc.stage import PipelineStage
from flows.running.durations import OVERHEAD, elapsed_seconds, expected_seconds, note_work
from stages.formats.files import write_json
from stages.plan import paths
from stages.plan.loading import parse_params
from stages.plan.params import Params
from stages.plan.work import kind_of_work, work
from tests.conftest import bench_values


def params(**changed: Any) -> Params:
    values = copy.deepcopy(bench_values())
    for key, value in changed.items():
        section, _, name = key.partition("__")
        values[section][name] = value
    return parse_params(values)


def stage(name: str, cell: str = "", upstream: tuple[str, ...] = ()) -> PipelineStage:
    command = f"python -m stages {name} {cell}".strip()
    return PipelineStage(f"{name}@{cell}", f"{name}@{cell}", command, Path(), (), (), upstream=upstream, file="")


def test_work_grows_with_what_is_computed() -> None:
    usual = params()
    task = next(iter(usual.tasks))
    edges = [work(usual, "train", f"{task}.{name}.s0") for name in ("r17", "r35", "r35x2")]
    assert edges == sorted(edges)
    twice = params(train__epochs=2 * usual.train.epochs)
    assert work(twice, "train", f"{task}.r17.s0") == pytest.approx(2 * edges[0])
    assert work(usual, "train", f"{task}.r17.s0", {task: 400}) == pytest.approx(
        2 * work(usual, "train", f"{task}.r17.s0", {task: 200})
    )
    assert work(usual, "train", "gone.r17.s0") == 1.0
    assert work(usual, "collect", "") == 1.0


def test_times_are_compared_within_a_kind() -> None:
    assert kind_of_work("match", "a.r17+r17.s0+s1.zip") == "match zip"
    assert kind_of_work("merge", "a.r17+r17.s0+s1.zip.reset") == "merge reset"
    assert kind_of_work("train", "a.r17.s0") == "train"


def test_a_changed_setting_scales_what_a_stage_took_before(tmp_path: Path) -> None:
    before = params()
    task = next(iter(before.tasks))
    old, new = stage("train", f"{task}.r17.s0"), stage("train", f"{task}.r17.s7")
    write_json(
        tmp_path / paths.timing("train", f"{task}.r17.s0"),
        {"stage": "train", "cell": f"{task}.r17.s0", "seconds": 10.0},
    )
    note_work(tmp_path, before, [old], {})
    stages = {own.address: own for own in (old, new)}
    assert set(expected_seconds(tmp_path, before, stages, {}).values()) == {10.0}
    longer = params(train__epochs=3 * before.train.epochs)
    assert expected_seconds(tmp_path, longer, stages, {})[old.address] == pytest.approx(30.0)
    assert expected_seconds(tmp_path, longer, stages, {})[new.address] == pytest.approx(30.0)


def test_stages_run_beside_each_other_and_after_what_they_need() -> None:
    chain = {"a": stage("a"), "b": stage("b", upstream=("a",)), "c": stage("c"), "d": stage("d")}
    expected = {"a": 4.0, "b": 4.0, "c": 3.0, "d": 3.0}
    assert elapsed_seconds(chain, chain, expected, 1) == pytest.approx(14 + 4 * OVERHEAD)
    assert elapsed_seconds(chain, chain, expected, 2) == pytest.approx(8 + 2 * OVERHEAD)
    assert elapsed_seconds(chain, ["b", "c"], expected, 2) == pytest.approx(4 + OVERHEAD)
    assert elapsed_seconds(chain, [], expected, 2) == 0.0


@given(st.lists(st.tuples(st.floats(0, 9), st.sets(st.integers(0, 8))), max_size=9), st.integers(1, 4))
def test_no_run_is_shorter_than_its_longest_chain_or_its_share_of_the_work(
    drawn: list[tuple[float, set[int]]], jobs: int
) -> None:
    stages = {
        str(i): stage(str(i), upstream=tuple(str(up) for up in sorted(needs) if up < i))
        for i, (_, needs) in enumerate(drawn)
    }
    expected = {str(i): seconds for i, (seconds, _) in enumerate(drawn)}
    found = elapsed_seconds(stages, stages, expected, jobs)
    total = sum(expected.values()) + OVERHEAD * len(stages)
    assert total / jobs - 1e-9 <= found <= total + 1e-9
    assert elapsed_seconds(stages, stages, expected, 1) == pytest.approx(total)
