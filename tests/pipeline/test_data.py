"""Changed data: noticed by every command and by plain DVC, with the reason; only what depends on them runs again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.data import forget_rewritten, look
from flows.dvc.hashes import SMALL_FILE
from flows.dvc.pipeline import Pipeline
from stages.plan.loading import parse_params
from tests.conftest import bench_values
from tests.pipeline.conftest import MICRO, Workspace, copied, finish, make_benchmark, output_files
from tests.pipeline.test_incremental import ran

pytestmark = pytest.mark.slow

FOLDERS = (
    MICRO.replace("  digits: {max_train: 200, max_test: 100}", "  birds: {source: folder, root: data/birds}")
    .replace("  optdigits: {max_train: 200, max_test: 100}", "  fish: {source: folder, root: data/fish}")
    .replace("same: {tasks: [digits]}", "same: {tasks: [birds]}")
    .replace("  pairs: {tasks: [[digits, optdigits]], seeds: [0, 1]}\n", "  others: {tasks: [fish]}\n")
)
"""Two tasks of one's own images, each merged with itself."""
SINGLE = FOLDERS.replace("  fish: {source: folder, root: data/fish}\n", "").replace("  others: {tasks: [fish]}\n", "")


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def draw_task(root: Path, first: int = 0) -> None:
    for label, name in enumerate(("robin", "wren")):
        for index in range(12):
            draw(root / name / f"{index:02d}.png", first + 100 * label + index)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished benchmark of two folders of images; not to be changed."""
    workspace = make_benchmark(tmp_path_factory.mktemp("data") / "benchmark", FOLDERS)
    draw_task(workspace.root / "data/birds")
    draw_task(workspace.root / "data/fish", 1000)
    workspace.write(".gitignore", (workspace.root / ".gitignore").read_text() + "/data/\n")
    return finish(workspace)


@pytest.fixture
def folders(made: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    with copied(made, tmp_path / "benchmark") as workspace:
        assert "nothing to do" in workspace.run().stdout, "a copy has the same fingerprints"
        yield workspace


def rewrite_unseen(path: Path, data: bytes) -> None:
    """Another content with the same size, time and inode."""
    before = path.stat()
    assert len(data) == before.st_size
    with path.open("r+b") as stream:
        stream.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)


def add(birds: Path) -> None:
    draw(birds / "robin/new.png", 77)


def delete(birds: Path) -> None:
    (birds / "wren/03.png").unlink()


def overwrite(birds: Path) -> None:
    draw(birds / "robin/00.png", 78)
    draw(birds / "wren/01.png", 79)


def overwrite_unseen(birds: Path) -> None:
    path = birds / "robin/04.png"
    rewrite_unseen(path, path.read_bytes()[:-1] + b"\1")


def rename(birds: Path) -> None:
    (birds / "robin/05.png").rename(birds / "wren/zz.png")


CHANGES = [
    (add, "1 image added (robin/new.png)"),
    (delete, "1 image deleted (wren/03.png)"),
    (overwrite, "2 images changed (robin/00.png, ...)"),
    (overwrite_unseen, "1 image changed (robin/04.png)"),
    (rename, "1 image renamed (robin/05.png -> wren/zz.png)"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_a_change_makes_its_task_stale_and_says_why(folders: Workspace, change: object, words: str) -> None:
    change(folders.root / "data/birds")  # type: ignore[operator]
    stale = folders.stale()
    assert stale["prepare@birds"] == [f"data of task birds: {words}"]
    direct = {name for name, reasons in stale.items() if any(not reason.startswith("waits") for reason in reasons)}
    assert direct == {"prepare@birds"}


def test_every_command_notices_with_the_reason(folders: Workspace) -> None:
    add(folders.root / "data/birds")
    said = "data of task birds: 1 image added (robin/new.png)"
    assert f"prepare@birds: {said}" in folders.mergeline("status", "--why", check=0).stdout
    assert f"prepare@birds: {said}" in folders.run("--dry").stdout
    assert said in folders.mergeline("check", check=0).stdout
    assert "up to date" in folders.dvc("status"), "nothing was written until now"
    assert said in folders.mergeline("verify", check=1).stdout
    folders.mergeline("plan", check=0)
    assert list(json.loads(folders.dvc("status", "--json"))) == ["prepare@birds"]
    assert folders.stale()["prepare@birds"] == [said], "the reason is known after planning too"


def test_only_what_depends_on_the_changed_task_runs(folders: Workspace) -> None:
    others = output_files(folders.root, ("artifacts",))
    add(folders.root / "data/birds")
    done = ran(folders)
    assert {"prepare@birds", "train@birds.r17.s0", "evaluate@birds.r17+r17.s0+s1.permute.reset", "report"} <= done
    assert not any("fish" in name and "birds" not in name for name in done), done
    after = output_files(folders.root, ("artifacts",))
    assert all(after[name] == data for name, data in others.items() if "fish" in name and "birds" not in name)
    assert "nothing to do" in folders.run().stdout
    assert "up to date" in folders.dvc("status")
    (folders.root / "data/birds/robin/new.png").unlink()
    assert folders.stale()["prepare@birds"] == ["data of task birds: 1 image deleted (robin/new.png)"]
    text = folders.run().stdout
    assert "✓ train" not in text, "what was there before comes from the run cache"
    assert output_files(folders.root, ("artifacts",)) == others


def test_a_touch_makes_nothing_stale(folders: Workspace) -> None:
    for path in (folders.root / "data/birds").rglob("*.png"):
        path.touch()
    assert folders.stale() == {}
    assert "nothing to do" in folders.run().stdout
    assert "up to date" in folders.dvc("status")


def test_data_that_are_moved_away_are_an_error_before_any_work(folders: Workspace) -> None:
    before = output_files(folders.root)
    (folders.root / "data/birds").rename(folders.root / "data/elsewhere")
    for command in (["check"], ["status"], ["run"], ["run", "--dry"], ["refresh"]):
        ended = folders.mergeline(*command, check=2)
        assert "tasks.birds" in ended.stderr, command
        assert "data/birds is not there" in ended.stderr
        assert "set tasks.birds.root" in ended.stderr
    assert "data/birds is not there" in folders.mergeline("verify", check=1).stdout
    assert output_files(folders.root) == before, "finished results are kept"
    folders.run("similarity", check=2)  # which needs both
    folders.run("evaluate@fish*")  # what does not need them runs
    (folders.root / "data/elsewhere").rename(folders.root / "data/birds")
    assert "nothing to do" in folders.run().stdout


def test_a_folder_that_is_empty_is_an_error_too(folders: Workspace) -> None:
    """As where a disk is not mounted."""
    before = output_files(folders.root)
    shutil.rmtree(folders.root / "data/birds")
    (folders.root / "data/birds").mkdir()
    assert "holds no files" in folders.run(check=2).stderr
    assert output_files(folders.root) == before


def test_a_refresh_takes_up_changed_data(folders: Workspace) -> None:
    overwrite(folders.root / "data/fish")
    assert folders.mergeline("refresh").returncode in (0, 4)
    assert "nothing to do" in folders.run().stdout


def test_plain_dvc_refuses_to_prepare_other_data_than_were_planned(folders: Workspace) -> None:
    (folders.root / "artifacts/tasks/birds.npz").unlink()
    shutil.rmtree(folders.root / ".dvc/cache")
    add(folders.root / "data/birds")
    folders.dvc("repro", "prepare@birds", check=False)
    assert not (folders.root / "artifacts/tasks/birds.npz").exists()
    folders.mergeline("plan", check=0)
    folders.dvc("repro", "prepare@birds")
    assert (folders.root / "artifacts/tasks/birds.npz").exists()


def test_a_clone_without_the_data_has_the_results(folders: Workspace, tmp_path: Path) -> None:
    folders.dvc("remote", "add", "-d", "shared", str(tmp_path / "remote"))
    assert "sent" in folders.run("--push").stdout
    folders.git("add", "-A")
    folders.git("commit", "-qm", "with a remote")
    subprocess.run(["git", "clone", "-q", str(folders.root), str(tmp_path / "clone")], check=True)
    clone = Workspace(tmp_path / "clone")
    assert "tasks.birds" in clone.run(check=2).stderr, "there is nothing to show"
    text = clone.run("--pull").stdout
    assert "✓" not in text, "all comes from the remote"
    assert "up to date" in clone.dvc("status")
    shutil.rmtree(clone.root / "artifacts")
    clone.dvc("pull")  # as who has not mergeline at hand
    assert not any("prepare" in name for name in json.loads(clone.dvc("status", "--json")))
    text = clone.run().stdout
    assert "nothing to do" in text
    assert "the data of task birds are not here" in text
    assert "nothing to do" in clone.run().stdout
    clone.mergeline("report", check=0)
    assert "tasks.birds" in clone.mergeline("check", check=2).stderr
    draw_task(clone.root / "data/birds")
    draw_task(clone.root / "data/fish", 1000)
    assert "nothing to do" in clone.run().stdout, "the same data make nothing stale"


READS_A_CHECKPOINT = """\
stages:
  take:
    cmd: cp mine/model.pth out.pth
    deps: [mine/model.pth]
    outs: [out.pth]
