"""Results that must not count as fresh: inputs and code that were other than is recorded, if only for a moment."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import SOURCE, Workspace, wait_for

pytestmark = pytest.mark.slow

READER = """\
stages:
  read:
    cmd: touch started && while [ ! -e go ]; do sleep 0.05; done && cat {what} > out.txt
    deps: [{dep}]
    outs: [out.txt]
"""


def borrowed(path: Path, text: str) -> Callable[[], None]:
    """Another file in the place of one; what it gives puts the very same file back, with all times but the kernel's."""
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    path.write_text(text)

    def give_back() -> None:
        kept.rename(path)

    return give_back


@pytest.mark.parametrize(("dep", "what"), [("in.txt", "in.txt"), ("folder", "folder/in.txt")])
def test_an_input_that_is_edited_and_put_back_while_a_stage_reads_it(
    shell: Callable[[str], Workspace], dep: str, what: str
) -> None:
    workspace = shell(READER.format(dep=dep, what=what))
    path = workspace.write(what, "good")
    run = workspace.start()
    wait_for((workspace.root / "started").exists, what="the stage")
    give_back = borrowed(path, "evil")
    workspace.write("go", "")
    wait_for(lambda: (workspace.root / "out.txt").exists() or run.poll() is not None, what="the reading")
    give_back()
    text, _ = run.communicate(timeout=60)
    # The stage may have ended before the file was back: then it is missing or other, which was always seen.
    assert run.returncode == 1, text
    assert f"{dep} changed while read ran; its result is not recorded" in text
    workspace.run()
    assert (workspace.root / "out.txt").read_text() == "good"


WORK = '''\
"""A stage that loads a module late."""
import time
from pathlib import Path

def run(context, cell):
    Path("started").touch()
    while not Path("go").exists():
        time.sleep(0.05)
    from stages.helper import VALUE
    Path("loaded").touch()
    while not Path("end").exists():
        time.sleep(0.05)
    Path("out.txt").write_text(VALUE)
'''
LATE = """\
stages:
  code:
    cmd: python -m stages code
    deps: [mergeline, stages]
    outs: [artifacts/code]
  work:
    cmd: python -m stages work
    deps: [artifacts/code/work.json]
    outs: [out.txt]
"""


@pytest.fixture
def late(shell: Callable[[str], Workspace]) -> Workspace:
    """A stage of the benchmark's own code, which waits for ``go`` before it loads a module, and for ``end`` after."""
    workspace = shell(LATE)
    for name in ("stages", "mergeline"):
        (workspace.root / name).unlink()
        shutil.copytree(SOURCE / name, workspace.root / name, ignore=shutil.ignore_patterns("__pycache__"))
    workspace.edit(
        "stages/registry.py",
        "STAGES: dict[str, Stage] = {",
        'STAGES: dict[str, Stage] = {\n    "work": Stage("stages.work", "run", "work", light=True),',
    )
    workspace.write("stages/work.py", WORK)
    workspace.write("stages/helper.py", 'VALUE = "good"\n')
    return workspace


