"""The schedule's server among other users of the machine: who does not know its secret gets nothing done, nobody another folder."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.loopback import spare_loopback
from flows.mirror.access import secret_file, secret_of
from flows.mirror.server import is_alive
from tests.pipeline.conftest import Workspace, answer_of, wait_for
from tests.pipeline.test_prefect import _free_port

STAGE = "stages:\n  make:\n    cmd: echo made > out.txt\n    deps: [in.txt]\n    outs: [out.txt]\n"


def sent(
    url: str, path: str, body: dict[str, Any] | None, secret: str | None, origin: str = "", method: str = "POST"
) -> tuple[int, Any, dict[str, str]]:
    """Status, content and headers of an answer."""
    headers = {"Content-Type": "application/json"} | ({"Origin": origin} if origin else {})
    if secret is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/{path}", data, headers, method=method)
    status, content, found = answer_of(request)
    return status, json.loads(content or b"null") if status < 400 else None, found


@pytest.mark.slow
def test_a_served_benchmark_is_nobody_elses(shell: Callable[[str], Workspace], tmp_path: Path) -> None:
    workspace = shell(STAGE)
    workspace.write("in.txt", "x")
    evil = tmp_path / "evil"
    (evil / ".dvc").mkdir(parents=True)
    (evil / "dvc.yaml").write_text(f"stages:\n  evil:\n    cmd: touch {evil}/got-in\n")
    (evil / "params.yaml").write_text((workspace.root / "params.yaml").read_text())
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    proxied = workspace.environment | {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    process = subprocess.Popen(
        workspace.command("serve", "--interval", "100000", "--port", str(port)), cwd=workspace.root,
        env=proxied, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(lambda: is_alive(url), 120, "the server")
        assert secret_file(workspace.root).stat().st_mode & 0o777 == 0o600
        secret = secret_of(workspace.root)
        _nobody_gets_in(url, port)
        found: list[Any] = []

        def deployed() -> bool:
            found[:] = sent(url, "deployments/filter", {}, secret)[1]
            return bool(found)

        wait_for(deployed, 90, "the deployment")
        posted = {"parameters": {"folder": str(evil)}, "state": {"type": "SCHEDULED"}}
        status, flow_run, _ = sent(url, f"deployments/{found[0]['id']}/create_flow_run", posted, secret)
        assert status in (200, 201)

        def ended() -> bool:
            state = sent(url, f"flow_runs/{flow_run['id']}", None, secret, method="GET")[1]["state"]
            found[:] = [state]
            return state["type"] in ("FAILED", "COMPLETED", "CRASHED")

        wait_for(ended, 90, "the posted run")
        assert found[0]["type"] == "FAILED"
        assert "is not the benchmark that is refreshed here" in found[0]["message"]
        assert not (evil / "got-in").exists()
        recorded = subprocess.run(
            workspace.command("run"), cwd=workspace.root, env=proxied, capture_output=True, text=True, timeout=100,
            check=False,
        )  # fmt: skip
        assert recorded.returncode == 0, recorded.stdout + recorded.stderr
        assert "recorded in Prefect" in recorded.stdout.replace("not recorded", "")
    finally:
        os.kill(process.pid, signal.SIGTERM)
        text, _ = process.communicate(timeout=40)
    assert process.returncode == 0, text
    assert str(secret_file(workspace.root)) in text.replace("\n", "")
    assert secret not in text
    wait_for(lambda: not workspace.processes(), 15, "all processes to end")


def _nobody_gets_in(url: str, port: int) -> None:
    for secret in (None, "mergeline:", "admin:admin"):
        assert sent(url, "deployments/filter", {}, secret)[0] == 401
        assert sent(url, "flows/", {"name": "x"}, secret)[0] == 401
    preflight = sent(url, "health", None, None, "http://evil.example", "GET")[2]
    assert "access-control-allow-origin" not in {name.lower() for name in preflight}
    own = sent(url, "health", None, None, f"http://localhost:{port}", "GET")[2]
    assert {name.lower(): value for name, value in own.items()}["access-control-allow-origin"].endswith(f":{port}")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ui-settings", timeout=30) as answer:
        assert json.loads(answer.read())["auth"] == "BASIC"


@pytest.mark.parametrize("before", ["none", "readable", "link", "empty", "pipe"])
def test_the_secret_is_made_anew_where_others_may_know_it(tmp_path: Path, before: str) -> None:
    path = secret_file(tmp_path)
    path.parent.mkdir()
    known = f"mergeline:{'x' * 40}"
    if before == "readable":
        path.write_text(known)
        path.chmod(0o644)
    elif before == "link":
        (tmp_path / "theirs").write_text(known)
        (tmp_path / "theirs").chmod(0o600)
        path.symlink_to(tmp_path / "theirs")
    elif before == "empty":
        path.touch(0o600)
    elif before == "pipe":
        os.mkfifo(path, 0o600)
    made = secret_of(tmp_path)
    assert made != known
    assert len(made) > 40
    assert path.read_text().strip() == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret_of(tmp_path) == made
    if before == "link":
        assert (tmp_path / "theirs").read_text() == known


def test_the_secret_goes_to_no_other_server(tmp_path: Path) -> None:
    """Not to another address, nor to the noted one once ``serve`` is gone: anyone may listen there then."""
    script = """
import json, os, sys
from pathlib import Path
from flows.mirror.server import note_server, server_environment
root = Path(sys.argv[1])
note_server(root, "http://127.0.0.1:4/api")
print(*("PREFECT_API_AUTH_STRING" in server_environment(root, f"http://127.0.0.1:{port}/api") for port in (4, 5)))
"""
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["True", "False"]
    from flows.mirror.server import configured_url, server_environment

    assert "PREFECT_API_AUTH_STRING" not in server_environment(tmp_path, "http://127.0.0.1:4/api")
    assert os.environ.get("PREFECT_API_URL") or configured_url(tmp_path) is None


def test_loopback_needs_no_proxy_and_what_was_said_stays() -> None:
    environment = {"http_proxy": "http://proxy:1", "no_proxy": "example.org"}
    spare_loopback(environment)
    assert environment["NO_PROXY"] == environment["no_proxy"] == "example.org,127.0.0.1,localhost,::1"
    plain = {"HOME": "/"}
    spare_loopback(plain)
    assert plain == {"HOME": "/"}
