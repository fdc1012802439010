"""What a bar came to: its figures beside their limits, in one line, and as a table in a document."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_BEGIN, _END = "<!-- the bars: begin -->", "<!-- the bars: end -->"
_HEAD = "| bar | what | engine | ledger | size | reached (limit) | met | date | seed |"


class Figure(NamedTuple):
    """One thing that was counted or measured, and whether it is within its limit."""

    name: str
    reached: str
    limit: str
    ok: bool
    why: str = ""
    """The first cases that broke it."""

    def __str__(self) -> str:
        return f"{self.name} {self.reached}" + (f" ({self.limit})" if self.limit else "")


def _text(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def none(name: str, cases: Iterable[str]) -> Figure:
    """Nothing of this kind may have happened."""
    found = list(cases)
    return Figure(name, str(len(found)), "0", not found, "; ".join(found[:5]))


def equals(name: str, reached: float, wanted: float) -> Figure:
    return Figure(name, _text(reached), _text(wanted), reached == wanted)


def at_most(name: str, reached: float, limit: float, unit: str = "") -> Figure:
    return Figure(name, _text(reached) + unit, f"<= {_text(limit)}{unit}", reached <= limit)


def at_least(name: str, reached: float, limit: float, unit: str = "") -> Figure:
    return Figure(name, _text(reached) + unit, f">= {_text(limit)}{unit}", reached >= limit)


def told(name: str, reached: float, unit: str = "") -> Figure:
    """A figure without a limit, for whoever reads the table."""
    return Figure(name, _text(reached) + unit, "", ok=True)


class Row(NamedTuple):
    """One run of a bar in one place."""

    number: int
    what: str
    engine: str
    ledger: str
    size: str
    seed: int
    figures: list[Figure]
    took_s: float

    @property
    def ok(self) -> bool:
        return all(figure.ok for figure in self.figures)

    def line(self) -> str:
        """Tell all of it in one line."""
        figures = ", ".join(str(figure) for figure in self.figures)
        where = f"{self.engine} on {self.ledger}"
        verdict = f"{'ok' if self.ok else 'MISSED'} ({self.took_s:.0f} s)"
        return f"bar {self.number:2} {where:26} {self.size:5} seed {self.seed}: {figures} -> {verdict}"

    def missed(self) -> str:
        """Tell what was missed, with the first cases, and how to run it again."""
        cases = "\n".join(f"  {figure}: {figure.why}" for figure in self.figures if not figure.ok)
        again = (
            f"tests/chaos/run.py --size {self.size} --bar {self.number} --engine {self.engine} "
            f"--ledger {self.ledger} --seed {self.seed}"
        )
        return f"{self.line()}\n{cases}\n  again: {again}"

    def cells(self) -> str:
        figures = ", ".join(str(figure) for figure in self.figures)
        day = dt.datetime.now(dt.UTC).date().isoformat()
        met = "yes" if self.ok else "**no**"
        return (
            f"| {self.number} | {self.what} | {self.engine} | {self.ledger} | {self.size} | {figures} | {met} "
            f"| {day} | {self.seed} |"
        )


def machine() -> str:
    return f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {platform.system()}"


def write(document: Path, rows: Iterable[Row]) -> None:
    """Put rows into the document's table, each in the place of the last run of the same bar, engine and ledger."""
    text = document.read_text()
    before, rest = text.split(_BEGIN)
    inside, after = rest.split(_END)
    kept = {_key(line): line for line in inside.splitlines() if re.match(r"\| +\d", line)}
    kept |= {_key(line): line for line in (row.cells() for row in rows)}
    lines = [kept[key] for key in sorted(kept, key=lambda key: (int(key[0]), *key[1:]))]
    table = "\n".join([_HEAD, "|" + " --- |" * (_HEAD.count("|") - 1), *lines])
    told_of = f"Measured on {machine()}; other work ran on the machine at the same time."
    document.write_text(f"{before}{_BEGIN}\n{told_of}\n\n{table}\n{_END}{after}")


def _key(line: str) -> tuple[str, ...]:
    cells = [cell.strip() for cell in line.split("|")]
    return tuple(cells[1:5])