@pytest.mark.parametrize("tool", ["mergeline", "dvc"])
def test_code_that_is_edited_and_put_back_during_a_run(late: Workspace, tool: str) -> None:
    root = late.root
    command = late.command("run", "--no-prefect") if tool == "mergeline" else ["dvc", "repro"]
    run = subprocess.Popen(
        command, cwd=root, env=late.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for((root / "started").exists, what="the stage")
    give_back = borrowed(root / "stages/helper.py", 'VALUE = "evil"\n')
    late.write("go", "")
    wait_for((root / "loaded").exists, what="the module")
    give_back()
    late.write("end", "")
    text, _ = run.communicate(timeout=60)
    assert run.returncode != 0, text
    assert "stages/helper.py was written to before it was loaded" in text
    assert tool == "dvc" or "work" in late.stale()
    if tool == "dvc":
        return
    for name in ("loaded", "end"):
        (root / name).unlink()
    run = late.start()
    wait_for((root / "loaded").exists, what="the module")
    late.edit("stages/work.py", "A stage", "An edit once it is loaded does no harm, and no work is lost: a stage")
    late.write("end", "")
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 0, text
    assert (root / "out.txt").read_text() == "good"


def test_parameters_that_are_edited_before_a_stage_reads_them_and_put_back(late: Workspace) -> None:
    """A stage waits for a worker with what it was found stale by; params.yaml is read as it starts."""
    root = late.root
    late.edit(
        "stages/registry.py",
        "STAGES: dict[str, Stage] = {",
        'STAGES: dict[str, Stage] = {\n    "write": Stage("stages.write", "run", "write the seed", light=True),',
    )
    late.write(
        "stages/write.py",
        "from pathlib import Path\n\ndef run(context, cell):\n    Path('seed.txt').write_text(str(context.params.seed))\n",
    )
    late.write(
        "dvc.yaml",
        LATE + "  write:\n    cmd: python -m stages write\n    deps: [artifacts/code/write.json]\n    params: [seed]\n"
        "    outs: [seed.txt]\n",
    )
    run = late.start("--jobs", "1")
    wait_for((root / "started").exists, what="the stage before")
    time.sleep(1)  # the next is on its way to the worker
    give_back = borrowed(root / "params.yaml", (root / "params.yaml").read_text().replace("seed: 0", "seed: 7"))
    for name in ("go", "end"):
        late.write(name, "")
    wait_for(lambda: (root / "out.txt").exists() or run.poll() is not None, what="the stage before")
    wait_for(lambda: (root / "seed.txt").exists() or run.poll() is not None, 60, "the stage")
    give_back()
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 1, text
    assert "seed was changed before this stage read it" in text
    late.run()
    assert (root / "seed.txt").read_text() == "0"


def test_dvc_repro_of_one_stage_with_code_that_is_not_hashed(late: Workspace) -> None:
    for name in ("go", "end"):
        late.write(name, "")
    late.run()
    (late.root / "out.txt").unlink()
    shutil.rmtree(late.root / ".dvc/cache/runs")
    late.edit("stages/helper.py", "good", "evil")
    late.dvc("repro", "--single-item", "--force", "work", check=False)
    assert "evil" not in (late.root / "dvc.lock").read_text()
    late.edit("stages/helper.py", "evil", "good")
    late.run()
    assert (late.root / "out.txt").read_text() == "good"


@pytest.fixture
def opened(shell: Callable[[str], Workspace]) -> Workspace:
    workspace = shell("stages:\n  copy:\n    cmd: cp big.bin out.bin\n    deps: [big.bin]\n    outs: [out.bin]\n")
    (workspace.root / "big.bin").write_bytes(b"a" * 100_000)
    os.utime(workspace.root / "big.bin", (1_700_000_000, 1_700_000_000))
    return workspace


def test_a_file_that_is_rewritten_as_it_is_hashed_is_hashed_again(
    opened: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.dvc import hashes
    from flows.dvc.pipeline import Pipeline
    from flows.dvc.stage import InputsChanged

    big = opened.root / "big.bin"
    real = hashes.hash_file

    def slow(path: str, *rest: object) -> object:
        found = real(path, *rest)  # type: ignore[arg-type]
        if path == str(big) and big.read_bytes()[:1] == b"a":
            big.write_bytes(b"b" * 100_000)
        return found

    monkeypatch.chdir(opened.root)
    monkeypatch.setattr(hashes, "hash_file", slow)
    pipeline = Pipeline(opened.root)
    snapshot = pipeline.snapshot("copy")
    (opened.root / "out.bin").write_bytes(big.read_bytes())
    with pytest.raises(InputsChanged, match=r"big\.bin changed while copy ran"):
        pipeline.record("copy", snapshot)
    pipeline.flush()
    pipeline.close()
    monkeypatch.undo()
    opened.run()
    text = (opened.root / "dvc.lock").read_text()
    assert hashlib.md5(b"b" * 100_000).hexdigest() in text
    assert hashlib.md5(b"a" * 100_000).hexdigest() not in text


def test_a_file_that_was_written_a_moment_ago_is_not_trusted_by_its_stamp(
    opened: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writes within a tick of the clock leave the same stamp; the tick is an hour here."""
    from flows.dvc import hashes
    from flows.dvc.pipeline import Pipeline

    monkeypatch.chdir(opened.root)
    monkeypatch.setattr(hashes, "TICK", 3600 * 10**9)
    big = opened.root / "big.bin"
    found = []
    now = time.time_ns() + 1
    for letter in (b"b", b"c"):
        with big.open("r+b") as stream:
            stream.write(letter * 100_000)
        os.utime(big, ns=(now, now))
        pipeline = Pipeline(opened.root)
        found.append(pipeline.snapshot("copy").hashes[str(big)][1].value)
        pipeline.flush()
        pipeline.close()
    assert found[0] != found[1]
