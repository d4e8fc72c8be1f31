"""Sharing results through a DVC remote (a shared folder, S3, ...): fetching before a run, sending after it.

A remote that is away is never in the way: what cannot be fetched is computed. What is damaged there is named, and left as it is.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from dvc.exceptions import DvcException
from dvc_objects.errors import ObjectFormatError

from flows.dvc.pipeline import Pipeline
from flows.dvc.remote_damage import damage_lines, named_objects, set_wrong_aside, untouched_remote
from flows.dvc.run_cache import damaged_entries
from flows.dvc.verify import missing_objects, repair
from flows.loopback import spare_loopback

__all__ = ["pull", "push"]


def pull(pipeline: Pipeline, addresses: Sequence[str]) -> str:
    """Fetch the run cache, and the objects that the locks of some stages name; what came, in a sentence."""
    if not pipeline.repo.config["core"].get("remote"):
        return "no DVC remote is configured (dvc remote add -d NAME URL); everything is computed here"
    spare_loopback(os.environ)
    problems: list[str] = []
    fetched = 0
    begun = time.time_ns()
    with pipeline.locked(), untouched_remote(pipeline) as damaged:
        try:
            pipeline.repo.stage_cache.pull(None)
        except Exception as error:
            problems.append(_short(error))
        if not problems:
            fetched += _fetch(pipeline, list(addresses) or None, problems, damaged)
        if not problems:
            fetched += _fetch_run_cache_objects(pipeline, problems)
    damaged |= set_wrong_aside(pipeline, begun)
    if problems:
        text = f"warning: the DVC remote cannot be reached ({problems[0]}); what is missing is computed here"
    else:
        text = f"fetched {fetched} files from the DVC remote"
    return "\n".join([text, *damage_lines(pipeline, damaged)])


def _fetch(pipeline: Pipeline, targets: list[str] | None, problems: list[str], damaged: set[str]) -> int:
    """Fetch what the locks of some stages name. One damaged listing of a folder must not keep all else away."""
    try:
        return pipeline.repo.fetch(targets=targets, run_cache=False) or 0
    except ObjectFormatError as error:
        damaged |= named_objects(error)
        names = list(pipeline.stages) if targets is None else targets
        return sum(_fetch(pipeline, [name], problems, damaged) for name in names) if len(names) > 1 else 0
    except (DvcException, OSError) as error:
        if "failed to fetch" not in str(error):  # some objects are not there: they are computed
            problems.append(_short(error))
    except Exception as error:
        problems.append(_short(error))
    return 0


def _fetch_run_cache_objects(pipeline: Pipeline, problems: list[str]) -> int:
    """Objects that the run cache knows as the outputs of these very inputs (a second clone without locks)."""
    cache = pipeline.repo.stage_cache
    runs = Path(cache.cache_dir)
    passed_over = {*damaged_entries(runs)}
    used = [
        (folder.name, entry.name)
        for folder in runs.glob("??/*")
        for entry in folder.iterdir()
        if entry.is_file() and entry not in passed_over
    ]
    try:
        return _pull_used(pipeline, used)
    except (DvcException, ObjectFormatError):  # the listing of a folder is not there, or damaged
        count = 0
        for one in used:
            with contextlib.suppress(DvcException, ObjectFormatError):
                count += _pull_used(pipeline, [one])
        return count
    except Exception as error:
        problems.append(_short(error))
        return 0


def _pull_used(pipeline: Pipeline, used: list[tuple[str, str]]) -> int:
    count = 0
    for objects in pipeline.repo.stage_cache.get_used_objs(used).values():
        missing = {info for info in objects if not pipeline.cache.path_of(info.value).exists()}
        if missing:
            result = pipeline.repo.cloud.pull(missing)
            count += len(getattr(result, "transferred", ()) or ())
    return count


def push(pipeline: Pipeline) -> str:
    """Send all results that the locks name, and the run cache; what went, in a sentence."""
    if not pipeline.repo.config["core"].get("remote"):
        return "no DVC remote is configured (dvc remote add -d NAME URL); nothing was sent"
    spare_loopback(os.environ)
    repair(pipeline, missing_objects(pipeline))
    missing = missing_objects(pipeline)
    try:
        with pipeline.locked():
            sent = pipeline.repo.push(run_cache=True)
    except Exception as error:
        return f"warning: the DVC remote cannot be reached ({_short(error)}); nothing is lost here"
    if missing:
        first = missing[0].found.removeprefix("missing, of ")
        return (
            f"sent {sent} files to the DVC remote; warning: {len(missing)} that the locks name are not in the cache and were not "
            f"sent, such as that of {first}. Make them: mergeline verify --repair && mergeline run --push"
        )
    return f"sent {sent} files to the DVC remote"


def _short(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
