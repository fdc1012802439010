"""Bar 18, the part without screens: twenty planted secrets, looked for in all that is shown and kept.

The tests of `tests/unit/test_security_secrets.py` plant and look; `make test` runs them there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from bars import HUEY, SQLITE, Trial, bar
from report import Figure, equals, told

TESTS = Path(__file__).parents[1] / "unit" / "test_security_secrets.py"


@bar(18, "secrets (no screens yet)", small={}, full={}, places=(), full_places=((HUEY, SQLITE),))
def secrets(trial: Trial) -> list[Figure]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "planted or ledger_keeps",
        str(TESTS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS.parents[2])
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    planted = TESTS.read_text().partition("PLANTED = {")[2].partition("\n}")[0].count('": "')
    return [
        told("planted", planted),
        equals("looks that found none", counts.get("passed", 0), 2),
        equals("looks that found one", counts.get("failed", 0) + counts.get("error", 0), 0),
    ]
