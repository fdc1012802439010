"""How many of each product were sold."""

import csv
from collections import Counter
from pathlib import Path


def sold(path: str) -> dict:
    counts: Counter[str] = Counter()
    with Path(path).open(newline="") as opened:
        for row in csv.DictReader(opened):
            counts[row["product"]] += int(row["count"])
    return dict(counts)
