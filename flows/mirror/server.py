"""The Prefect server: finding the one to use, and running one of the benchmark's own.

The benchmark's own server keeps its database in ``.prefect/``, listens on this machine only, answers who knows its secret
(:mod:`flows.mirror.access`), sends no telemetry, and dies with the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from flows.loopback import LOOPBACK, spare_loopback
from flows.mirror.access import secret_of
from flows.running.guard import start_of
from flows.running.workers import die_with_parent
from stages.formats.files import write_json
from stages.plan import paths

__all__ = [
    "configured_url",
    "is_alive",
    "note_server",
    "own_environment",
    "own_server",
    "server_environment",
    "server_note",
    "wait_until_alive",
]

START_SECONDS = 180.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def server_environment(root: Path, url: str | None = None) -> dict[str, str]:
    """The environment in which Prefect uses this benchmark's home, and a server if ``url`` is given.

    The secret goes to the benchmark's own server alone: to one that ``mergeline serve`` runs, or that is started here.
    """
    environment = dict(os.environ)
    spare_loopback(environment)
    environment.setdefault("PREFECT_HOME", str(root / paths.PREFECT))
    environment |= {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_CLI_PROMPT": "false",
    }
    environment.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    if url is not None:
        environment["PREFECT_API_URL"] = url
    if url is not None and url == _noted_url(root):
        environment["PREFECT_API_AUTH_STRING"] = secret_of(root)
    return environment


def own_environment(root: Path, url: str) -> dict[str, str]:
    """The environment of the benchmark's own server at an address, and of who uses it."""
    secret, port = secret_of(root), url.removesuffix("/api").rpartition(":")[2]
    return server_environment(root, url) | {
        "PREFECT_API_AUTH_STRING": secret,
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
    }


def server_note(root: Path) -> Path:
    """Where ``mergeline serve`` notes its server's address."""
    return root / paths.SERVER


def configured_url(root: Path) -> str | None:
    """The server to use: PREFECT_API_URL, or the one that ``mergeline serve`` runs here; None if there is none."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    url = _noted_url(root)
    return url if url is not None and is_alive(url) else None


def note_server(root: Path, url: str) -> None:
    """Note this process as the one that serves at an address."""
    note = server_note(root)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, {"url": url, "pid": os.getpid(), "start": start_of(os.getpid())})


def _noted_url(root: Path) -> str | None:
    """The address that ``mergeline serve`` noted, while it runs: later another user's server may listen there."""
    try:
        noted = json.loads(server_note(root).read_text(encoding="utf-8"))
        runs = start_of(int(noted["pid"])) == noted["start"] != ""
        return str(noted["url"]) if runs else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_alive(url: str, timeout: float = 2.0) -> bool:
    """Whether a Prefect server answers."""
    try:
        opened = _DIRECT.open if _is_loopback(url) else urllib.request.urlopen
        with opened(f"{url}/health", timeout=timeout) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _is_loopback(url: str) -> bool:
    return urllib.parse.urlsplit(url).hostname in LOOPBACK


def wait_until_alive(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait for a server to answer.

    Raises
    ------
    RuntimeError: it ended, or did not answer in time; with the end of its log.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if is_alive(url):
            return
        time.sleep(0.2)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:])
    raise RuntimeError(f"the Prefect server did not start ({log}):\n{tail}")


@contextlib.contextmanager
def own_server(root: Path, port: int | None = None) -> Iterator[tuple[str, subprocess.Popen]]:
    """A Prefect server for this benchmark; gives its API's address once it answers, and ends it afterwards."""
    port = port or _free_port()
    url = f"http://127.0.0.1:{port}/api"
    log = root / paths.log("prefect-server")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=root, env=own_environment(root, url), stdout=stream, stderr=stream,
            stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
    try:
        wait_until_alive(url, process, log)
        yield url, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
