"""The flow and plain DVC must agree: on what is stale, and on what is written down."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.dvc.lock_entries import dump_lock
from flows.dvc.pipeline import Pipeline
from tests.pipeline.conftest import Workspace

CHAIN = """\
stages:
  first:
    cmd: mkdir -p out && cat in.txt > out/first.txt && echo {a} >> out/first.txt
    deps: [in.txt]
    params: [seed]
    outs: [out/first.txt]
  second:
    foreach:
      x+y.r35: {{suffix: one}}
      x+y.r17: {{suffix: two}}
    do:
      cmd: cat out/first.txt > out/${{key}}.txt && echo ${{item.suffix}} >> out/${{key}}.txt
      deps: [out/first.txt]
      params: [train.epochs, report]
      outs: ["out/${{key}}.txt"]
  folder:
    cmd: mkdir -p out/folder && cp out/x+y.r35.txt out/folder/a.txt && cp out/x+y.r17.txt out/folder/b.txt
    deps: [out/x+y.r35.txt, out/x+y.r17.txt]
    outs: [out/folder]
  metric:
    cmd: echo '{{"n":1}}' > out/metric.json
    deps: [out/folder]
    metrics: [out/metric.json]
"""


@pytest.fixture
def chain(shell: Callable[[str], Workspace]) -> Workspace:
    workspace = shell(CHAIN.format(a="1"))
    workspace.write("in.txt", "hello\n")
    return workspace


def locks(root: Path) -> dict[str, object]:
    return {str(p.relative_to(root)): yaml.safe_load(p.read_text()) for p in sorted(root.rglob("dvc.lock"))}


def run_shell(workspace: Workspace) -> None:
    pipeline = Pipeline(workspace.root)
    from flows.running.session import Session

    assert Session(pipeline, pipeline.stale(), jobs=2).execute().ok
    pipeline.close()


def test_after_a_run_dvc_says_up_to_date_and_would_run_nothing(chain: Workspace) -> None:
    run_shell(chain)
    assert "up to date" in chain.dvc("status")
    assert "Running" not in chain.dvc("repro", "--dry", "--allow-missing")


def test_the_lock_is_what_dvc_repro_writes_byte_for_byte(chain: Workspace) -> None:
    run_shell(chain)
    ours = (chain.root / "dvc.lock").read_text(encoding="utf-8")
    (chain.root / "dvc.lock").unlink()
    shutil.rmtree(chain.root / "out")
    shutil.rmtree(chain.root / ".dvc" / "cache")
    chain.dvc("repro")
    theirs = (chain.root / "dvc.lock").read_text(encoding="utf-8")
    assert yaml.safe_load(ours) == yaml.safe_load(theirs)
    assert sorted(ours.splitlines()) == sorted(theirs.splitlines())


def test_after_dvc_repro_the_flow_finds_nothing_stale(chain: Workspace) -> None:
    chain.dvc("repro")
    assert Pipeline(chain.root).stale() == {}


def test_dvc_restores_from_the_run_cache_that_the_flow_filled(chain: Workspace) -> None:
    run_shell(chain)
    (chain.root / "dvc.lock").unlink()
    shutil.rmtree(chain.root / "out")
    text = chain.dvc("repro")
    assert text.count("is cached - skipping run") == 5
    assert "Running stage" not in text


def test_the_flow_restores_from_the_run_cache_that_dvc_filled(chain: Workspace) -> None:
    chain.dvc("repro")
    (chain.root / "dvc.lock").unlink()
    shutil.rmtree(chain.root / "out")
    pipeline = Pipeline(chain.root)
    from flows.running.session import Session

    outcome = Session(pipeline, pipeline.stale(), jobs=2).execute()
    assert {stage.state for stage in outcome.stages.values()} == {"restored"}
    assert "up to date" in chain.dvc("status")


@pytest.mark.parametrize(
    ("change", "direct"),
    [
        (lambda w: w.edit("in.txt", "hello", "world"), {"first": "dependency in.txt changed"}),
        (lambda w: w.edit("params.yaml", "seed: 0", "seed: 7"), {"first": "parameter seed 0 -> 7"}),
        (
            lambda w: w.edit("params.yaml", "train: {epochs: 1", "train: {epochs: 2"),
            {"second@x+y.r35": "parameter train.epochs 1 -> 2", "second@x+y.r17": "parameter train.epochs 1 -> 2"},
        ),
        (lambda w: w.edit("dvc.yaml", "suffix: two", "suffix: three"), {"second@x+y.r17": "command changed"}),
        (lambda w: (w.root / "out/first.txt").unlink(), {"first": "output out/first.txt is missing"}),
        (lambda w: w.write("out/x+y.r17.txt", "edited"), {"second@x+y.r17": "output out/x+y.r17.txt changed"}),
        (lambda w: w.edit("params.yaml", "title: micro", "title: other"), {
            "second@x+y.r35": "parameter report title: micro -> other",
            "second@x+y.r17": "parameter report title: micro -> other",
        }),
    ],
)  # fmt: skip
def test_every_change_makes_stale_what_dvc_says_and_says_why(
    chain: Workspace, change: Callable[[Workspace], object], direct: dict[str, str]
) -> None:
    run_shell(chain)
    change(chain)
    pipeline = Pipeline(chain.root)
    reasons = {pipeline.stages[a].name: "; ".join(map(str, r)) for a, r in pipeline.stale().items()}
    for name, text in direct.items():
        assert text in reasons[name]
    status = chain.dvc("status", "--json")
    import json

    told_by_dvc = set(json.loads(status))
    told_by_us = {name for name, text in reasons.items() if not text.startswith("waits")}
    assert told_by_us <= told_by_dvc | {name for name in told_by_us if "missing" in reasons[name]}
    assert told_by_dvc <= set(reasons)


def test_comments_order_and_unrelated_keys_make_nothing_stale(chain: Workspace) -> None:
    run_shell(chain)
    text = (chain.root / "params.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("seed")]
    chain.write("params.yaml", "# a comment\n" + "\n".join(lines) + "\nunrelated: 3\nseed: 0  # here now\n")
    assert Pipeline(chain.root).stale() == {}


def test_a_reverted_parameter_is_restored_not_run(chain: Workspace) -> None:
    run_shell(chain)
    chain.edit("params.yaml", "seed: 0", "seed: 1")
    run_shell(chain)
    chain.edit("params.yaml", "seed: 1", "seed: 0")
    pipeline = Pipeline(chain.root)
    from flows.running.session import Session

    outcome = Session(pipeline, pipeline.stale(), jobs=1).execute()
    assert outcome.count("ran") == 0
    assert outcome.count("restored") >= 1


def test_a_stage_whose_inputs_come_out_the_same_is_not_run(chain: Workspace) -> None:
    chain.edit("dvc.yaml", "cat in.txt > out/first.txt", "echo same > out/first.txt")
    run_shell(chain)
    chain.edit("in.txt", "hello", "other")
    pipeline = Pipeline(chain.root)
    from flows.running.session import Session

    outcome = Session(pipeline, pipeline.stale(), jobs=2).execute()
    states = {stage.name: stage.state for stage in outcome.stages.values()}
    assert states.pop("first") == "ran"
    assert set(states.values()) == {"unchanged"}


def test_a_dependency_that_is_no_more_makes_a_stage_stale(chain: Workspace) -> None:
    run_shell(chain)
    chain.edit("dvc.yaml", "params: [train.epochs, report]", "params: [train.epochs]")
    reasons = Pipeline(chain.root).stale()
    assert any("report is no parameter any more" in str(r) for rs in reasons.values() for r in rs)


names = st.text(alphabet="abcr0123456789+._-=", min_size=1, max_size=30)
values = st.one_of(
    st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False), names,
    st.text(alphabet="ab c:#'\"{}[]-&*!|>%@é", max_size=90),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        names, st.dictionaries(names, st.one_of(values, st.lists(values, max_size=3)), max_size=4), max_size=4
    )
)
def test_the_fast_lock_writer_writes_what_dvcs_does(params: dict[str, dict[str, object]]) -> None:
    from dvc.utils.serialize import dumps_yaml

    data = {
        "schema": "2.0",
        "stages": {
            name: {
                "cmd": f"python -m stages {name}",
                "deps": [{"path": "a", "hash": "md5", "md5": "0" * 32, "size": 1}],
                "params": {"params.yaml": entry},
            }
            for name, entry in params.items()
        },
    }
    assert dump_lock(data) == dumps_yaml(data)


def test_dvc_files_of_the_project_load_and_every_stage_is_known_to_dvc(finished: Workspace) -> None:
    listed = finished.dvc("stage", "list", "--all", "--name-only").split()
    pipeline = Pipeline(finished.root)
    assert len(listed) == len(pipeline.stages)
    assert "collect" in finished.dvc("dag")
    assert "permute" in finished.dvc("metrics", "show")


@pytest.mark.slow
def test_dvc_repro_alone_gives_the_same_results_as_the_flow(finished: Workspace, tmp_path: Path) -> None:
    """Plain DVC, one stage after the other in fresh processes, against warm workers in parallel: one merge and all that
    it needs."""
    from tests.pipeline.conftest import make_benchmark, output_files

    plain = make_benchmark(tmp_path / "plain")
    plain.mergeline("plan", check=0)
    cell = "evaluate@digits.r17+r17.s0+s1.permute.reset"
    files = [path for path in sorted((plain.root / "pipelines").rglob("dvc.yaml")) if cell[9:] in path.read_text()]
    plain.dvc("repro", f"{files[0].relative_to(plain.root)}:{cell}")
    similarity = next((plain.root / "pipelines").rglob("similarity/**/dvc.yaml"))
    plain.dvc("repro", f"{similarity.relative_to(plain.root)}:similarity@digits+optdigits")
    ours, theirs = output_files(finished.root), output_files(plain.root)
    assert f"artifacts/evaluations/{cell[9:]}.json" in theirs
    assert "artifacts/similarity/digits+optdigits.json" in theirs
    for name in theirs:
        assert ours[name] == theirs[name], name
    assert not any(cell in address for address in plain.stale())
