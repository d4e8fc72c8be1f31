"""A run from beginning to end: check, plan, find what is stale, run it, say what came of it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from flows.data import Look, explained, forget_rewritten, look, missing_faults, missing_notices, own_data
from flows.doctor import check_cache_type
from flows.dvc.freshness import is_fresh, note_fresh, stamps
from flows.dvc.locks import heal
from flows.refusal import writes_nothing_if_refused
from flows.running.events import Listener
from mergeline.checkpoint_names import split_part
from stages.formats import yaml12
from stages.formats.files import json_text, write_json
from stages.loaded_code import STAMPS_VARIABLE, Stamp, stamps_of, write_stamps
from stages.plan import paths
from stages.plan.expansion import idle_controls
from stages.plan.loading import ParamsError, load_params, parse_params
from stages.plan.params import Params
from stages.plan.pipelines import drift, make_folders, make_plan, write_pipelines

if TYPE_CHECKING:  # DVC and the workers are loaded only where something is stale
    from flows.dvc.pipeline import Pipeline
    from flows.dvc.stage import Reason
    from flows.running.session import Outcome

__all__ = [
    "Preparation",
    "check_inputs",
    "execute",
    "expected_time",
    "plan_files",
    "predicted_code",
    "prepare",
    "stop_signals",
    "usual_jobs",
]


@dataclass
class Preparation:
    """An opened pipeline and what is stale in it. ``fresh`` counts stages where nothing is stale (then ``pipeline`` is
    None and was not opened)."""

    params: Params
    pipeline: Pipeline | None
    stale: dict[str, list[Reason]] = field(default_factory=dict)
    fresh: int = 0
    written: list[Path] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    """What was put right before: damaged lock files."""
    notices: list[str] = field(default_factory=list)
    """What should be known beside: data that are not here, and how one's own are read."""
    files: dict[str, int] = field(default_factory=dict)
    """How many the data of a task are, where they are somebody's own."""
    code: dict[str, Stamp | None] = field(default_factory=dict)
    """The stamps of all code, from before it was hashed."""

    @cached_property
    def expected(self) -> dict[str, float]:
        """Seconds that each stage is likely to take, by address."""
        from flows.running.durations import expected_seconds

        if self.pipeline is None:
            return {}
        return expected_seconds(self.pipeline.root, self.params, self.pipeline.stages, self.files)


def plan_files(root: Path, params: Params, write: bool = True) -> tuple[list[Path], list[Path]]:
    """Bring ``pipelines/`` in line with the parameters: files written, files removed."""
    plan = make_plan(params)
    if write:
        return write_pipelines(plan, root)
    changed, gone = drift(plan, root)
    return list(changed), gone


@writes_nothing_if_refused
def prepare(
    root: Path,
    targets: Sequence[str] = (),
    force: bool = False,
    write: bool = True,
    pulling: bool = False,
    proposed: str | None = None,
) -> Preparation:
    """Check everything and find what is stale. With ``write`` false nothing on disk is changed; with ``pulling``, data that only
    stages need whose results may yet be fetched are not looked for. ``proposed``: the text of a params.yaml to look into in place
    of the one that is there; it changes nothing.

    Raises
    ------
    InputError: bad input, before any work.
    """
    write = write and proposed is None
    if proposed is None:
        params = load_params(root / paths.PARAMS)
    else:
        params = parse_params(values := yaml12.load(proposed), str(paths.PARAMS))
    if (problem := check_cache_type(root)) is not None:
        raise ParamsError(problem)
    healed = heal(root) if write else []
    written, removed = _drifted(root, params, write) if proposed is None else plan_files(root, params, write=False)
    seen = look(root, params, write)
    if not force and not written and not removed and not seen.needs_check and proposed is None:
        fresh = is_fresh(root)
        if fresh is not None:
            return Preparation(params, None, fresh=fresh, healed=healed, notices=missing_notices(seen, None))
    from flows.dvc.outline import look_at
    from flows.dvc.pipeline import Pipeline
    from stages.plan.code import planning_files

    code = stamps_of(planning_files())
    pipeline = Pipeline(root) if write else look_at(root)
    if proposed is not None:
        pipeline.propose(root / paths.PARAMS, values)
    if not write and (written or removed):
        _foresee(root, params, pipeline, removed)
    chosen = pipeline.select(targets)
    before = stamps(root, pipeline)
    forget_rewritten(root, seen, pipeline)
    stale = pipeline.stale(chosen, force, predicted_code(root, pipeline) | seen.predicted)
    stale = explained(root, seen, pipeline, stale)
    notes = check_inputs(root, params, seen, pipeline, {} if pulling else stale, chosen)
    if write and not stale and len(chosen) == len(pipeline.stages):
        note_fresh(root, before)
    notices = [*missing_notices(seen, pipeline), *notes]
    return Preparation(
        params, pipeline, stale, len(chosen) - len(stale), written, removed, healed, notices, seen.files, code
    )


