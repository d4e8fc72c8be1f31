"""Stage ``targets``: the text embeddings of a task's class names, where networks are trained to point at them."""

from __future__ import annotations

import json

import numpy as np

from mergeline.text import class_embeddings
from stages.context import Context
from stages.formats import FORMAT
from stages.formats.files import writing
from stages.plan import paths

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a task."""
    options = context.params.targets
    task = context.task(cell)
    names = list(task.classes)
    embeddings = class_embeddings(names, options.encoder, options.template)
    description = {
        "format": FORMAT,
        "encoder": options.encoder,
        "texts": [options.template.format(name) for name in names],
    }
    with writing(context.path(paths.targets(cell))) as temporary, temporary.open("wb") as stream:
        np.savez(stream, embeddings=embeddings.numpy(), description=np.array(json.dumps(description)))