"""


@pytest.mark.parametrize("key", ["imports", "pretrained"])
def test_a_checkpoint_that_is_rewritten_unseen_is_noticed(shell: Callable[[str], Workspace], key: str) -> None:
    """DVC takes a file of the same size, time and inode for unchanged; plain DVC sees it too once a command has looked."""
    workspace = shell(READS_A_CHECKPOINT)
    path = workspace.write("mine/model.pth", "x" * (SMALL_FILE + 1))
    named = {"bars.r17.s1": "mine/model.pth"} if key == "imports" else {"r17": "mine/model.pth"}
    params = parse_params(bench_values(**{key: named}))

    def stale() -> list[str]:
        pipeline = Pipeline(workspace.root)
        forget_rewritten(workspace.root, look(workspace.root, params, write=False), pipeline)
        found = [str(reason) for reasons in pipeline.stale().values() for reason in reasons]
        pipeline.close()
        return found

    workspace.run()
    assert stale() == []
    rewrite_unseen(path, b"y" * (SMALL_FILE + 1))
    assert look(workspace.root, params, write=False).needs_check
    assert stale() == ["dependency mine/model.pth changed"]
    assert "modified" in workspace.dvc("status")


def test_a_benchmark_of_one_task_finishes(tmp_path: Path) -> None:
    workspace = make_benchmark(tmp_path / "benchmark", SINGLE)
    draw_task(workspace.root / "data/birds")
    workspace.run()
    assert (workspace.root / "reports/index.html").is_file()
    assert "nothing to do" in workspace.run().stdout
    assert "up to date" in workspace.dvc("status")
