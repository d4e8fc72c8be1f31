"""The card of a merged network: what it was made from and how, how well it does, how to load it and how to make it again.

Two files beside the network's: ``NAME.md`` with the metadata that model hubs read, for people, and ``NAME.json`` for programs.
"""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mergeline.architectures import ARCHITECTURES, Architecture
from mergeline.foreign import LIBRARIES
from mergeline.metrics import MAIN
from stages.errors import InputError
from stages.formats.files import file_hash, writing
from stages.merge_files import Merged, Request

__all__ = ["card_files", "card_of", "command_of", "read_card", "write_card"]

FORMAT = 1
VERSIONED = ("mergeline", "torch", "numpy", "scipy")


def card_files(network: Path) -> tuple[Path, Path]:
    """The card's two files: Markdown and JSON."""
    return network.with_suffix(".md"), network.with_suffix(".json")


def command_of(request: Request) -> str:
    """The command that makes the same merge again."""
    words = ["mergeline", "merge", *request.files, "--out", str(request.target)]
    for name in request.architectures:
        words += ["--architecture", name] if name else []
    shared = len(set(request.data)) == 1
    for data in request.data[:1] if shared else request.data:
        words += ["--data", data.source] + (["--root", str(data.root)] if data.root else [])
    words += ["--method", request.method]
    words += [word for key, value in request.options.items() for word in ("--option", f"{key}={json.dumps(value)}")]
    words += ["--normalize", request.normalize] if request.normalize else []
    words += [
        word
        for key, value in request.normalize_options.items()
        for word in ("--normalize-option", f"{key}={json.dumps(value)}")
    ]
    words += [word for weight in request.weights or () for word in ("--weight", str(weight))]
    usual = Request(request.files, request.data, request.target)
    for flag in ("stop", "preserve", "depth", "places", "seed", "input_size", "width", "images"):
        if getattr(request, flag) != getattr(usual, flag):
            words += [f"--{flag.replace('_', '-')}", str(getattr(request, flag))]
    words += [word for place in request.exports for word in ("--export", str(place))]
    for flag in ("mean", "std"):
        if getattr(request, flag) != getattr(usual, flag):
            words += [f"--{flag}", ",".join(map(str, getattr(request, flag)))]
    return shlex.join(words)


def card_of(merged: Merged) -> dict[str, Any]:
    """All that is known of a merge, as JSON has it."""
    prepared = merged.prepared
    request = prepared.request
    return {
        "format": FORMAT,
        "file": request.target.name,
        "sha256": file_hash(request.target),
        "exports": [{"file": place.name, "sha256": file_hash(place)} for place in request.exports],
        "architecture": _described(merged.architecture),
        "plain_class": merged.plain,
        "parameters": merged.parameters,
        "sources": [
            {
                "file": own.place,
                "sha256": own.sha256,
                "architecture": _described(own.architecture),
                "notes": list(own.notes),
            }
            for own in prepared.models
        ],
        "data": [
            {
                "head": head, "source": task.source, "licence": task.licence, "hash": task.hash, "classes": list(task.classes),
                "metric": MAIN[task.target],
                "training": task.n_train, "test": task.n_test,
            }
            for head, task in prepared.tasks.items()
        ],
        "preprocessing": {"size": prepared.preprocessing.size, "mean": list(request.mean), "std": list(request.std)},
        "merge": {
            "method": request.method, "options": dict(request.options), "normalize": prepared.normalize,
            "normalize_options": dict(request.normalize_options), "weights": request.weights, "stop": request.stop,
            "preserve": request.preserve, "depth": request.depth, "places": request.places, "seed": request.seed,
            "images": merged.report["images"], "without_partner": merged.report["without_partner"],
        },
        "scores": merged.scores,
        "warnings": [*prepared.warnings, *merged.doubts],
        "versions": {name: version(name) for name in VERSIONED} | {"python": platform.python_version()},
        "command": command_of(request),
    }  # fmt: skip


def _described(architecture: Architecture) -> dict[str, Any]:
    return {
        "name": architecture.name,
        "num_classes": architecture.num_classes,
        "width": architecture.width,
        "input_size": architecture.input_size,
    }


