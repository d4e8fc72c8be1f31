"""Print how many tests passed, failed and were skipped, from pytest's XML files; a file that is not there counts nothing, and one
that was cut short (on a full disk, say) counts as one failure."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

totals = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
for name in sys.argv[1:]:
    if Path(name).is_file():
        try:
            suites = list(ElementTree.parse(name).getroot().iter("testsuite"))
        except ElementTree.ParseError:
            totals["tests"] += 1
            totals["errors"] += 1
            continue
        for suite in suites:
            for key in totals:
                totals[key] += int(suite.get(key, 0))
failed = totals["failures"] + totals["errors"]
print(f"tests: {totals['tests'] - failed - totals['skipped']} passed, {failed} failed, {totals['skipped']} skipped")
