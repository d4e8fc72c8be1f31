"""Profiles run from their first stage to the report, with fewer images, seeds, methods and epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.formats import yaml12
from tests.test_stages import run, run_bench

pytestmark = pytest.mark.slow
PROFILES = Path(__file__).resolve().parents[1] / "profiles"


def shrunk(name: str) -> dict[str, Any]:
    """A profile in which each series is still there, on a few images of its own tasks."""
    values: dict[str, Any] = yaml12.load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8"))
    values["seeds"] = [0, 1]
    for task in values["tasks"].values():
        task.update(max_train=60, max_test=40)
    values["train"] = {**values["train"], "epochs": 1, "batch_size": 20}
    values["statistics"].update(images=16, batch_size=8)
    for section in values["normalize"].values():
        section.update(images=16, batch_size=8)
    values["similarity"].update(images=30, batch_size=10)
    for series in values["merges"].values():
        series.pop("seeds", None)
        methods = series.get("methods", list(values["methods"]))
        series.update(methods=methods[:2], runs="neighbours", controls=[])
        if "preserves" in series:
            series["preserves"] = series["preserves"][:2]
    return values


@pytest.mark.parametrize("name", ["transformers", "dense"])
def test_a_profile_runs_to_its_report(name: str, tmp_path: Path) -> None:
    """That of texts, whose networks are ten times as large, has tests of its own with one pair (tests/test_stages_bert.py)."""
    bench = run_bench(tmp_path, shrunk(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(bench.root)
        assert run("plot") == 0
        assert run("report") == 0
    assert (bench.root / "reports/index.html").is_file()
    audit = bench.json("artifacts/audit.json")
    assert not [found for found in audit["findings"] if found["level"] == "error"]
