"""A changed parameter: only what depends on it runs again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stages.plan.loading import load_params
from stages.plan.pipelines import make_plan, write_pipelines
from tests.pipeline.conftest import MICRO, Workspace, make_benchmark, output_files

pytestmark = pytest.mark.slow


def direct(workspace: Workspace) -> set[str]:
    """Stages that are stale by themselves."""
    stale = workspace.stale()
    return {name for name, reasons in stale.items() if any(not reason.startswith("waits") for reason in reasons)}


def ran(workspace: Workspace) -> set[str]:
    """What runs now."""
    text = workspace.run().stdout
    return {line.split()[1] for line in text.splitlines() if line.startswith("✓")}


def test_nothing_stale_does_nothing_and_starts_no_server(benchmark_copy: Workspace) -> None:
    before = output_files(benchmark_copy.root)
    text = benchmark_copy.mergeline("run", check=0).stdout
    assert "nothing to do" in text
    assert output_files(benchmark_copy.root) == before
    assert not (benchmark_copy.root / ".prefect").exists()


def test_tau_touches_the_last_step_of_the_similarity_only(benchmark_copy: Workspace) -> None:
    benchmark_copy.edit("params.yaml", "tau: 1000.0", "tau: 500.0")
    assert direct(benchmark_copy) == {"similarity@digits+optdigits", "report"}
    done = ran(benchmark_copy)
    assert {"similarity@digits+optdigits", "collect", "report"} <= done
    assert not any(name.startswith(("embed", "train", "evaluate", "merge", "prepare")) for name in done)


def test_an_evaluation_setting_touches_evaluations_only(benchmark_copy: Workspace) -> None:
    benchmark_copy.edit(
        "params.yaml", "evaluate: {batch_size: 100}", "evaluate: {batch_size: 100, calibration_bins: 10}"
    )
    done = ran(benchmark_copy)
    kinds = {name.split("@")[0] for name in done}
    assert {"evaluate", "evaluate-edge", "evaluate-ensemble", "collect"} <= kinds
    assert not kinds & {"train", "statistics", "match", "merge", "embed", "prepare"}


def test_one_methods_options_touch_that_methods_cells_only(benchmark_copy: Workspace) -> None:
    benchmark_copy.edit("params.yaml", "  permute: {}", "  permute: {options: {}}")
    assert direct(benchmark_copy) == {
        "match@digits.r17+r17.s0+s1.permute",
        "match@digits+optdigits.r17+r17.s0+s1.permute",
        "match@digits+optdigits.r17+r17.s1+s0.permute",
        "collect",
        "audit",
        "report",
    }
    done = ran(benchmark_copy)
    assert not any(name.startswith(("merge@", "evaluate@")) for name in done), "the maps came out the same"


def test_a_new_seed_makes_no_old_stage_stale(benchmark_copy: Workspace) -> None:
    before = output_files(benchmark_copy.root, ("artifacts/edges", "artifacts/merged", "artifacts/evaluations"))
    pipelines = output_files(benchmark_copy.root, ("pipelines",))
    benchmark_copy.edit("params.yaml", "seeds: [0, 1]\ntasks", "seeds: [0, 1, 2]\ntasks")
    foreseen = benchmark_copy.stale()
    only = json.loads(benchmark_copy.mergeline("status", "train@digits.r17.s2", "--json", check=0).stdout)["stale"]
    assert only == {"train@digits.r17.s2": ["never run"]}
    assert output_files(benchmark_copy.root, ("pipelines",)) == pipelines, "status changes nothing"
    done = ran(benchmark_copy)
    cells = {name for name in done if "@" in name}
    assert cells == {name for name in foreseen if "@" in name}
    assert "train@digits.r17.s2" in cells
    assert cells
    assert all("s2" in name for name in cells), sorted(name for name in cells if "s2" not in name)
    after = output_files(benchmark_copy.root, ("artifacts/edges", "artifacts/merged", "artifacts/evaluations"))
    assert before.items() <= after.items()


def test_a_matcher_that_needs_other_moments_is_seen_before_anything_runs(benchmark_copy: Workspace) -> None:
    before = json.loads(benchmark_copy.mergeline("status", "--json", check=0).stdout)
    assert before["pipelines_to_write"] == []
    benchmark_copy.edit("mergeline/matching/identity.py", '"none", IdentityOptions', '"cross", IdentityOptions')
    after = json.loads(benchmark_copy.mergeline("status", "--json", check=0).stdout)
    assert after["pipelines_to_write"]
    assert "to write" in benchmark_copy.mergeline("check", check=0).stdout


def test_a_control_that_makes_no_merge_is_said(benchmark_copy: Workspace) -> None:
    benchmark_copy.edit("params.yaml", "seeds: [0, 1]}\n", "seeds: [0, 1], controls: [self]}\n")
    said = "merges.pairs.controls: self makes no merge here; it needs two models of one task and one architecture, so two seeds"
    assert said in benchmark_copy.mergeline("check", check=0).stdout
    assert said in benchmark_copy.run("--dry").stdout


def test_a_removed_seed_leaves_its_results_until_pruned(benchmark_copy: Workspace) -> None:
    benchmark_copy.edit("params.yaml", "  pairs: {tasks: [[digits, optdigits]], seeds: [0, 1]}\n", "")
    assert not any("optdigits" in name for name in benchmark_copy.stale()), "what is asked for no more is not stale"
    benchmark_copy.run()
    left = benchmark_copy.root / "artifacts/evaluations/digits+optdigits.r17+r17.s0+s1.permute.reset.json"
    assert left.exists()
    text = benchmark_copy.mergeline("prune", "--dry-run", check=0).stdout
    assert "digits+optdigits.r17+r17.s0+s1.permute.reset.json" in text
    assert left.exists()
    benchmark_copy.mergeline("prune", check=0)
    assert not left.exists()
    assert benchmark_copy.stale().keys() <= {"collect", "audit", "plot", "report"}
    benchmark_copy.run()
    assert benchmark_copy.stale() == {}


def test_code_edits_touch_the_stages_that_run_it_comments_touch_none(benchmark_copy: Workspace) -> None:
    path = "mergeline/matching/permute.py"
    benchmark_copy.edit(path, "    total = 0.0", "    # a comment\n    total = 0.0")
    stale = benchmark_copy.stale()
    assert set(stale) == {"code"}
    benchmark_copy.edit(path, "    total = 0.0", "    total = -0.0")
    names = direct(benchmark_copy)
    assert {name for name in names if name != "code"} == {
        "match@digits.r17+r17.s0+s1.permute",
        "match@digits+optdigits.r17+r17.s0+s1.permute",
        "match@digits+optdigits.r17+r17.s1+s0.permute",
    }
    done = ran(benchmark_copy)
    assert {name.split("@")[0] for name in done} == {"code", "match"}


def test_the_number_of_jobs_and_a_fresh_run_give_the_same_bytes(finished: Workspace, tmp_path: Path) -> None:
    again = make_benchmark(tmp_path / "again", MICRO)
    again.run("--jobs", "1")
    ours, theirs = output_files(finished.root), output_files(again.root)
    assert set(ours) == set(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_a_stage_that_needs_an_edited_file_during_its_run_is_not_recorded(benchmark_copy: Workspace) -> None:
    """An output edited by hand comes back from the cache."""
    path = benchmark_copy.root / "artifacts/matches/digits.r17+r17.s0+s1.permute.parquet"
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(b"edited")
    text = benchmark_copy.run().stdout
    assert "↺ match@digits.r17+r17.s0+s1.permute restored" in text
    assert path.read_bytes() == good


def test_results_hold_every_planned_row_with_its_provenance(finished: Workspace) -> None:
    rows = pq.read_table(finished.root / "artifacts/results.parquet").to_pylist()
    assert all(row["status"] == "ok" for row in rows)
    merges = [row for row in rows if row["kind"] == "merge"]
    assert {row["cell"] for row in merges} == {
        f"{group}.{method}.reset"
        for group in ("digits.r17+r17.s0+s1", "digits+optdigits.r17+r17.s0+s1", "digits+optdigits.r17+r17.s1+s0")
        for method in ("identity", "permute")
    }
    for row in merges:
        assert len(row["model"]) == 64
        assert row["sources"].count("=") == 2
        assert "digits=" in row["data"]
        assert row["images_reset"] == 100
    checks = json.loads((finished.root / "artifacts/audit.json").read_text())
    assert checks["errors"] == 0


def test_set_changes_one_value_keeps_comments_and_a_copy(benchmark_copy: Workspace) -> None:
    benchmark_copy.write("params.yaml", "# my notes\n" + (benchmark_copy.root / "params.yaml").read_text())
    benchmark_copy.run("--set", "similarity.tau=750.0")
    text = (benchmark_copy.root / "params.yaml").read_text()
    assert "# my notes" in text
    assert "tau: 750.0" in text
    copies = list((benchmark_copy.root / ".mergeline/params").glob("*.yaml"))
    assert len(copies) == 1
    assert "tau: 1000.0" in copies[0].read_text()


def test_a_dry_run_of_a_change_says_what_it_would_make_stale_and_changes_nothing(benchmark_copy: Workspace) -> None:
    before = output_files(benchmark_copy.root, ("artifacts", "pipelines", ".mergeline/params"))
    params = (benchmark_copy.root / "params.yaml").read_text()
    text = benchmark_copy.run("--set", "similarity.tau=500.0", "--set", "seeds=[0, 1, 2]", "--dry").stdout
    said = {line.split()[1].rstrip(":") for line in text.splitlines() if line.startswith(("stale", "waits"))}
    assert "stale similarity@digits+optdigits: parameter similarity.tau 1000.0 -> 500.0" in text
    assert (benchmark_copy.root / "params.yaml").read_text() == params
    assert output_files(benchmark_copy.root, ("artifacts", "pipelines", ".mergeline/params")) == before
    benchmark_copy.edit("params.yaml", "tau: 1000.0", "tau: 500.0")
    benchmark_copy.edit("params.yaml", "seeds: [0, 1]\ntasks", "seeds: [0, 1, 2]\ntasks")
    assert said == set(benchmark_copy.stale())
    other = MICRO.replace("architectures: [r17]", "architectures: [r17, r26]")
    benchmark_copy.write("profiles/wider.yaml", other)
    benchmark_copy.write("params.yaml", params)
    text = benchmark_copy.run("--profile", "wider", "--dry").stdout
    assert "stale train@digits.r26.s0: never run" in text
    assert "train@digits.r17" not in text


def test_a_status_counts_by_kind_and_says_how_long_as_a_run_does(benchmark_copy: Workspace) -> None:
    benchmark_copy.edit("params.yaml", "epochs: 1, batch_size: 50}\nfinetune", "epochs: 2, batch_size: 50}\nfinetune")
    text = benchmark_copy.mergeline("status", check=0).stdout
    assert "train: 4 stale\n" in text
    assert "waiting for others" in text
    assert "train@" not in text, "named where they are few, or asked for"
    assert (
        "stale train@digits.r17.s0: parameter train epochs: 1 -> 2"
        in benchmark_copy.mergeline("status", "--why").stdout
    )
    found = json.loads(benchmark_copy.mergeline("status", "--json", check=0).stdout)
    last = text.splitlines()[-1]
    assert last.startswith(f"{len(found['stale'])} stale, ")
    took = last.partition("about ")[2].removesuffix(" to run")
    assert last == benchmark_copy.run("--dry").stdout.splitlines()[-1]
    assert f"{len(found['stale'])} stages to run, about {took}\n" in benchmark_copy.run().stdout


def test_what_is_stale_is_the_same_from_the_outline_and_as_dvc_reads_it(benchmark_copy: Workspace) -> None:
    """Each change after another, on an outline from before it."""
    root = benchmark_copy.root
    lock = next((root / "pipelines").rglob("dvc.lock"))
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: benchmark_copy.edit("params.yaml", "tau: 1000.0", "tau: 750.0"),
        lambda: benchmark_copy.edit(
            "params.yaml", "epochs: 1, batch_size: 50}\nfinetune", "epochs: 2, batch_size: 50}\nfinetune"
        ),
        lambda: next((root / "artifacts/evaluations").glob("*.json")).unlink(),
        lambda: benchmark_copy.write("artifacts/edges/digits/more.txt", "a file in a folder that collect reads"),
        lambda: next((root / "artifacts/merged").rglob("model.safetensors")).write_bytes(b"changed"),
        lambda: lock.write_text(lock.read_text().replace("md5: ", "md5: 0", 1)),
        lambda: lock.unlink(),
        lambda: benchmark_copy.edit("dvc.yaml", "desc: flags numbers that cannot be", "frozen: true"),
        lambda: benchmark_copy.edit("params.yaml", "seeds: [0, 1]\ntasks", "seeds: [0, 1, 2]\ntasks"),
    ]
    seen = []
    for change in changes:
        benchmark_copy.stale()
        assert (root / ".mergeline/outline.json").is_file()
        change()
        outlined = benchmark_copy.stale()
        (root / ".mergeline/outline.json").unlink()
        seen.append(outlined)
        assert outlined == benchmark_copy.stale(), len(seen)
    assert seen[0] == {}
    assert len({json.dumps(own, sort_keys=True) for own in seen}) > 6, "what changed is seen"


@pytest.mark.parametrize("profile", ["tiny", "paper"])
def test_the_number_of_stages_of_a_profile_is_that_of_dvc(
    shell: Callable[[str], Workspace], profile: str, tmp_path: Path
) -> None:
    """Nothing of its data needs to be there."""
    root = Path(__file__).parents[2]
    workspace = shell((root / "dvc.yaml").read_text(encoding="utf-8"))
    said = workspace.mergeline("plan", "--profile", profile, check=0).stdout.splitlines()[-1]
    names = workspace.mergeline("plan", "--profile", profile, "--show", check=0).stdout.split()
    values = load_params(root / "profiles" / f"{profile}.yaml")
    workspace.write("params.yaml", (root / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8"))
    write_pipelines(make_plan(values), workspace.root)
    listed = [line.split()[0] for line in workspace.dvc("stage", "list", "--all", "--names-only").splitlines()]
    assert said.split()[:2] == [str(len(listed)), "stages,"]
    assert sorted(name.rpartition(":")[2] for name in listed) == sorted(names)


def test_output_that_nobody_reads_or_nothing_holds_is_no_traceback(benchmark_copy: Workspace) -> None:
    for command in (["status", "--all"], ["tasks"], ["run", "--force", "report"]):
        process = subprocess.Popen(
            benchmark_copy.command(*command), cwd=benchmark_copy.root, env=benchmark_copy.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == ("", 141), command
    with open("/dev/full", "w") as full:  # noqa: PTH123
        for command in (["status"], ["status", "--json"], ["methods"]):
            ended = subprocess.run(
                benchmark_copy.command(*command), cwd=benchmark_copy.root, env=benchmark_copy.environment, stdout=full,
                stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1), ended.stderr
            assert "no space is left where it goes" in ended.stderr
    assert benchmark_copy.run().stdout.count("nothing to do") == 1, "what was done before the output ended is kept"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("seed: 0", "sed: 0"), "sed: unknown key"),
        (("methods:\n  identity: {}", "methods:\n  identty: {}"), "unknown 'identty' (did you mean 'identity'?)"),
        (("architectures: [r17]", "architectures: [r18]"), "unknown 'r18'"),
        (("epochs: 1, batch_size: 50}\nfinetune", "epochs: yes, batch_size: 50}\nfinetune"), "train.epochs"),
        (("imports: {}", "imports: {digits.r17.s0: missing.pth}"), "missing.pth is missing"),
        (("device: cpu", "device: cuda"), "compute.device is cuda, but this machine has no GPU"),
        (("digits: {max_train", "digits: {root: /nowhere, max_train"), "/nowhere"),
    ],
)
def test_bad_input_is_one_error_before_any_work(benchmark_copy: Workspace, edit: tuple[str, str], message: str) -> None:
    before = output_files(benchmark_copy.root)
    benchmark_copy.edit("params.yaml", *edit)
    ended = benchmark_copy.run(check=2)
    assert message in ended.stderr
    assert output_files(benchmark_copy.root) == before


def test_a_checkpoint_that_does_not_fit_is_an_error_before_any_work(benchmark_copy: Workspace) -> None:
    import torch

    torch.save({"conv1.weight": torch.zeros(3)}, benchmark_copy.root / "mine.pth")
    before = output_files(benchmark_copy.root)
    benchmark_copy.edit("params.yaml", "imports: {}", "imports: {digits.r17.s0: mine.pth}")
    ended = benchmark_copy.run(check=2)
    assert "mine.pth does not fit" in ended.stderr
    assert output_files(benchmark_copy.root) == before


VALUES = """\
stages:
  make:
    cmd: echo made > out.txt
    params: [{values.yaml: [count]}]
    outs: [out.txt]
