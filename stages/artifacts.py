"""The formats of the files between stages: prepared tasks, models, moments, maps, predictions.

Each file says what it is and which version of its format it has; no file holds a time or a path, so that the same
inputs give the same bytes.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mergeline.architectures import Architecture
from mergeline.maps import Dense, Groups, Permutation, UnitMap
from mergeline.merging import multi_head_from_state, trace_network
from mergeline.models import build
from mergeline.moments import Moments
from mergeline.tasks.task import PreparedTask
from stages.errors import StageError
from stages.files import writing
from stages.tables import write_table

__all__ = [
    "MomentFile", "load_edge", "load_merged", "read_maps", "read_predictions", "read_task", "save_edge", "save_merged",
    "write_maps", "write_moments", "write_predictions", "write_task",
]  # fmt: skip

FORMAT = 1
KEY = "mergeline"
"""The one metadata key of a safetensors file (more than one would be written in a random order)."""
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What numpy raises for a damaged npz file."""


# -- tasks -----------------------------------------------------------------------------------------------------------


def write_task(path: Path, task: PreparedTask) -> None:
    description = {
        "format": FORMAT, "name": task.name, "classes": list(task.classes), "licence": task.licence,
        "source": task.source, "hash": task.hash,
    }  # fmt: skip
    with writing(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            images=task.images,
            labels=task.labels,
            test=task.test,
            description=np.array(json.dumps(description)),
        )


def read_task(path: Path) -> PreparedTask:
    """A prepared task.

    Raises
    ------
    StageError: missing, damaged, or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            description = json.loads(str(arrays["description"]))
            images, labels, test = arrays["images"], arrays["labels"], arrays["test"]
    except FileNotFoundError:
        raise StageError(f"{path} is missing; make it: mergeline run prepare@{path.stem}") from None
    except _UNREADABLE as error:
        raise StageError(
            f"{path} is damaged ({error}); make it again: mergeline run --force prepare@{path.stem}"
        ) from error
    _check_format(path, description)
    return PreparedTask(
        description["name"], images, labels, test, tuple(description["classes"]), description["licence"],
        description["source"], description["hash"],
    )  # fmt: skip


def _check_format(path: Path, description: Mapping[str, Any]) -> None:
    if description.get("format") != FORMAT:
        raise StageError(
            f"{path} has format {description.get('format')}, this version reads format {FORMAT}; make it again: "
            "mergeline run"
        )


# -- models ----------------------------------------------------------------------------------------------------------


def _save_model(path: Path, model: nn.Module, description: Mapping[str, Any]) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    text = json.dumps({"format": FORMAT, **description}, sort_keys=True)
    with writing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: text})


def _read_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as stream:
            description = json.loads((stream.metadata() or {}).get(KEY, "{}"))
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise StageError(f"{path} is missing; run the stage that makes it: mergeline run") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise StageError(f"{path} is damaged ({error}); delete it and run again: mergeline run") from error
    _check_format(path, description)
    return tensors, description


def save_edge(path: Path, model: nn.Module, architecture: Architecture, task: str, seed: int) -> None:
    _save_model(path, model, {"kind": "edge", "architecture": asdict(architecture), "task": task, "seed": seed})


def load_edge(path: Path) -> tuple[nn.Module, Architecture]:
    """An edge model in eval mode, channels last."""
    tensors, description = _read_model(path)
    architecture = Architecture(**description["architecture"])
    model = build(architecture)
    _load_strictly(path, model, tensors)
    return model.eval().to(memory_format=torch.channels_last), architecture  # type: ignore[call-overload]


def _load_strictly(path: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise StageError(f"{path} does not fit its architecture: {error}") from error


def save_merged(
    path: Path, model: nn.Module, architectures: Mapping[str, Architecture], stop: str | None, heads: bool
) -> None:
    """A merged network: one network where ``heads`` is false, else a trunk with a head per task.

    ``architectures``: each task's topology.
    """
    description = {
        "kind": "multi-head" if heads else "merged",
        "architectures": {task: asdict(architecture) for task, architecture in architectures.items()},
        "stop": stop,
    }
    _save_model(path, model, description)


def load_merged(path: Path) -> nn.Module:
    """A merged network in eval mode, channels last: a plain network, or a ``MultiHead``."""
    tensors, description = _read_model(path)
    architectures = {task: Architecture(**values) for task, values in description["architectures"].items()}
    models = {task: build(architecture) for task, architecture in architectures.items()}
    model: nn.Module = next(iter(models.values()))
    if description["kind"] == "multi-head":
        spaces = trace_network(model, next(iter(architectures.values())).input_size)
        model = multi_head_from_state(models, spaces, tensors, description["stop"])
    else:
        _load_strictly(path, model, tensors)
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


# -- moments ---------------------------------------------------------------------------------------------------------

_MOMENT_SCHEMA = pa.schema(
    [
        ("space", pa.string()),
        ("first", pa.int32()),
        ("second", pa.int32()),
        ("n", pa.int64()),
        ("mean_first", pa.list_(pa.float64())),
        ("mean_second", pa.list_(pa.float64())),
        ("variance_first", pa.list_(pa.float64())),
        ("variance_second", pa.list_(pa.float64())),
        ("covariance", pa.list_(pa.float32())),
    ]
)
"""A row is the covariance block between the units of two models in a space, row-major; a row group is a space."""


def write_moments(path: Path, moments: Mapping[str, Moments], description: Mapping[str, Any]) -> None:
    """One row group a space, so that a reader takes one space at a time."""
    schema = _MOMENT_SCHEMA.with_metadata({KEY: json.dumps({"format": FORMAT, **description}, sort_keys=True)})
    with (
        writing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False, write_statistics=False) as writer,
    ):
        for entry in moments.values():
            rows = [
                {
                    "space": entry.space, "first": i, "second": j, "n": entry.n,
                    "mean_first": entry.means[i], "mean_second": entry.means[j],
                    "variance_first": entry.variances[i], "variance_second": entry.variances[j],
                    "covariance": block.astype(np.float32).ravel(),
                }
                for (i, j), block in sorted(entry.blocks.items())
            ]  # fmt: skip
            columns = {name: pa.array([row[name] for row in rows], schema.field(name).type) for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))


class MomentFile(Mapping[str, Moments]):
    """The moments in a file; a space is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = pq.ParquetFile(path)
        except FileNotFoundError:
            raise StageError(f"{path} is missing; run the stage that makes it: mergeline run") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise StageError(f"{path} is damaged ({error}); delete it and run again: mergeline run") from error
        self.description: dict[str, Any] = json.loads((self._file.schema_arrow.metadata or {})[KEY.encode()])
        _check_format(path, self.description)
        names = [self._file.read_row_group(i, columns=["space"])["space"][0].as_py() for i in range(len(self))]
        self._groups = {name: index for index, name in enumerate(names)}

    def __len__(self) -> int:
        return self._file.num_row_groups

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __getitem__(self, space: str) -> Moments:
        table = self._file.read_row_group(self._groups[space])
        means: dict[int, Any] = {}
        variances: dict[int, Any] = {}
        blocks = {}
        for row in range(table.num_rows):
            i, j = table["first"][row].as_py(), table["second"][row].as_py()
            for side, model in (("first", i), ("second", j)):
                means[model] = _floats(table[f"mean_{side}"][row])
                variances[model] = _floats(table[f"variance_{side}"][row])
            flat = _floats(table["covariance"][row]).astype(np.float64)
            blocks[i, j] = flat.reshape(len(means[i]), len(means[j]))
        order = sorted(means)
        return Moments(
            space,
            table["n"][0].as_py(),
            tuple(means[k] for k in order),
            tuple(variances[k] for k in order),
            blocks,
        )