def _drifted(root: Path, params: Params, write: bool) -> tuple[list[Path], list[Path]]:
    """Plan the files, unless neither the parameters nor the planning code changed since they were last planned."""
    if write:
        make_folders(root)  # which who removed artifacts/ removed too
    mark = root / paths.PLANNED
    digest = _plan_digest(root)
    try:
        if json.loads(mark.read_text(encoding="utf-8")) == digest:
            return [], []
    except (OSError, ValueError):
        pass
    written, removed = plan_files(root, params, write)
    if write:
        write_json(mark, _plan_digest(root))
    return written, removed


def _foresee(root: Path, params: Params, pipeline: Pipeline, removed: Sequence[Path]) -> None:
    """Let an opened pipeline have the stages that the parameters ask for, whose files are not written yet."""
    from flows.dvc.stage import PipelineStage

    plan = make_plan(params)
    planned = []
    for cell in plan.stages:
        file, name = str(cell.file), f"{cell.kind}@{cell.cell}"
        planned.append(
            PipelineStage(f"{file}:{name}", name, cell.command, root, cell.deps, cell.outs, upstream=(), file=file)
        )
    gone = [path.relative_to(root).as_posix() for path in removed]
    pipeline.foresee(planned, [*dict.fromkeys(stage.file for stage in planned), *gone])


def _plan_digest(root: Path) -> dict[str, str]:
    """What the pipeline files were made from, and what they are."""
    from stages.plan.code import planning_files

    source = hashlib.sha256((root / paths.PARAMS).read_bytes())
    for path in planning_files():
        source.update(path.read_bytes())
    files = hashlib.sha256()
    for path in sorted((root / paths.PIPELINES).rglob(paths.PIPELINE_FILE)):
        status = path.stat()
        files.update(f"{path}{status.st_mtime_ns}{status.st_size}{status.st_ino}".encode())
    return {"source": source.hexdigest(), "files": files.hexdigest()}


def predicted_code(root: Path, pipeline: Pipeline) -> dict[str, str]:
    """md5 of the files that the stage ``code`` will write, if it is stale: what a changed module makes stale is known
    before it runs."""
    from stages.plan.code import code_names, installed_code, stage_code

    code = next((a for a, s in pipeline.stages.items() if s.command.strip() == "python -m stages code"), None)
    note = installed_code(root)
    noted = {} if note is None else {str(paths.CODE): hashlib.md5(note.encode()).hexdigest()}
    if code is None or not pipeline.reasons(code, noted):
        return {}
    outs = set(pipeline.stages[code].outs)
    predicted = {
        str(paths.code(name)): hashlib.md5(json_text(stage_code(name)).encode()).hexdigest() for name in code_names()
    }
    return {**noted, **predicted, **dict.fromkeys(outs, "")}


def check_inputs(
    root: Path,
    params: Params,
    seen: Look,
    pipeline: Pipeline | None = None,
    stale: Mapping[str, Sequence[Reason]] | None = None,
    chosen: Collection[str] = (),
) -> list[str]:
    """Whether the data and checkpoints that stale stages need are there, before any of them runs, and the data that were.

    With ``pipeline`` None: all that the parameters name. Returns what there is to say of the user's own data and of controls that
    make no merge, a line each.

    Raises
    ------
    InputError: data are missing, damaged or make no task, or a checkpoint is missing or does not fit; names the file and the fix.
    """
    names = None
    if pipeline is not None and stale is not None:
        names = {pipeline.stages[address].name for address in stale}
    if (fault := device_fault(params)) is not None:
        raise ParamsError(fault)
    if faults := missing_faults(seen, pipeline, stale or {}, chosen):
        raise ParamsError("\n".join(faults))
    notes = own_data(root, params, seen, [task for task in params.tasks if names is None or f"prepare@{task}" in names])
    _check_models(root, params, names)
    return [*notes, *idle_controls(params)] if names is None or names else notes


def device_fault(params: Params) -> str | None:
    """What is wrong where a GPU is asked for and the machine has none; found without loading torch."""
    devices = ("nvidia0", "nvidiactl", "dxg", "kfd")  # Nvidia's, through Windows, AMD's
    if params.compute.device != "cuda" or any((Path("/dev") / name).exists() for name in devices):
        return None
    return "compute.device is cuda, but this machine has no GPU (nothing of it in /dev); set it to auto or cpu"


