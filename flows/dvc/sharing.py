"""Sharing results through a DVC remote (a shared folder, S3, ...): fetching before a run, sending after it.

A remote that is away is never in the way: what cannot be fetched is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dvc.exceptions import DvcException

from flows.dvc.pipeline import Pipeline
from flows.dvc.verify import missing_objects, repair

__all__ = ["pull", "push"]


def pull(pipeline: Pipeline, addresses: Sequence[str]) -> str:
    """Fetch the run cache, and the objects that the locks of some stages name; what came, in a sentence."""
    if not pipeline.repo.config["core"].get("remote"):
        return "no DVC remote is configured (dvc remote add -d NAME URL); everything is computed here"
    problems = []
    fetched = 0
    with pipeline.locked():
        try:
            pipeline.repo.stage_cache.pull(None)
        except Exception as error:
            problems.append(_short(error))
        if not problems:
            try:
                fetched += pipeline.repo.fetch(targets=list(addresses) or None, run_cache=False) or 0
            except (DvcException, OSError) as error:
                if "failed to fetch" not in str(error):  # some objects are not there: they are computed
                    problems.append(_short(error))
            except Exception as error:
                problems.append(_short(error))
        if not problems:
            fetched += _fetch_run_cache_objects(pipeline, problems)
    if problems:
        return f"warning: the DVC remote cannot be reached ({problems[0]}); what is missing is computed here"
    return f"fetched {fetched} files from the DVC remote"


def _fetch_run_cache_objects(pipeline: Pipeline, problems: list[str]) -> int:
    """Objects that the run cache knows as the outputs of these very inputs (a second clone without locks)."""
    try:
        cache = pipeline.repo.stage_cache
        used = []
        for folder in Path(cache.cache_dir).glob("??/*"):
            used += [(folder.name, entry.name) for entry in folder.iterdir() if entry.is_file()]
        count = 0
        for objects in cache.get_used_objs(used).values():
            missing = {info for info in objects if not pipeline.cache.path_of(info.value).exists()}
            if missing:
                result = pipeline.repo.cloud.pull(missing)
                count += len(getattr(result, "transferred", ()) or ())
        return count
    except Exception as error:
        problems.append(_short(error))
        return 0


def push(pipeline: Pipeline) -> str:
    """Send all results that the locks name, and the run cache; what went, in a sentence."""
    if not pipeline.repo.config["core"].get("remote"):
        return "no DVC remote is configured (dvc remote add -d NAME URL); nothing was sent"
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
