"""Sharing through a DVC remote: a local folder, and S3 by a moto server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import SOURCE, Workspace, wait_for

pytestmark = pytest.mark.slow


def clone(workspace: Workspace, target: Path) -> Workspace:
    subprocess.run(["git", "clone", "-q", str(workspace.root), str(target)], check=True)
    return Workspace(target)


def commit(workspace: Workspace) -> None:
    workspace.git("add", "-A")
    workspace.git("commit", "-qm", "with a remote")


def test_a_second_clone_with_the_remote_does_no_work(benchmark_copy: Workspace, tmp_path: Path) -> None:
    benchmark_copy.dvc("remote", "add", "-d", "shared", str(tmp_path / "remote"))
    text = benchmark_copy.run("--push").stdout
    assert "sent" in text
    commit(benchmark_copy)
    second = clone(benchmark_copy, tmp_path / "second")
    text = second.run("--pull").stdout
    assert not [line for line in text.splitlines() if line.startswith("✓")], text
    assert "up to date" in second.dvc("status")


def test_a_clone_without_locks_still_does_no_work(benchmark_copy: Workspace, tmp_path: Path) -> None:
    """The run cache alone says what these inputs give."""
    benchmark_copy.dvc("remote", "add", "-d", "shared", str(tmp_path / "remote"))
    benchmark_copy.run("--push")
    commit(benchmark_copy)
    second = clone(benchmark_copy, tmp_path / "second")
    for lock in second.root.rglob("dvc.lock"):
        lock.unlink()
    text = second.run("--pull").stdout
    assert not [line for line in text.splitlines() if line.startswith("✓ train")], text


def test_a_remote_that_is_away_is_a_warning_and_the_work_is_done_here(
    benchmark_copy: Workspace, tmp_path: Path
) -> None:
    benchmark_copy.dvc("remote", "add", "-d", "away", "s3://nowhere/x")
    benchmark_copy.dvc("remote", "modify", "away", "endpointurl", "http://127.0.0.1:9")
    for name, value in (("access_key_id", "x"), ("secret_access_key", "x")):
        benchmark_copy.dvc("remote", "modify", "--local", "away", name, value)
    benchmark_copy.edit("params.yaml", "tau: 1000.0", "tau: 123.0")
    text = benchmark_copy.run("--pull").stdout
    assert "the DVC remote cannot be reached" in text
    assert "✓ similarity@digits+optdigits ran" in text


def test_without_a_remote_pull_says_how_to_add_one(benchmark_copy: Workspace) -> None:
    benchmark_copy.edit("params.yaml", "tau: 1000.0", "tau: 124.0")
    assert "no DVC remote is configured" in benchmark_copy.run("--pull").stdout


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    """An S3 server of its own, with a bucket."""
    import socket
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "s3.log").open("wb") as stream:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
            stdout=stream, stderr=stream,
        )  # fmt: skip

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return True
        except OSError:
            return False

    try:
        wait_for(answers, 60, "the S3 server")
        import boto3

        client = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
        )
        client.create_bucket(Bucket="results")
        yield url
    finally:
        process.kill()
        process.wait()


def test_sharing_by_s3(shell: Callable[[str], Workspace], s3: str, tmp_path: Path) -> None:
    workspace = shell("stages:\n  make:\n    cmd: date +%N > out.txt\n    deps: [in.txt]\n    outs: [out.txt]\n")
    workspace.write("in.txt", "x")
    workspace.write(".gitignore", "out.txt\n.mergeline\nlogs\nmergeline\nstages\nflows\n")
    workspace.dvc("remote", "add", "-d", "s3", "s3://results/cache")
    workspace.dvc("remote", "modify", "s3", "endpointurl", s3)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    kept = {name: os.environ.get(name) for name in keys}
    os.environ |= keys
    try:
        assert "sent" in workspace.run("--push").stdout
        commit(workspace)
        second = clone(workspace, tmp_path / "second")
        for name in ("mergeline", "stages", "flows"):
            (second.root / name).symlink_to(SOURCE / name)
        shutil.copyfile(workspace.root / "params.yaml", second.root / "params.yaml")
        text = second.run("--pull").stdout
        assert "✓" not in text, text
        assert (second.root / "out.txt").read_text() == (workspace.root / "out.txt").read_text()
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