def _check_models(root: Path, params: Params, names: set[str] | None) -> None:
    wanted = [edge for edge in params.imports if names is None or f"import@{edge}" in names]
    files = {edge: root / split_part(params.imports[edge])[0] for edge in wanted}
    faults = [f"imports.{edge}: {file} is missing" for edge, file in files.items() if not file.is_file()]
    stops = any(cut is not None for series in params.merges.values() for cut in (*series.stops, *series.preserves))
    merging = names is None or any(name.startswith("merge") for name in names)
    training = bool(params.pretrained) and (names is None or any(name.startswith("train") for name in names))
    if not faults and (wanted or training or (stops and merging)):  # in a process of its own: it needs torch
        ended = subprocess.run(
            [*_python(), "-m", "stages.check_models", *wanted],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        faults = ended.stdout.strip().splitlines() if ended.returncode == 2 else []
        if ended.returncode not in (0, 2):
            raise RuntimeError(ended.stderr)
    if faults:
        raise ParamsError("\n".join(faults))


def _python() -> list[str]:
    import sys

    return [sys.executable]


def execute(
    preparation: Preparation,
    *,
    jobs: int = 0,
    force: bool = False,
    listeners: Sequence[Listener] = (),
    around: Callable[[Mapping[str, float], int], Any] | None = None,
) -> Outcome:
    """Run what is stale. The run lock must be held.

    ``around`` makes a context in which the run happens (the display), from the expected seconds and the jobs; if what
    it gives can be called, it hears the events too.
    """
    from flows.running.durations import note_work
    from flows.running.session import Outcome, Session
    from flows.running.workers import kill_orphans

    pipeline, params = preparation.pipeline, preparation.params
    if pipeline is None:
        return Outcome()
    kill_orphans(pipeline.root)
    os.environ[STAMPS_VARIABLE] = str(write_stamps(pipeline.root, preparation.code))
    execution = params.execution
    jobs = jobs or usual_jobs(params)
    expected = preparation.expected
    (pipeline.root / paths.FRESH).unlink(missing_ok=True)
    with _entered(around, expected, jobs) as watcher:
        session = Session(
            pipeline,
            preparation.stale,
            jobs=jobs,
            threads=params.compute.threads,
            timeout=execution.timeout,
            retries=execution.retries,
            force=force,
            expected=expected,
            listeners=[*listeners, *([watcher] if callable(watcher) else [])],
        )
        with stop_signals(session.cancel):
            outcome = session.execute()
    ran = [pipeline.stages[address] for address, stage in outcome.stages.items() if stage.state == "ran"]
    note_work(pipeline.root, params, ran, preparation.files)
    if outcome.ok:
        after = stamps(pipeline.root, pipeline)
        if not pipeline.stale():
            note_fresh(pipeline.root, after)
    return outcome


def usual_jobs(params: Params) -> int:
    """Stages at a time, where nobody says how many."""
    from flows.running.workers import available_cores

    return params.execution.jobs or max(1, available_cores() // params.compute.threads)


def expected_time(preparation: Preparation, jobs: int = 0) -> float:
    """Seconds that a run of what is stale is likely to take: what ``status``, ``--dry`` and a run itself say."""
    from flows.running.durations import elapsed_seconds

    pipeline = preparation.pipeline
    if pipeline is None:
        return 0.0
    jobs = jobs or usual_jobs(preparation.params)
    return elapsed_seconds(pipeline.stages, preparation.stale, preparation.expected, jobs)


def pull(root: Path, preparation: Preparation) -> str:
    """Fetch results of stale stages from the DVC remote; where it is away, say so and leave it to the run."""
    from flows.dvc.sharing import pull as fetch

    assert preparation.pipeline is not None
    return fetch(preparation.pipeline, list(preparation.stale))


def push(root: Path) -> str:
    """Send results and the run cache to the DVC remote; where it is away, say so."""
    from flows.dvc.pipeline import Pipeline
    from flows.dvc.sharing import push as send

    return send(Pipeline(root))


@contextmanager
def _entered(around: Callable[..., Any] | None, expected: Mapping[str, float], jobs: int) -> Iterator[Any]:
    if around is None:
        yield None
    else:
        with around(expected, jobs) as watcher:
            yield watcher


@contextmanager
def stop_signals(cancel: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM end the run in good order; a second one has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        for which, handler in kept.items():
            signal.signal(which, handler)
        STOPPED.append(number)
        cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        kept[number] = signal.signal(number, stop)
    STOPPED.clear()
    try:
        yield
    finally:
        for which, handler in kept.items():
            signal.signal(which, handler)


STOPPED: list[int] = []
"""The signal that ended the last run, if one did."""
