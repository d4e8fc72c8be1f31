"""Where every file of a benchmark lies, relative to its root folder. No other module spells a folder's name."""

from __future__ import annotations

from pathlib import PurePath, PurePosixPath

from stages.plan.keys import Compressed, Edge, Key, Merge, Narrowed, Prediction, Pruned, Sources, TaskPair

PARAMS = PurePosixPath("params.yaml")
PROFILES = PurePosixPath("profiles")

# -- results, which DVC tracks
ARTIFACTS = PurePosixPath("artifacts")
RESULTS = ARTIFACTS / "results.parquet"
METRICS = ARTIFACTS / "metrics.json"
AUDIT = ARTIFACTS / "audit.json"
EVALUATIONS = ARTIFACTS / "evaluations"
MEASUREMENTS = ARTIFACTS / "measurements"
SIMILARITY = ARTIFACTS / "similarity"
BLOCKS = ARTIFACTS / "blocks"
HISTORIES = ARTIFACTS / "histories.parquet"
SIMILARITIES = ARTIFACTS / "similarities.parquet"
MEASURED = ARTIFACTS / "measured"

# -- the report
REPORTS = PurePosixPath("reports")
PAGE = REPORTS / "index.html"
TEMPLATES = REPORTS / "templates"
FIGURES = REPORTS / "figures"
TABLES = REPORTS / "tables"
CHANGES = REPORTS / "changes.md"
REFRESHES = REPORTS / "history.parquet"
"""A row for each refresh and headline number."""

# -- DVC's own files
PIPELINES = PurePosixPath("pipelines")
PIPELINE_FILE = "dvc.yaml"
CODE = PIPELINES / "code.json"
"""The code of the mergeline that is installed, for benchmarks that do not hold it."""
PLANNED_PRUNED = PIPELINES / f"{Pruned.kind}.txt"
"""A line for each pruned network, so that the table of results sees one more or less where params.yaml may say nothing."""
PLANNED_NARROWED = PIPELINES / f"{Narrowed.kind}.txt"
"""The same for narrowed ones."""
LOCK_FILE = "dvc.lock"
DVC = PurePosixPath(".dvc")
DVC_CONFIG = DVC / "config"
DVC_LOCAL_CONFIG = DVC / "config.local"
DVC_CACHE = DVC / "cache"
DVC_RUNNING = DVC / "tmp" / "rwlock"

# -- notes that are no results; safe to delete when nothing runs
LOGS = PurePosixPath("logs")
SCRATCH = PurePosixPath(".mergeline")
PREFECT = PurePosixPath(".prefect")
PREFECT_AUTH = PREFECT / "auth"
"""User and password of the benchmark's own server."""
TEMPORARY = SCRATCH / "tmp"
TIMINGS = SCRATCH / "timings"
WORK = SCRATCH / "work.json"
OUTLINE = SCRATCH / "outline.json"
PROGRESS = SCRATCH / "progress"
CHECKPOINTS = SCRATCH / "checkpoints"
PROCESSES = SCRATCH / "processes"
SERVED = SCRATCH / "served"
"""The processes that ``mergeline serve`` started."""
FRESH = SCRATCH / "fresh.json"
CODE_STAMPS = SCRATCH / "code.json"
"""The stamps of all code as a run began."""
PLANNED = SCRATCH / "planned.json"
RUN_LOCK = SCRATCH / "run.lock"
SERVER = SCRATCH / "server.json"
KEPT_PARAMS = SCRATCH / "params"
KEPT_LOCKS = SCRATCH / "locks"
QUARANTINE = SCRATCH / "quarantine"


def code(name: str) -> PurePosixPath:
    """The hash of the code that a stage, or one variant of it, runs."""
    return ARTIFACTS / "code" / f"{name}.json"


def task(name: str) -> PurePosixPath:
    return ARTIFACTS / "tasks" / f"{name}.npz"


def targets(name: str) -> PurePosixPath:
    return ARTIFACTS / "targets" / f"{name}.npz"


def edge_model(edge: Edge) -> PurePosixPath:
    return ARTIFACTS / "edges" / str(edge) / "model.safetensors"


def edge_metrics(edge: Edge) -> PurePosixPath:
    return ARTIFACTS / "edges" / str(edge) / "metrics.json"