"""


def test_another_file_of_parameters_is_watched_too(shell: Callable[[str], Workspace]) -> None:
    workspace = shell(VALUES)
    workspace.write("values.yaml", "count: 1\n")
    workspace.run()
    assert "nothing to do" in workspace.run().stdout
    workspace.edit("values.yaml", "count: 1", "count: 2")
    assert "1 ran" in workspace.run().stdout


def test_a_full_check_that_finds_nothing_is_noted(shell: Callable[[str], Workspace]) -> None:
    workspace = shell(VALUES)
    workspace.write("values.yaml", "count: 1\n")
    workspace.run()
    note = workspace.root / ".mergeline" / "fresh.json"
    note.unlink()
    workspace.mergeline("status", check=0)
    assert not note.exists()
    assert "nothing to do" in workspace.run().stdout
    assert note.exists()


def test_no_more_commands_run_at_once_than_jobs(shell: Callable[[str], Workspace]) -> None:
    """A command that finds another's mark fails."""
    items = ", ".join(f"s{i}: {{}}" for i in range(4))
    workspace = shell(
        f"stages:\n  one:\n    foreach: {{{items}}}\n    do:\n      deps: [in.txt]\n      outs: ['${{key}}.txt']\n"
        "      cmd: mkdir busy && sleep 0.1 && rmdir busy && echo x > ${key}.txt\n"
    )
    workspace.write("in.txt", "x")
    workspace.run("--jobs", "1")
