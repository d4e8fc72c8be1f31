"""Prefect, with a real server: what it records, and that its health changes no result."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flows.mirror.access import secret_of
from flows.mirror.server import is_alive, own_server
from tests.pipeline.conftest import SOURCE, Workspace, answer_of, wait_for

pytestmark = pytest.mark.slow

FAILING = """\
stages:
  good:
    cmd: echo ok > good.txt
    deps: [in.txt]
    outs: [good.txt]
  bad:
    cmd: echo reason >&2 && exit 3
    deps: [in.txt]
    outs: [bad.txt]
  after:
    cmd: cat bad.txt > after.txt
    deps: [bad.txt]
    outs: [after.txt]
"""

FINE = """\
stages:
  one:
    cmd: sleep {seconds} && echo one > one.txt
    deps: [in.txt]
    outs: [one.txt]
  two:
    cmd: cat one.txt > two.txt
    deps: [one.txt]
    params: [seed]
    outs: [two.txt]
"""


SECRETS: dict[str, str] = {}
"""User and password of servers, by address."""


def access(url: str) -> dict[str, str]:
    """The environment of who may use a server."""
    return {"PREFECT_API_URL": url} | ({"PREFECT_API_AUTH_STRING": SECRETS[url]} if url in SECRETS else {})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server's address; one for the module, as it takes long to start."""
    folder = tmp_path_factory.mktemp("server")
    with own_server(folder) as (url, _):
        SECRETS[url] = secret_of(folder)
        yield url


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    import urllib.request

    headers = {"Content-Type": "application/json"}
    if url in SECRETS:
        headers["Authorization"] = f"Basic {base64.b64encode(SECRETS[url].encode()).decode()}"
    request = urllib.request.Request(f"{url}/{path}", json.dumps(body).encode(), headers, method="POST")
    status, content, _ = answer_of(request)
    assert status < 400, (status, content)
    return json.loads(content)