def write_card(network: Path, card: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write both files; returns their paths."""
    markdown, machine = card_files(network)
    with writing(machine) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    with writing(markdown) as temporary:
        temporary.write_text(_markdown(card), encoding="utf-8")
    return markdown, machine


def read_card(path: Path) -> str:
    """The card of a merged network, by its own path or the network's.

    Raises
    ------
    InputError: there is none; says what the file is.
    """
    if not path.exists():
        raise InputError(f"{path} is missing; name a merged network, or its card")
    markdown = path if path.suffix == ".md" else card_files(path)[0]
    if not markdown.is_file():
        raise InputError(f"{path} has no card: {markdown} is missing; mergeline merge writes one beside what it makes")
    return markdown.read_text(encoding="utf-8").partition("\n---\n")[2].lstrip("\n")


def _markdown(card: Mapping[str, Any]) -> str:
    merge = card["merge"]
    sources = [Path(source["file"].partition("#")[0]).name for source in card["sources"]]
    library = card["architecture"]["name"].partition(":")[0]
    metadata = {
        "base_model": sources,
        "base_model_relation": "merge",
        "library_name": library if library in LIBRARIES else "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["merge", "mergeline", merge["method"]],
    }
    parts = [
        "---\n" + "\n".join(f"{key}: {json.dumps(value)}" for key, value in metadata.items()) + "\n---",
        f"# {Path(card['file']).stem}",
        f"A merge of {len(sources)} networks that were trained apart, made without training by mergeline "
        f"{card['versions']['mergeline']}: `{merge['method']}`, then `{merge['normalize']}`. {card['architecture']['name']}, "
        f"{card['parameters']:,} parameters.",
        "## Scores on the test images",
        _table(["", *(f"{own['head']}, {own['metric']}" for own in card["data"])], _score_rows(card)),
        *[f"**{warning}{'' if warning.endswith('?') else '.'}**" for warning in card["warnings"]],
        "## How to load it",
        f"```python\n{_loading(card)}\n```",
        *(
            f"Or `{own['file']}`, which needs no class:\n\n```python\n{_running(own['file'])}\n```"
            for own in card["exports"]
        ),
        _inputs(card),
        "## What it was made from",
        _table(["file", "architecture", "SHA-256", "as read"], _source_rows(card)),
        _table(["images", "source", "licence", "training", "test", "classes"], _data_rows(card)),
        "## How to make it again",
        f"```sh\n{card['command']}\n```",
        _table(["setting", "value"], [[key, f"`{json.dumps(value)}`"] for key, value in merge.items()]),
        "Versions: " + ", ".join(f"{name} {number}" for name, number in card["versions"].items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _score_rows(card: Mapping[str, Any]) -> list[list[str]]:
    heads = [entry["head"] for entry in card["data"]]
    return [
        [row["network"], *(f"{100 * row['score'][head]:.2f} %" if head in row["score"] else "" for head in heads)]
        for row in card["scores"]
    ]


def _source_rows(card: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"`{own['file']}`", own["architecture"]["name"], f"`{own['sha256'][:16]}`", "; ".join(own["notes"])]
        for own in card["sources"]
    ]


def _data_rows(card: Mapping[str, Any]) -> list[list[str]]:
    return [
        [own["head"], own["source"], own["licence"], str(own["training"]), str(own["test"]), ", ".join(own["classes"])]
        for own in card["data"]
    ]


def _loading(card: Mapping[str, Any]) -> str:
    """Python that gives the network in eval mode."""
    own = card["architecture"]
    if not card["plain_class"]:
        read = f'model = load_merged(Path("{card["file"]}"))'
        return f"from pathlib import Path\nfrom stages.formats.merged import load_merged\n\n{read}"
    library, _, name = own["name"].partition(":")
    if library == "torchvision":
        made = f'import torchvision\nmodel = torchvision.models.get_model("{name}", num_classes={own["num_classes"]})'
    elif library == "timm":
        made = f'import timm\nmodel = timm.create_model("{name}", num_classes={own["num_classes"]})'
    elif name:
        made = f"from {library} import {name}\nmodel = {name}()  # as you made it before"
    else:
        described = ", ".join(f"{key}={value!r}" for key, value in own.items())
        made = f"from mergeline.architectures import Architecture, build\nmodel = build(Architecture({described}))"
    if card["file"].endswith(".safetensors"):
        read = f'from safetensors.torch import load_file\nmodel.load_state_dict(load_file("{card["file"]}"))'
    else:
        read = f'import torch\nmodel.load_state_dict(torch.load("{card["file"]}", weights_only=True))'
    return f"{made}\n{read}\nmodel.eval()"


def _running(file: str) -> str:
    """Python that gives what an exported file makes of ``images``."""
    if file.endswith(".onnx"):
        return f'import onnxruntime\noutputs = onnxruntime.InferenceSession("{file}").run(None, {{"inputs": images.numpy()}})'
    return f'import torch\noutputs = torch.export.load("{file}").module()(images)'


def _inputs(card: Mapping[str, Any]) -> str:
    own = card["preprocessing"]
    name = card["architecture"]["name"]
    if name in ARCHITECTURES and ARCHITECTURES[name].reads == "texts":
        return f"Texts are {own['size']} tokens each, filled up with 0."
    return (
        f"Images are brought to {own['size']} pixels a side, their values to 0 to 1, less {_numbers(own['mean'])}, divided by "
        f"{_numbers(own['std'])}, by channel."
    )


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
