"""Faults, by real processes: what is killed, cut off, filled up or edited must cost time only."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.pipeline.conftest import Workspace, output_files, signal_group, wait_for

pytestmark = pytest.mark.slow

SLEEPER = """\
stages:
  quick:
    cmd: echo quick > quick.txt
    outs: [quick.txt]
    deps: [in.txt]
  slow:
    cmd: echo part > slow.txt && sleep {seconds} && echo done >> slow.txt
    deps: [in.txt]
    outs: [slow.txt]
  after:
    cmd: cat slow.txt quick.txt > after.txt
    deps: [slow.txt, quick.txt]
    outs: [after.txt]
"""


@pytest.fixture
def sleeper(shell: Callable[[str], Workspace]) -> Workspace:
    workspace = shell(SLEEPER.format(seconds=30))
    workspace.write("in.txt", "x")
    return workspace


def lock_is_free(workspace: Workspace) -> bool:
    import fcntl

    with (workspace.root / ".mergeline" / "run.lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def retrain(workspace: Workspace, epochs: int = 80) -> None:
    """Make the edges stale, and their training long enough to be killed in."""
    workspace.edit("params.yaml", "train: {epochs: 1,", f"train: {{epochs: {epochs},")


def worker_processes(workspace: Workspace) -> list[psutil.Process]:
    """Warm workers that run a stage (they use the processor)."""
    noted = workspace.root / ".mergeline" / "processes"
    if not noted.is_dir():
        return []
    found = []
    for entry in noted.iterdir():
        try:
            found.append(psutil.Process(int(entry.name)))
        except (psutil.Error, ValueError):
            continue
    return found


def training_runs(workspace: Workspace) -> bool:
    return any((workspace.root / ".mergeline" / "checkpoints").glob("*.pt"))


# -- killed ------------------------------------------------------------------------------------------------------------


def test_kill_9_of_a_stage_is_retried_and_leaves_no_half_output(sleeper: Workspace) -> None:
    sleeper.edit("dvc.yaml", "sleep 30", "sleep 3")
    run = sleeper.start()
    wait_for(lambda: (sleeper.root / "slow.txt").exists())
    stages = [p for p in sleeper.processes() if "sleep 3" in " ".join(p.cmdline())]
    for process in stages:
        process.kill()
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 0, text
    assert "retrying: killed by SIGKILL" in text
    assert (sleeper.root / "after.txt").read_text() == "part\ndone\nquick\n"


def test_kill_9_of_a_worker_in_a_real_training_is_retried_and_resumes(benchmark_copy: Workspace) -> None:
    retrain(benchmark_copy)
    run = benchmark_copy.start("train", "--jobs", "1")
    wait_for(lambda: training_runs(benchmark_copy), what="a checkpoint")
    for process in worker_processes(benchmark_copy):
        process.kill()
    text, _ = run.communicate(timeout=200)
    assert run.returncode == 0, text
    assert "retrying: killed by SIGKILL" in text
    assert not benchmark_copy.processes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_the_flow_ends_everything_and_the_next_run_resumes(benchmark_copy: Workspace, number: int) -> None:
    retrain(benchmark_copy, epochs=80)
    run = benchmark_copy.start()
    wait_for(lambda: training_runs(benchmark_copy), what="a checkpoint")
    begun = time.monotonic()
    os.kill(run.pid, number)
    text, _ = run.communicate(timeout=30)
    wait_for(lambda: not benchmark_copy.processes(), 10, "all processes to end")
    assert time.monotonic() - begun < 15
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert run.returncode == expected, text
    assert lock_is_free(benchmark_copy)
    assert not list((benchmark_copy.root / "artifacts/edges").glob("*/.*"))
    checkpoints = len(list((benchmark_copy.root / ".mergeline/checkpoints").glob("*.pt")))
    assert checkpoints
    resumed = benchmark_copy.run().stdout
    assert "✓ train@digits.r17.s0 ran" in resumed
    assert not training_runs(benchmark_copy)
    assert "up to date" in benchmark_copy.dvc("status")


def test_an_interrupted_and_resumed_run_gives_the_same_bytes(benchmark_copy: Workspace, tmp_path: Path) -> None:
    straight = Workspace(shutil.copytree(benchmark_copy.root, tmp_path / "straight", symlinks=True))
    retrain(benchmark_copy, epochs=80)
    retrain(straight, epochs=80)
    straight.run()
    run = benchmark_copy.start()
    wait_for(lambda: training_runs(benchmark_copy), what="a checkpoint")
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=30)
    wait_for(lambda: not benchmark_copy.processes(), 10)
    benchmark_copy.run()
    ours, theirs = output_files(benchmark_copy.root), output_files(straight.root)
    assert [name for name in theirs if ours.get(name) != theirs[name]] == []


def test_ctrl_c_in_a_terminal_reaches_the_whole_group(sleeper: Workspace) -> None:
    run = sleeper.start()
    wait_for(lambda: (sleeper.root / "slow.txt").exists())
    signal_group(run, signal.SIGINT)
    text, _ = run.communicate(timeout=20)
    assert run.returncode == 130, text
    assert not sleeper.processes()
    assert "cancelled" in text


def test_a_process_that_an_earlier_run_left_is_ended_by_the_next(sleeper: Workspace) -> None:
    """Should the kernel not have killed it: the notes name it by number and start time."""
    from flows.running.guard import start_of

    left = subprocess.Popen(["sleep", "300"], cwd=sleeper.root, start_new_session=True)
    try:
        notes = sleeper.root / ".mergeline" / "processes"
        notes.mkdir(parents=True)
        (notes / str(left.pid)).write_text(f"{start_of(left.pid)} 1-1")
        (notes / str(os.getpid())).write_text("another start time")
        assert "processes of an earlier run" in sleeper.mergeline("doctor").stdout
        sleeper.edit("dvc.yaml", "sleep 30", "sleep 0")
        sleeper.run()
        assert left.wait(5) == -signal.SIGKILL
    finally:
        left.kill()


# -- lock files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.97])
def test_a_truncated_lock_is_put_right_and_nothing_runs_again(benchmark_copy: Workspace, keep: float) -> None:
    lock = benchmark_copy.root / "dvc.lock"
    text = lock.read_text()
    cut = int(len(text) * keep)
    lock.write_text(
        text[: text.index("md5:", cut) + 2 if keep == 0.5 else cut]
    )  # in the middle of a key: it is no lock
    ended = benchmark_copy.run()
    assert keep > 0.9 or "repaired dvc.lock" in ended.stdout, "cut off late, it may still be a valid, shorter lock"
    assert " ran" not in "".join(line for line in ended.stdout.splitlines() if line.startswith("✓"))
    assert "up to date" in benchmark_copy.dvc("status")
    assert keep > 0.9 or list((benchmark_copy.root / ".mergeline/quarantine").iterdir())


def test_a_missing_lock_is_rebuilt_from_the_run_cache(benchmark_copy: Workspace) -> None:
    for lock in benchmark_copy.root.rglob("dvc.lock"):
        lock.unlink()
    text = benchmark_copy.run().stdout
    assert not [line for line in text.splitlines() if line.startswith("✓")]
    assert "up to date" in benchmark_copy.dvc("status")


def test_conflict_markers_are_named_and_doctor_mends_them(benchmark_copy: Workspace) -> None:
    lock = benchmark_copy.root / "dvc.lock"
    lock.write_text("<<<<<<< HEAD\n" + lock.read_text() + "=======\n>>>>>>> other\n")
    ended = benchmark_copy.run(check=2)
    assert "dvc.lock: it holds merge conflict markers" in ended.stderr
    assert "mergeline doctor --fix" in ended.stderr
    benchmark_copy.mergeline("doctor", "--fix", check=0)
    benchmark_copy.run()
    assert "up to date" in benchmark_copy.dvc("status")


def test_an_empty_rwlock_does_not_stop_a_run(benchmark_copy: Workspace) -> None:
    benchmark_copy.write(".dvc/tmp/rwlock", "")
    benchmark_copy.edit("params.yaml", "tau: 1000.0", "tau: 900.0")
    benchmark_copy.run()
    assert "up to date" in benchmark_copy.dvc("status")


# -- the cache -----------------------------------------------------------------------------------------------------------


def cached_object(workspace: Workspace, output: str) -> Path:
    import hashlib

    digest = hashlib.md5((workspace.root / output).read_bytes()).hexdigest()
    return workspace.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    path.chmod(0o444)


OUTPUT = "artifacts/statistics/digits.r17+r17.s0+s1.parquet"


def test_verify_finds_a_flipped_bit_of_the_same_size_and_repairs_it(benchmark_copy: Workspace) -> None:
    target = cached_object(benchmark_copy, OUTPUT)
    good = target.read_bytes()
    flip(target)
    assert "up to date" in benchmark_copy.dvc("status"), "DVC itself does not see it"
    found = benchmark_copy.mergeline("verify", check=1)
    assert target.name in found.stdout
    benchmark_copy.mergeline("verify", "--repair", check=0)
    assert target.read_bytes() == good
    benchmark_copy.mergeline("verify", check=0)


def test_a_flipped_bit_with_the_output_gone_too_is_recomputed(benchmark_copy: Workspace) -> None:
    target = cached_object(benchmark_copy, OUTPUT)
    good = target.read_bytes()
    flip(target)
    (benchmark_copy.root / OUTPUT).unlink()
    benchmark_copy.mergeline("verify", "--repair", check=0)
    text = benchmark_copy.run().stdout
    assert "✓ statistics@digits.r17+r17.s0+s1 ran" in text
    assert (benchmark_copy.root / OUTPUT).read_bytes() == good


def test_a_truncated_object_is_not_used(benchmark_copy: Workspace) -> None:
    target = cached_object(benchmark_copy, OUTPUT)
    good = target.read_bytes()
    target.chmod(0o644)
    target.write_bytes(good[:100])
    (benchmark_copy.root / OUTPUT).unlink()
    benchmark_copy.run()
    assert (benchmark_copy.root / OUTPUT).read_bytes() == good


def test_a_deleted_object_is_recomputed_or_put_back(benchmark_copy: Workspace) -> None:
    target = cached_object(benchmark_copy, OUTPUT)
    good = target.read_bytes()
    target.unlink()
    (benchmark_copy.root / OUTPUT).unlink()
    benchmark_copy.run()
    assert (benchmark_copy.root / OUTPUT).read_bytes() == good
    assert target.read_bytes() == good


def test_hardlinks_are_refused(benchmark_copy: Workspace) -> None:
    benchmark_copy.dvc("config", "cache.type", "hardlink")
    ended = benchmark_copy.run(check=2)
    assert "cache.type is hardlink" in ended.stderr
    assert "reflink,copy" in ended.stderr


# -- the disk ------------------------------------------------------------------------------------------------------------


def test_a_full_disk_in_a_stage_is_named_not_retried_and_nothing_half_remains(
    shell: Callable[[str], Workspace],
) -> None:
    workspace = shell("stages:\n  fill:\n    cmd: python -m stages fill\n    deps: [in.txt]\n    outs: [big.bin]\n")
    workspace.write("in.txt", "x")
    (workspace.root / "stages").unlink()
    shutil.copytree(Path(__file__).resolve().parents[2] / "stages", workspace.root / "stages")
    workspace.edit(
        "stages/registry.py",
        "STAGES: dict[str, Stage] = {",
        'STAGES: dict[str, Stage] = {\n    "fill": Stage("stages.fill", "run", "fill the disk"),',
    )
    workspace.write(
        "stages/fill.py",
        "from pathlib import Path\n\ndef run(context, cell):\n    Path('big.bin').write_bytes(b'x')\n"
        "    with open('/dev/full', 'wb') as stream:\n        stream.write(b'y' * 100000)\n",
    )
    ended = workspace.run(check=1)
    assert "the disk is full" in ended.stdout
    assert "retrying" not in ended.stdout
    assert not (workspace.root / "big.bin").exists()


def test_a_full_disk_while_caching_recovers_once_there_is_space(
    shell: Callable[[str], Workspace], tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(small)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a file system of its own cannot be mounted here")
    try:
        workspace = shell(
            "stages:\n  make:\n    cmd: head -c 2000000 /dev/zero > big.bin\n    deps: [in.txt]\n    outs: [big.bin]\n"
        )
        workspace.write("in.txt", "x")
        filler = small / "filler"
        filler.write_bytes(b"x" * 2_500_000)
        workspace.dvc("cache", "dir", "--local", str(small / "cache"))
        ended = workspace.run(check=1)
        assert "No space left on device" in ended.stdout
        assert not list((small / "cache").rglob("*.tmp"))
        filler.unlink()
        workspace.run()
        assert "up to date" in workspace.dvc("status")
    finally:
        subprocess.run(["umount", str(small)], check=False)


# -- two at once, many at once -------------------------------------------------------------------------------------------


def test_a_second_run_says_who_is_busy_since_when_and_exits_3(sleeper: Workspace) -> None:
    run = sleeper.start()
    wait_for(lambda: (sleeper.root / "slow.txt").exists())
    ended = sleeper.run(check=3)
    assert f"process {run.pid} runs this benchmark since 20" in ended.stderr
    signal_group(run, signal.SIGTERM)
    run.communicate(timeout=20)


def test_a_second_run_can_wait(sleeper: Workspace) -> None:
    sleeper.edit("dvc.yaml", "sleep 30", "sleep 2")
    run = sleeper.start()
    wait_for(lambda: (sleeper.root / "slow.txt").exists())
    ended = sleeper.run("--wait")
    assert "nothing to do" in ended.stdout
    assert run.wait(20) == 0


def test_sixteen_short_stages_at_once_lose_nothing(shell: Callable[[str], Workspace]) -> None:
    items = ", ".join(f"s{i}: {{n: {i}}}" for i in range(64))
    workspace = shell(
        f"stages:\n  many:\n    foreach: {{{items}}}\n    do:\n      cmd: echo ${{item.n}} > ${{key}}.txt\n"
        "      deps: [in.txt]\n      outs: ['${key}.txt']\n"
    )
    workspace.write("in.txt", "x")
    workspace.run("--jobs", "16")
    assert "up to date" in workspace.dvc("status")
    assert (workspace.root / "dvc.lock").read_text().count("cmd:") == 64


def test_dvc_status_can_be_used_beside_a_run(sleeper: Workspace) -> None:
    run = sleeper.start()
    wait_for(lambda: (sleeper.root / "slow.txt").exists())
    sleeper.dvc("status")
    signal_group(run, signal.SIGTERM)
    run.communicate(timeout=20)


# -- stages that misbehave -----------------------------------------------------------------------------------------------


def test_a_dependency_edited_while_the_stage_runs_is_not_recorded(sleeper: Workspace) -> None:
    sleeper.edit("dvc.yaml", "sleep 30", "sleep 3")
    run = sleeper.start()
    wait_for(lambda: (sleeper.root / "slow.txt").exists())
    sleeper.write("in.txt", "edited")
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 1, text
    assert "in.txt changed while slow ran; its result is not recorded" in text
    assert "slow" in sleeper.stale()
    sleeper.run()
    assert "up to date" in sleeper.dvc("status")


def test_a_stage_that_writes_nothing_fails(shell: Callable[[str], Workspace]) -> None:
    workspace = shell("stages:\n  lazy:\n    cmd: 'true'\n    deps: [in.txt]\n    outs: [out.txt]\n")
    workspace.write("in.txt", "x")
    assert "did not write out.txt" in workspace.run(check=1).stdout


def test_a_failing_stage_is_not_retried_stops_its_dependants_only_and_names_log_and_command(
    shell: Callable[[str], Workspace],
) -> None:
    workspace = shell(
        "stages:\n"
        "  good:\n    cmd: echo ok > good.txt\n    deps: [in.txt]\n    outs: [good.txt]\n"
        "  bad:\n    cmd: echo attempt >> attempts && echo reason >&2 && echo half > bad.txt && exit 7\n"
        "    deps: [in.txt]\n    outs: [bad.txt]\n"
        "  after:\n    cmd: cat bad.txt > after.txt\n    deps: [bad.txt]\n    outs: [after.txt]\n"
        "  table:\n    cmd: cat good.txt > table.txt\n    deps: [good.txt, after.txt]\n    outs: [table.txt]\n"
    )
    workspace.write("in.txt", "x")
    ended = workspace.run(check=1)
    assert (workspace.root / "attempts").read_text() == "attempt\n"
    assert "✗ bad failed" in ended.stdout
    assert "- after skipped: bad failed" in ended.stdout
    assert "✓ good ran" in ended.stdout
    assert "reason" in ended.stdout
    assert f"log: {workspace.root}/logs/bad.log" in ended.stdout
    assert "alone: echo attempt" in ended.stdout
    assert not (workspace.root / "bad.txt").exists()


def test_a_timeout_ends_the_stage_and_all_it_started(shell: Callable[[str], Workspace]) -> None:
    workspace = shell("stages:\n  long:\n    cmd: sleep 60 & sleep 61\n    deps: [in.txt]\n    outs: [o.txt]\n")
    workspace.write("in.txt", "x")
    workspace.edit("params.yaml", "timeout: 300.0", "timeout: 1.5")
    ended = workspace.run(check=1)
    assert "stopped after 1.5 s (execution.timeout)" in ended.stdout
    assert not workspace.processes()


def test_a_failed_cell_leaves_a_report_that_shows_the_gap(benchmark_copy: Workspace) -> None:
    benchmark_copy.edit(
        "stages/merge.py",
        "    merge = parse_merge(cell)\n",
        "    merge = parse_merge(cell)\n    if 'permute' in cell and 'optdigits' not in cell:\n"
        "        raise RuntimeError('planted')\n",
    )
    ended = benchmark_copy.run(check=1)
    assert "RuntimeError: planted" in ended.stdout
    checks = json.loads((benchmark_copy.root / "artifacts/audit.json").read_text())
    assert {entry["cell"] for entry in checks["findings"] if entry["level"] == "error"} == {
        "digits.r17+r17.s0+s1.permute.reset"
    }
    assert "missing" in (benchmark_copy.root / "reports/index.html").read_text()
    benchmark_copy.edit("stages/merge.py", "raise RuntimeError('planted')", "pass")
    benchmark_copy.run()
    assert json.loads((benchmark_copy.root / "artifacts/audit.json").read_text())["errors"] == 0