def run_recorded(workspace: Workspace, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        workspace.command("run", *arguments), cwd=workspace.root, env=workspace.environment | access(url),
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def last_flow_run(url: str, name: str = "benchmark") -> dict[str, Any]:
    runs = ask(url, "flow_runs/filter", {"sort": "START_TIME_DESC", "flows": {"name": {"any_": [name]}}, "limit": 1})
    assert runs, "no flow run is recorded"
    return runs[0]


def task_states(url: str, flow_run: str) -> dict[str, str]:
    tasks = ask(url, "task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [flow_run]}}, "limit": 200})
    return {task["name"]: task["state_name"] for task in tasks}


def settled(url: str, flow_run: str, count: int) -> Callable[[], bool]:
    """Task runs reach the server by events, a moment later."""
    return lambda: (
        len(task_states(url, flow_run)) == count
        and all(state not in ("Pending", "Running") for state in task_states(url, flow_run).values())
    )


def test_one_flow_run_with_a_task_per_stage_named_as_the_stage(shell: Callable[[str], Workspace], server: str) -> None:
    workspace = shell(FINE.format(seconds=0))
    workspace.write("in.txt", "x")
    ended = run_recorded(workspace, server)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "recorded in Prefect" in ended.stdout
    run = last_flow_run(server)
    assert run["state"]["name"] == "Completed"
    wait_for(settled(server, run["id"], 2))
    assert task_states(server, run["id"]) == {"one": "Completed", "two": "Completed"}
    tags = ask(server, "task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run["id"]]}}})[0]["tags"]
    assert "cpu" in tags


def test_cached_failed_and_skipped_are_visible_and_artifacts_say_what_ran_and_why(
    shell: Callable[[str], Workspace], server: str
) -> None:
    workspace = shell(FINE.format(seconds=0))
    workspace.write("in.txt", "x")
    run_recorded(workspace, server)
    (workspace.root / "one.txt").unlink()
    workspace.write("dvc.yaml", FAILING + FINE.format(seconds=0).removeprefix("stages:\n"))
    ended = run_recorded(workspace, server)
    assert ended.returncode == 1
    run = last_flow_run(server)
    assert run["state"]["name"] == "Failed"
    wait_for(settled(server, run["id"], 5))
    assert task_states(server, run["id"]) == {
        "good": "Completed", "bad": "Failed", "after": "Skipped", "one": "Cached", "two": "Cached",
    }  # fmt: skip
    artifacts = ask(server, "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    table = next(json.loads(a["data"]) for a in artifacts if a["key"] == "what-ran")
    assert {row["stage"]: row["why"] for row in table}["one"] == "output one.txt is missing"


def test_a_server_that_dies_in_the_middle_changes_nothing(shell: Callable[[str], Workspace], tmp_path: Path) -> None:
    workspace = shell(FINE.format(seconds=8))
    workspace.write("in.txt", "x")
    with own_server(tmp_path / "mortal") as (url, process):
        SECRETS[url] = secret_of(tmp_path / "mortal")
        run = subprocess.Popen(
            workspace.command("run"), cwd=workspace.root, env=workspace.environment | access(url),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        wait_for(lambda: ask(url, "flow_runs/filter", {}), 60, "the flow run")
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = run.communicate(timeout=120)
    assert run.returncode == 0, text
    assert "2 ran" in text
    assert (workspace.root / "two.txt").read_text() == "one\n"
    assert "up to date" in workspace.dvc("status")


def test_a_server_that_is_not_there_changes_nothing(shell: Callable[[str], Workspace]) -> None:
    workspace = shell(FINE.format(seconds=0))
    workspace.write("in.txt", "x")
    ended = run_recorded(workspace, "http://127.0.0.1:9/api")
    assert ended.returncode == 0, ended.stdout
    assert "not recorded in Prefect" in ended.stdout
    assert "2 ran" in ended.stdout


def test_a_run_that_was_killed_is_marked_crashed_by_the_next(shell: Callable[[str], Workspace], server: str) -> None:
    workspace = shell(FINE.format(seconds=60))
    workspace.write("in.txt", "x")
    run = subprocess.Popen(
        workspace.command("run"), cwd=workspace.root, env=workspace.environment | access(server),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def recorded() -> list[str]:
        runs = ask(server, "flow_runs/filter", {})
        return [r["id"] for r in runs if r["state"]["name"] == "Running" and f":{run.pid}:" in "".join(r["tags"])]

    wait_for(recorded, 60, "the flow run")
    dead = recorded()[0]
    run.kill()
    run.wait()
    wait_for(lambda: not workspace.processes(), 30, "all processes to end")
    workspace.edit("dvc.yaml", "sleep 60", "sleep 0")
    run_recorded(workspace, server)
    states = {r["id"]: r["state"]["name"] for r in ask(server, "flow_runs/filter", {})}
    assert states[dead] == "Crashed"


def test_without_a_server_a_long_run_starts_one_that_dies_with_it(shell: Callable[[str], Workspace]) -> None:
    workspace = shell(FINE.format(seconds=1))
    workspace.write("in.txt", "x")
    ended = workspace.mergeline("run", "--prefect", check=0)
    assert "recorded in Prefect" in ended.stdout, (workspace.root / "logs/prefect.log").read_text()
    assert (workspace.root / ".prefect" / "prefect.db").exists()
    assert not workspace.processes()


# -- schedules -----------------------------------------------------------------------------------------------------------

COLLECT = """\
stages:
  collect:
    cmd: python collect.py
    deps: [collect.py, accuracy.json]
    outs: [artifacts/results.parquet]
"""

COLLECT_PY = '''\
"""A results table like the benchmark's, from given accuracies (by architectures and seeds)."""
import json
import pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path
from stages.report.collect import SCHEMA

rows = []
for pair, values in json.loads(Path("accuracy.json").read_text()).items():
    for seeds, accuracy in values.items():
        rows.append({"cell": f"digits.{pair}.{seeds}.permute.reset", "kind": "merge", "control": "", "status": "ok",
                     "tasks": "digits", "architectures": pair, "seeds": seeds, "homogeneous": True, "size_mismatch": 0.0,
                     "method": "permute", "normalize": "reset", "scope": "digits", "accuracy": accuracy, "n": 100})
Path("artifacts").mkdir(exist_ok=True)
pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), "artifacts/results.parquet")
'''

BEFORE = {
    "r17+r17": {"s0+s1": 0.90, "s0+s2": 0.91, "s1+s2": 0.92},
    "r29+r29": {"s0+s1": 0.80, "s0+s2": 0.81, "s1+s2": 0.82},
}


@pytest.fixture
def scheduled(shell: Callable[[str], Workspace]) -> Workspace:
    workspace = shell(COLLECT)
    workspace.write("collect.py", COLLECT_PY)
    workspace.write("accuracy.json", json.dumps(BEFORE))
    workspace.run()
    workspace.git("add", "-A")
    workspace.git("commit", "-qm", "a baseline")
    return workspace


def plant_regression(workspace: Workspace) -> None:
    worse = {seeds: value - 0.05 - 0.001 * i for i, (seeds, value) in enumerate(BEFORE["r17+r17"].items())}
    workspace.write("accuracy.json", json.dumps({**BEFORE, "r17+r17": worse}))


def test_a_refresh_without_changes_says_so(scheduled: Workspace) -> None:
    ended = scheduled.mergeline("refresh", check=0)
    assert "Nothing changed." in ended.stdout
    assert "Compared with: commit" in ended.stdout
    assert "Nothing changed." in (scheduled.root / "reports/changes.md").read_text()


def test_a_refresh_finds_a_planted_regression_and_exits_4(scheduled: Workspace) -> None:
    plant_regression(scheduled)
    ended = scheduled.mergeline("refresh", "--json", check=4)
    found = json.loads(ended.stdout[ended.stdout.index("{") :])
    assert found["regressions"] == ["digits r17+r17 permute"]
    assert found["unchanged"] == 1
    text = (scheduled.root / "reports/changes.md").read_text()
    assert "## Worse" in text
    assert "| digits r17+r17 permute | 91.00 | 85.90 | -5.10 [" in text
    history = pq.read_table(scheduled.root / "reports/history.parquet").to_pylist()
    assert [row["regressions"] for row in history] == [1]
    scheduled.mergeline("refresh", check=4)
    assert pq.read_table(scheduled.root / "reports/history.parquet").num_rows == 2


def test_two_commits_stand_side_by_side(scheduled: Workspace) -> None:
    plant_regression(scheduled)
    scheduled.run()
    settings = {
        line["models"]: line
        for line in json.loads(scheduled.mergeline("compare", "HEAD", "--json", check=0).stdout)["settings"]
    }
    assert (settings["r17+r17"]["first (%)"], settings["r17+r17"]["second (%)"]) == ("91.00", "85.90")
    assert settings["r17+r17"]["difference"].startswith("-5.10")
    assert settings["r29+r29"]["difference"].startswith("+0.00")
    scheduled.git("commit", "-qam", "worse")
    text = scheduled.mergeline("compare", "HEAD~1", "HEAD", check=0).stdout
    assert "85.90" in text
    assert "91.00" in text
    ended = scheduled.mergeline("compare", "nowhere", check=2)
    assert "none committed: git knows no commit nowhere" in ended.stderr
    assert scheduled.git("status", "--porcelain", "--untracked-files=no") == ""


def test_committing_the_lock_accepts_the_numbers(scheduled: Workspace) -> None:
    plant_regression(scheduled)
    scheduled.mergeline("refresh", check=4)
    scheduled.git("commit", "-qam", "accepted")
    assert "Nothing changed." in scheduled.mergeline("refresh", check=0).stdout


def test_new_and_removed_cells_and_improvements_are_told(scheduled: Workspace) -> None:
    better = {seeds: value + 0.04 for seeds, value in BEFORE["r29+r29"].items()}
    scheduled.write("accuracy.json", json.dumps({"r29+r29": better, "r35+r35": {"s0+s1": 0.5}}))
    text = scheduled.mergeline("refresh", check=0).stdout
    assert "## Better" in text
    assert "digits.r35+r35.s0+s1.permute.reset" in text
    assert "digits.r17+r17.s0+s1.permute.reset" in text


def test_a_scheduled_refresh_fires_finds_the_regression_and_says_so(scheduled: Workspace) -> None:
    """``mergeline serve --interval``: a real server, a real schedule, a run that nobody started."""
    plant_regression(scheduled)
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    process = subprocess.Popen(
        scheduled.command("serve", "--interval", "15", "--port", str(port)), cwd=scheduled.root,
        env=scheduled.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(lambda: is_alive(url), 120, "the server")
        SECRETS[url] = secret_of(scheduled.root)

        def regression() -> bool:
            runs = ask(url, "flow_runs/filter", {"flows": {"name": {"any_": ["refresh"]}}})
            return any(run["state"]["name"] == "Regression" for run in runs if run["state"])

        wait_for(regression, 150, "a scheduled run that finds the regression")
        runs = ask(url, "flow_runs/filter", {"flows": {"name": {"any_": ["refresh"]}}})
        run = next(r for r in runs if r["state"] and r["state"]["name"] == "Regression")
        assert run["auto_scheduled"]
        assert "digits r17+r17 permute" in run["state"]["message"]
        artifacts = ask(url, "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
        assert any(a["key"] == "changes" and "## Worse" in a["data"] for a in artifacts)
        assert "## Worse" in (scheduled.root / "reports/changes.md").read_text()
        running = [r for r in runs if r["state"] and r["state"]["type"] == "RUNNING"]
        assert len(running) <= 1
    finally:
        os.kill(process.pid, signal.SIGTERM)
        text, _ = process.communicate(timeout=40)
    assert process.returncode == 0, text
    wait_for(lambda: not scheduled.processes(), 15, "all processes to end")
    assert not (scheduled.root / ".mergeline/server.json").exists()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_after_downtime_only_the_latest_missed_run_is_kept(server: str, tmp_path: Path) -> None:
    """Runs that were due while nobody served them: all but the newest are cancelled."""
    script = """
import datetime, json, sys
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Scheduled
from flows.mirror.serving import drop_late_runs

@flow(name="refresh-downtime")
def nothing():
    pass

now = datetime.datetime.now(datetime.UTC)
with get_client(sync_client=True) as client:
    for hours in (3, 2, 1, -1):
        client.create_flow_run(nothing, state=Scheduled(scheduled_time=now - datetime.timedelta(hours=hours)))
print(json.dumps(drop_late_runs("refresh-downtime")))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=SOURCE, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **access(server), "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == 2
    runs = ask(server, "flow_runs/filter", {"flows": {"name": {"any_": ["refresh-downtime"]}}})
    states = sorted((r["expected_start_time"], r["state"]["type"]) for r in runs)
    assert [state for _, state in states] == ["CANCELLED", "CANCELLED", "SCHEDULED", "SCHEDULED"]


def test_the_deployments_of_prefect_yaml_name_a_flow_profiles_and_schedules_that_exist() -> None:
    deployments = yaml.safe_load((SOURCE / "prefect.yaml").read_text())["deployments"]
    assert {d["name"] for d in deployments} == {"nightly-small", "weekly-full"}
    from prefect.flows import load_flow_from_entrypoint
    from prefect.server.schemas.schedules import CronSchedule

    for deployment in deployments:
        path, _, name = deployment["entrypoint"].partition(":")
        flow = load_flow_from_entrypoint(f"{SOURCE / path}:{name}")
        assert set(deployment["parameters"]) <= set(flow.parameters.properties)
        assert (SOURCE / "profiles" / f"{deployment['parameters']['profile']}.yaml").is_file()
        for schedule in deployment["schedules"]:
            CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_the_results_schema_of_the_schedule_tests_is_the_projects(scheduled: Workspace) -> None:
    from stages.report.collect import SCHEMA

    assert pq.read_schema(scheduled.root / "artifacts/results.parquet").equals(pa.schema(SCHEMA))
