"""The cache, the run cache and DVC's databases after a full disk, a dead disk or a careless hand."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import Workspace

pytestmark = pytest.mark.slow

PIPELINE = """\
stages:
  make:
    cmd: cat in.txt > out.txt && mkdir -p folder && echo one > folder/one.txt && echo two > folder/two.txt
    deps: [in.txt]
    outs: [out.txt, folder]
  after:
    cmd: cat out.txt out.txt > after.txt
    deps: [out.txt]
    outs: [after.txt]
"""


@pytest.fixture
def made(shell: Callable[[str], Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A pipeline that ran, whose databases lie where the test finds them."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    workspace = shell(PIPELINE)
    workspace.write("in.txt", "x" * 100)
    workspace.run()
    return workspace


def databases(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "site").rglob("cache.db") if ".damaged-" not in str(path)]


def no_traceback(text: str) -> None:
    assert "Traceback" not in text, text


def object_of(workspace: Workspace, output: str, cache: Path | None = None) -> Path:
    digest = hashlib.md5((workspace.root / output).read_bytes()).hexdigest()
    return (cache or workspace.root / ".dvc/cache") / "files/md5" / digest[:2] / digest[2:]


def test_an_empty_folder_and_a_damaged_note_in_the_run_cache(made: Workspace) -> None:
    runs = made.root / ".dvc/cache/runs"
    notes = sorted(runs.glob("??/*/*"))
    assert len(notes) == 2
    notes[0].unlink()
    notes[1].write_text("outs: [")
    for name in ("out.txt", "after.txt", "dvc.lock"):
        (made.root / name).unlink()
    found = made.mergeline("doctor", check=1)
    assert "1 empty folders and 1 damaged notes" in found.stdout
    text = made.run().stdout
    assert "2 ran" in text
    for folder in (runs / "aa/empty", runs / "bb/empty"):
        folder.mkdir(parents=True)
    made.mergeline("doctor", "--fix", check=0)
    assert not [folder for folder in runs.glob("??/*") if not any(folder.iterdir())]
    made.mergeline("doctor", check=0)
    made.edit("in.txt", "xxx", "yyy")
    made.dvc("repro")


@pytest.mark.parametrize("damage", ["text", "middle"])
def test_a_damaged_database_of_hashes_is_made_anew(made: Workspace, tmp_path: Path, damage: str) -> None:
    def harm() -> None:
        for path in databases(tmp_path):
            for journal in path.parent.glob("cache.db-*"):
                journal.unlink()
            if damage == "text":
                path.write_text("this is no database" * 100)
            else:
                data = bytearray(path.read_bytes())
                data[200 : len(data)] = os.urandom(len(data) - 200)
                path.write_bytes(bytes(data))

    assert databases(tmp_path)
    harm()
    if damage == "text":
        found = made.mergeline("doctor", check=1)
        assert "DVC's notes of hashes, is damaged" in found.stdout
        no_traceback(found.stderr)
        made.mergeline("doctor", "--fix", check=0)
        made.mergeline("doctor", check=0)
    made.edit("in.txt", "xxx", "yyy")
    assert "2 ran" in made.run().stdout
    assert "up to date" in made.dvc("status")


def test_a_cache_outside_of_the_benchmark_is_repaired_too(made: Workspace, tmp_path: Path) -> None:
    outside = tmp_path / "somewhere" / "cache"
    shutil.move(made.root / ".dvc/cache", tmp_path / "somewhere/cache")
    made.dvc("cache", "dir", "--local", str(outside))
    target = object_of(made, "out.txt", outside)
    target.chmod(0o644)
    target.write_bytes(b"y" * 100)
    found = made.mergeline("verify", check=1)
    assert str(target) in found.stdout.replace("\n", "")
    text = made.mergeline("verify", "--repair", check=0).stdout
    assert "restored from out.txt" in text
    assert target.read_bytes() == b"x" * 100
    made.mergeline("verify", check=0)
    (outside / "files/md5/.young.tmp").write_text("")
    os.utime(outside / "files/md5/.young.tmp", (1, 1))
    assert "1 temporary files" in made.mergeline("doctor", check=1).stdout


def test_missing_objects_are_seen_put_back_and_sent(made: Workspace, tmp_path: Path) -> None:
    made.dvc("remote", "add", "-d", "shared", str(tmp_path / "remote"))
    for name in ("out.txt", "folder/one.txt"):
        object_of(made, name).unlink()
    found = made.mergeline("verify", check=1).stdout
    assert "missing, of out.txt" in found
    assert "missing, of folder/one.txt" in found
    text = made.mergeline("verify", "--repair", check=0).stdout
    assert "restored from out.txt" in text
    assert "restored from folder/one.txt" in text
    made.mergeline("verify", check=0)
    object_of(made, "out.txt").unlink()
    text = made.run("--push").stdout
    assert "warning" not in text
    remote = object_of(made, "out.txt", tmp_path / "remote")
    assert remote.read_bytes() == b"x" * 100


def test_what_can_not_be_sent_is_said(made: Workspace, tmp_path: Path) -> None:
    made.dvc("remote", "add", "-d", "shared", str(tmp_path / "remote"))
    object_of(made, "folder/two.txt").unlink()
    (made.root / "folder/two.txt").unlink()
    script = "from pathlib import Path; from flows.running.run import push; print(push(Path('.').resolve()))"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=made.root, env=made.environment, capture_output=True, text=True, check=True
    )
    assert (
        "1 that the locks name are not in the cache and were not sent, such as that of folder/two.txt" in ended.stdout
    )


@pytest.mark.parametrize("which", ["folder", "protected"])
def test_a_damaged_object_of_the_remote_is_named_and_left_there(made: Workspace, tmp_path: Path, which: str) -> None:
    made.write(".gitignore", "/out.txt\n/after.txt\n/folder\n/.mergeline\n/logs\n/mergeline\n/stages\n/flows\n")
    made.dvc("remote", "add", "-d", "shared", str(tmp_path / "remote"))
    made.edit("in.txt", "xxx", "yyy")
    made.run("--push")
    made.git("add", "-A")
    made.git("commit", "-qm", "with a remote")
    target = object_of(made, "out.txt", tmp_path / "remote")
    if which == "folder":
        target = next((tmp_path / "remote").rglob("*.dir"))
    target.chmod(0o644)
    bad = target.read_bytes()[:-1] + b"!"
    target.write_bytes(bad)
    if which == "protected":
        target.chmod(0o444)
    second = tmp_path / "second"
    subprocess.run(["git", "clone", "-q", str(made.root), str(second)], check=True)
    clone = Workspace(second)
    for name in ("mergeline", "stages", "flows"):
        (second / name).symlink_to(made.root / name)
    text = clone.run("--pull").stdout
    assert f"{target} in the DVC remote is damaged, of {'folder' if which == 'folder' else 'out.txt'}" in text
    assert "cannot be reached" not in text
    assert target.read_bytes() == bad
    assert (second / "out.txt").read_bytes() == (made.root / "out.txt").read_bytes()
    assert "after restored" in text, "all else came from the remote"
    clone.mergeline("verify", check=0)
