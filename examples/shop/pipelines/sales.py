"""What was sold, and a line for people."""

import csv
from pathlib import Path


def rows(path: str) -> list[dict]:
    with Path(path).open(newline="") as opened:
        return list(csv.DictReader(opened))


def total(rows: list[dict]) -> float:
    return sum(float(row["price"]) * int(row["count"]) for row in rows)


def report(total: float, title: str) -> str:
    return f"{title}: {total:.2f}"
