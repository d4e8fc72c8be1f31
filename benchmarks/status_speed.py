"""``status`` and ``run --dry`` of some 4,500 stages from their outline, against DVC's reading all of them, as whole commands."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from benchmarks.commands import mergeline
from benchmarks.timing import in_turn, ratio
from stages.formats import yaml12
from stages.formats.files import write_bytes
from stages.plan import paths

SOURCE = Path(__file__).resolve().parents[1]
CHANGES = {"architectures": ["r17", "r29", "r35"], "seeds": [0, 1, 2, 3, 4]}
"""What makes the profile tiny large."""


def measure(quick: bool = False, rounds: int = 3) -> dict[str, float | str]:
    """Seconds of both commands from the outline, and of ``status`` without; nothing of the benchmark has run."""
    with tempfile.TemporaryDirectory(prefix="mergeline-status-") as folder:
        root = Path(folder) / "large"
        mergeline(Path(folder), SOURCE, "init", "large", "--profile", "tiny")
        values = yaml12.load((root / paths.PARAMS).read_text(encoding="utf-8"))
        values |= {"seeds": [0, 1]} if quick else CHANGES
        values["merges"] = {
            name: {key: value for key, value in series.items() if key != "runs"} | {"runs": "all"}
            for name, series in values["merges"].items()
        }
        import yaml

        write_bytes(root / paths.PARAMS, yaml.safe_dump(values, sort_keys=False).encode())
        mergeline(root, SOURCE, "plan")

        def anew() -> None:
            (root / paths.OUTLINE).unlink(missing_ok=True)
            mergeline(root, SOURCE, "status")

        ways = {
            "anew": anew,
            "status": lambda: mergeline(root, SOURCE, "status"),
            "dry": lambda: mergeline(root, SOURCE, "run", "--dry"),
        }
        seconds = in_turn(ways, 1 if quick else rounds, warmup=0)
        said = mergeline(root, SOURCE, "status").splitlines()[-1]
    return {
        "stages": int(said.split()[0]),
        "times as fast": ratio(seconds, "anew", "status"),
        "status seconds": median(seconds["status"]),
        "dry seconds": median(seconds["dry"]),
        "anew seconds": median(seconds["anew"]),
    }


def line(found: dict[str, float | str]) -> str:
    return (
        f"status: {found['stages']} stages in {found['status seconds']:.1f} s ({found['dry seconds']:.1f} s for run --dry), "
        f"{found['times as fast']:.1f} times as fast as where DVC reads them all ({found['anew seconds']:.1f} s)"
    )


def main() -> None:
    print(line(measure()))


if __name__ == "__main__":
    main()
