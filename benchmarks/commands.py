"""Whole commands of the project, run in a folder with the code of some checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["mergeline"]


def mergeline(folder: Path, source: Path, *arguments: str) -> str:
    """What a command prints. ``source``: the checkout whose code runs.

    Raises
    ------
    RuntimeError: it failed, with the end of what it printed.
    """
    environment = {**os.environ, "PYTHONPATH": str(source), "DVC_NO_ANALYTICS": "1", "COLUMNS": "200"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled once
    with tempfile.TemporaryFile("w+") as output:  # a pipe would end with the last of what a command has started
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "flows.cli", *arguments],
            cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False, timeout=7200,
        )  # fmt: skip
        output.seek(0)
        text = output.read()
    if ended.returncode:
        raise RuntimeError(f"mergeline {' '.join(arguments)}: exit {ended.returncode}\n{text[-2000:]}")
    return text