def _floats(scalar: pa.ListScalar) -> Any:
    return scalar.values.to_numpy(zero_copy_only=False)


# -- maps ------------------------------------------------------------------------------------------------------------

_MAP_SCHEMA = pa.schema(
    [
        ("space", pa.string()),
        ("model", pa.int32()),
        ("kind", pa.string()),
        ("merged", pa.int32()),
        ("index", pa.list_(pa.int32())),
        ("to_merged", pa.list_(pa.float64())),
        ("to_own", pa.list_(pa.float64())),
    ]
)


def write_maps(path: Path, maps: Sequence[Mapping[str, UnitMap]], description: Mapping[str, Any]) -> None:
    rows: list[dict[str, Any]] = []
    for model, own in enumerate(maps):
        for space, unit_map in own.items():
            row: dict[str, Any] = {"space": space, "model": model, "merged": unit_map.merged}
            row |= {"index": [], "to_merged": [], "to_own": []}
            if isinstance(unit_map, Permutation):
                row |= {"kind": "permutation", "index": unit_map.index}
            elif isinstance(unit_map, Groups):
                row |= {"kind": "groups", "index": unit_map.labels}
            elif isinstance(unit_map, Dense):
                row |= {
                    "kind": "dense",
                    "to_merged": unit_map.to_merged.ravel(),
                    "to_own": unit_map.to_own.ravel(),
                }
            else:
                raise TypeError(f"space {space!r}: maps of type {type(unit_map).__name__} cannot be written")
            rows.append(row)
    schema = _MAP_SCHEMA.with_metadata({KEY: json.dumps({"format": FORMAT, **description}, sort_keys=True)})
    write_table(path, pa.Table.from_pylist(rows, schema=schema))


def read_maps(path: Path) -> tuple[list[dict[str, UnitMap]], dict[str, Any]]:
    """Each model's maps by space, and the file's description."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise StageError(f"{path} is missing; run the stage that makes it: mergeline run") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise StageError(f"{path} is damaged ({error}); delete it and run again: mergeline run") from error
    description = json.loads(table.schema.metadata[KEY.encode()])
    _check_format(path, description)
    maps: list[dict[str, UnitMap]] = []
    for row in range(table.num_rows):
        model, kind, merged = (table[name][row].as_py() for name in ("model", "kind", "merged"))
        while len(maps) <= model:
            maps.append({})
        index = _floats(table["index"][row]).astype(np.int64)
        unit_map: UnitMap
        if kind == "permutation":
            unit_map = Permutation(index)
        elif kind == "groups":
            unit_map = Groups(index, merged)
        else:
            to_merged = _floats(table["to_merged"][row]).reshape(merged, -1)
            unit_map = Dense(to_merged, _floats(table["to_own"][row]).reshape(-1, merged))
        maps[model][table["space"][row].as_py()] = unit_map
    return maps, description


# -- predictions -----------------------------------------------------------------------------------------------------


def write_predictions(path: Path, logits: Tensor) -> None:
    """Logits ``(N, classes)`` of one edge on the test images of one task."""
    with writing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, logits=logits.numpy())


def read_predictions(path: Path) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["logits"])
    except FileNotFoundError:
        raise StageError(f"{path} is missing; run the stage that makes it: mergeline run") from None
    except _UNREADABLE as error:
        raise StageError(f"{path} is damaged ({error}); delete it and run again: mergeline run") from error