def edge_history(edge: Edge) -> PurePosixPath:
    return ARTIFACTS / "edges" / str(edge) / "history.parquet"


def embedding(task_name: str) -> PurePosixPath:
    return ARTIFACTS / "embeddings" / f"{task_name}.parquet"


def similarity(pair: TaskPair) -> PurePosixPath:
    return SIMILARITY / f"{pair}.json"


def statistics(sources: Sources) -> PurePosixPath:
    return ARTIFACTS / "statistics" / f"{sources}.parquet"


def match(name: str) -> PurePosixPath:
    return ARTIFACTS / "matches" / f"{name}.parquet"


def merged_model(merge: Merge) -> PurePosixPath:
    return ARTIFACTS / "merged" / str(merge) / "model.safetensors"


def compressed_model(cell: Compressed) -> PurePosixPath:
    return ARTIFACTS / cell.kind / str(cell) / "model.safetensors"


def prediction(cell: Prediction) -> PurePosixPath:
    return ARTIFACTS / "predictions" / f"{cell}.npz"


def layers(cell: Prediction) -> PurePosixPath:
    """Statistics of an edge's layers on a task's training images."""
    return ARTIFACTS / "layers" / f"{cell}.parquet"


def blocks(pair: Sources) -> PurePosixPath:
    """How alike the blocks of two edges of different depth are."""
    return BLOCKS / f"{pair}.parquet"


def evaluation(cell: Key | Merge | Sources | Edge | Compressed) -> PurePosixPath:
    """Of a merge, of the ensemble of its sources, of one edge, or of a pruned or narrowed one."""
    return EVALUATIONS / f"{cell}.json"


def measurement(measure: str, merge: Merge) -> PurePosixPath:
    """What was measured of a merge: a curve, a landscape."""
    return MEASUREMENTS / measure / f"{merge}.parquet"


def measurements(measure: str) -> PurePosixPath:
    """The table of all measurements of one kind."""
    return MEASURED / f"{measure}.parquet"


def similarities_of_blocks() -> PurePosixPath:
    """The table of all pairs of edges whose blocks were compared."""
    return MEASURED / "blocks.parquet"


def edge_pipeline(task_name: str) -> PurePosixPath:
    """The file with the stages of a task's edges."""
    return PIPELINES / "edges" / task_name / PIPELINE_FILE


def prediction_pipeline(task_name: str) -> PurePosixPath:
    return PIPELINES / "predictions" / task_name / PIPELINE_FILE


def layers_pipeline(task_name: str) -> PurePosixPath:
    return PIPELINES / "layers" / task_name / PIPELINE_FILE


def compressed_pipeline(cell: Compressed) -> PurePosixPath:
    """The file with the stages of an edge that is pruned, or narrowed, by one method."""
    return PIPELINES / cell.kind / str(cell.edge) / cell.method / PIPELINE_FILE


def sources_pipeline(sources: Sources) -> PurePosixPath:
    """The file with the stages of some sources and their merges."""
    return PIPELINES.joinpath(*sources.parts) / PIPELINE_FILE


def shared_pipeline(name: str) -> PurePosixPath:
    """The file with all cells of a kind of stage of which there are few."""
    return PIPELINES / name / PIPELINE_FILE


def checkpoint(edge: Edge, digest: str) -> PurePosixPath:
    """The state of a training that is not over; ``digest``: of all that it depends on."""
    return CHECKPOINTS / f"{edge}-{digest}.pt"


def checkpoint_edge(path: PurePath) -> str:
    """The edge that a checkpoint is of."""
    return path.stem.rpartition("-")[0]


def timing(stage: str, cell: str) -> PurePosixPath:
    return TIMINGS / (f"{stage}@{cell}.json" if cell else f"{stage}.json")


def flat(name: str) -> str:
    """A stage's name as a file's name."""
    return name.replace("/", "%")


def log(name: str) -> PurePosixPath:
    """What a stage, or another part of the tool, prints."""
    return LOGS / f"{flat(name)}.log"


def progress(name: str) -> PurePosixPath:
    """How far a stage has come."""
    return PROGRESS / flat(name)


def mirror(pid: int) -> PurePosixPath:
    """The note of a process that tells Prefect what happens: it is ready."""
    return SCRATCH / f"mirror-{pid}"
