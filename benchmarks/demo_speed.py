"""The whole demo, from nothing to the report, beside an older commit's: each in a fresh clone, one after the other, in one run.

Both run in this Python, so with the same versions of all packages; what differs is the project's code, its parameters
and what it finds worth doing (a mirrored merge of two equals is done once).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.commands import mergeline

SOURCE = Path(__file__).resolve().parents[1]
BEFORE = "6adf892"
"""The last commit before merges were made in one direction, norms folded and products kept."""


def measure(quick: bool = False, against: str = BEFORE) -> dict[str, float | str]:
    """Seconds and stages of both; ``quick``: the profile tiny in place of the demo. The older one goes first."""
    profile = "tiny" if quick else "demo"
    found: dict[str, float | str] = {
        "profile": profile,
        "before": _git("rev-parse", "--short", f"{against}^{{commit}}"),
        "now": _git("rev-parse", "--short", "HEAD"),
        "cores": len(os.sched_getaffinity(0)),
        "load before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory(prefix="mergeline-demo-", ignore_cleanup_errors=True) as folder:
        for name in ("before", "now"):
            root = Path(folder) / name
            _git("clone", "--quiet", "--no-checkout", str(SOURCE), str(root))
            _git("-C", str(root), "checkout", "--quiet", str(found[name]))
            mergeline(root, root, "--help")  # compiles the modules: not timed
            begun = time.perf_counter()
            said = mergeline(root, root, "run", "--profile", profile, "--quiet", "--no-prefect")
            found[f"{name} seconds"] = time.perf_counter() - begun
            ran = re.search(r"(\d+) ran", said)
            if ran is None:
                raise RuntimeError(f"{name}: no stage ran\n{said}")
            found[f"{name} stages"] = int(ran[1])
    found["times as fast"] = float(found["before seconds"]) / float(found["now seconds"])
    return found | {"load after": os.getloadavg()[0]}


def _git(*arguments: str) -> str:
    ended = subprocess.run(["git", *arguments], cwd=SOURCE, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(
            f"git {' '.join(arguments)}: {ended.stderr.strip()} (it needs a clone with its whole history)"
        )
    return ended.stdout.strip()


def line(found: dict[str, float | str]) -> str:
    minutes = {name: float(found[f"{name} seconds"]) / 60 for name in ("before", "now")}
    return (
        f"demo, profile {found['profile']}: {minutes['now']:.1f} min for {found['now stages']} stages at {found['now']}, "
        f"{minutes['before']:.1f} min for {found['before stages']} at {found['before']} in the same run: "
        f"{found['times as fast']:.2f} times as fast ({found['cores']} cores, load average {found['load before']:.1f} before, "
        f"{found['load after']:.1f} after)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the profile tiny, in some minutes; the ratio says less")
    parser.add_argument("--against", default=BEFORE, metavar="REV", help="the older commit; default: %(default)s")
    chosen = parser.parse_args()
    print(line(measure(chosen.quick, chosen.against)))


if __name__ == "__main__":
    main()
