"""Where every file of a benchmark lies, relative to its root folder."""

from __future__ import annotations

from pathlib import PurePosixPath

from stages.plan.cells import Edge, Group, Merge, Prediction

__all__ = [
    "ARTIFACTS",
    "CHECKS",
    "EVALUATIONS",
    "HISTORIES",
    "METRICS",
    "PARAMS",
    "REPORTS",
    "RESULTS",
    "SCRATCH",
    "SIMILARITIES",
    "code",
    "edge_history",
    "edge_metrics",
    "edge_model",
    "embedding",
    "evaluation",
    "match",
    "merged_model",
    "prediction",
    "similarity",
    "statistics",
    "targets",
    "task",
]  # fmt: skip

PARAMS = PurePosixPath("params.yaml")
ARTIFACTS = PurePosixPath("artifacts")
REPORTS = PurePosixPath("reports")
SCRATCH = PurePosixPath(".mergeline")
"""State that is no result: checkpoints, logs' index, timings, locks. Safe to delete when nothing runs."""
RESULTS = ARTIFACTS / "results.parquet"
METRICS = ARTIFACTS / "metrics.json"
CHECKS = ARTIFACTS / "checks.json"
EVALUATIONS = ARTIFACTS / "evaluations"
HISTORIES = ARTIFACTS / "histories.parquet"
SIMILARITIES = ARTIFACTS / "similarities.parquet"


def code(name: str) -> PurePosixPath:
    """The hash of the code that a stage (or a matcher) runs."""
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


def similarity(first: str, second: str) -> PurePosixPath:
    return ARTIFACTS / "similarity" / f"{first}+{second}.json"


def statistics(group: Group) -> PurePosixPath:
    return ARTIFACTS / "statistics" / f"{group}.parquet"


def match(name: str) -> PurePosixPath:
    return ARTIFACTS / "matches" / f"{name}.parquet"


def merged_model(merge: Merge) -> PurePosixPath:
    return ARTIFACTS / "merged" / str(merge) / "model.safetensors"


def prediction(cell: Prediction) -> PurePosixPath:
    return ARTIFACTS / "predictions" / f"{cell}.npz"


def evaluation(cell: Merge | Group | Edge) -> PurePosixPath:
    """Of a merge, of the ensemble of a group, or of one edge."""
    return EVALUATIONS / f"{cell}.json"
