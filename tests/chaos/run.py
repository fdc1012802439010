"""Runs bars and tells their figures: ``make chaos``, ``make chaos ARGS="--bar 1 --engine rq+redis --seed 7"``."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import traceback
from pathlib import Path

import bars
import report

DOCUMENT = Path(__file__).parents[2] / "dev_docs" / "reliability.md"
SEED = "PENSTOCK_TEST_SEED"


def seed_of(text: str | None = None) -> int:
    """Return the seed that was asked for, by flag or by the environment, else a new one."""
    asked = text or os.environ.get(SEED)
    return int(asked) if asked else secrets.randbelow(10**6)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--bar", type=int, action="append", help="a bar's number; may be repeated; default: all")
    parser.add_argument("--engine", action="append", help="such as rq+redis; may be repeated")
    parser.add_argument("--ledger", action="append", help="sqlite, redis or postgres; may be repeated")
    parser.add_argument("--seed", help=f"replay a run; also as {SEED}")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {DOCUMENT.name}")
    parser.add_argument("--list", action="store_true", help="tell which bars there are, run none")
    asked = parser.parse_args()
    chosen = [
        (found, place)
        for found in bars.load(asked.bar or ())
        for place in found.places[asked.size]
        if (not asked.bar or found.number in asked.bar)
        and (not asked.engine or bars.name_of(place[0]) in asked.engine)
        and (not asked.ledger or bars.name_of(place[1]) in asked.ledger)
    ]
    seed = seed_of(asked.seed)
    failed = 0
    for found, place in chosen:
        where = f"bar {found.number:2} {bars.name_of(place[0])} on {bars.name_of(place[1])}"
        if asked.list:
            print(f"{where}: {found.what} {dict(found.sizes[asked.size])}")
            continue
        if (why := bars.missing(place)) is not None:
            print(f"{where}: NOT TRIED: {why}")
            failed += 1
            continue
        try:
            row = found.trial(asked.size, place, seed)
        except Exception:
            print(f"{where} seed {seed}: BROKE OFF\n{traceback.format_exc()}", flush=True)
            failed += 1
            continue
        print(row.line() if row.ok else row.missed(), flush=True)
        failed += not row.ok
        if asked.write:
            report.write(DOCUMENT, [row])
    print(f"{len(chosen) - failed} of {len(chosen)} met; {report.machine()}")
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
