"""The register of the bars: what each is called, where it is tried, and how large it is.

A bar is a function in a module ``bar_NN_*.py``; it takes a `Trial` and returns figures. ``small`` runs in `make test`,
``full`` in `make chaos`: the sizes of the table in dev_docs/reliability.md.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from arena import Arena
from report import Figure, Row

from penstock.testing.harness import not_here

SQLITE, REDIS, POSTGRES = "sqlite:///{folder}/ledger.db", "{redis}", "{postgres}"
HUEY, HUEY_REDIS = "huey+sqlite:///{folder}/queue.db", "huey+{redis}"
RQ, SAQ, ARQ, TASKIQ, DRAMATIQ = "rq+{redis}", "saq+{redis}", "arq+{redis}", "taskiq+{redis}", "dramatiq+{redis}"
TASKIQ_NATS, TASKIQ_AMQP, DRAMATIQ_AMQP = "taskiq+{nats}", "taskiq+{rabbitmq}", "dramatiq+{rabbitmq}"

Place = tuple[str, str]
"""An engine's URL template and a ledger's."""
SIX: tuple[Place, ...] = (
    (HUEY, SQLITE), (RQ, REDIS), (SAQ, POSTGRES), (ARQ, SQLITE), (TASKIQ, REDIS), (DRAMATIQ, POSTGRES),
)  # fmt: skip
"""Each engine once, each ledger twice."""
CROSS: tuple[Place, ...] = tuple((engine, ledger) for engine, _ in SIX for ledger in (SQLITE, REDIS, POSTGRES))
"""Each engine on each ledger."""


class Trial(NamedTuple):
    """One run of one bar: where, how large, by which seed."""

    engine: str
    ledger: str
    folder: Path
    seed: int
    size: Mapping[str, int]

    def arena(self, **changes: Any) -> Arena:
        """Open the place, with changes of the configuration."""
        return Arena(self.engine, self.ledger, self.folder, self.seed, **changes)


class Bar(NamedTuple):
    number: int
    what: str
    run: Callable[[Trial], list[Figure]]
    sizes: Mapping[str, Mapping[str, int]]
    places: Mapping[str, Sequence[Place]]

    def trial(self, size: str, place: Place, seed: int) -> Row:
        """Run it once and return its row. What goes wrong besides the figures is raised."""
        engine, ledger = place
        with tempfile.TemporaryDirectory(prefix="penstock-chaos-", ignore_cleanup_errors=True) as folder:
            began = time.monotonic()
            figures = self.run(Trial(engine, ledger, Path(folder), seed, self.sizes[size]))
            took_s = time.monotonic() - began
        return Row(self.number, self.what, name_of(engine), name_of(ledger), size, seed, figures, took_s)


BARS: list[Bar] = []


def bar(
    number: int,
    what: str,
    *,
    small: Mapping[str, int],
    full: Mapping[str, int],
    places: Sequence[Place] = SIX,
    full_places: Sequence[Place] | None = None,
) -> Callable[[Callable[[Trial], list[Figure]]], Callable[[Trial], list[Figure]]]:
    """Register a bar under its number in the table."""

    def register(run: Callable[[Trial], list[Figure]]) -> Callable[[Trial], list[Figure]]:
        BARS.append(Bar(number, what, run, {"small": small, "full": full},
                        {"small": places, "full": full_places or places}))  # fmt: skip
        return run

    return register


def load(numbers: Collection[int] = ()) -> list[Bar]:
    """Import the bars of these numbers (default: all), each from the file with its number, and return them in order."""
    for file in sorted(Path(__file__).parent.glob("bar_*.py")):
        if not numbers or int(file.stem.split("_")[1]) in numbers:
            importlib.import_module(file.stem)
    return sorted(BARS, key=lambda found: found.number)


def name_of(template: str) -> str:
    """Shorten a URL template to what the table calls it: ``rq+redis``, ``sqlite``."""
    return template.partition("://")[0].replace("{", "").replace("}", "").replace("rabbitmq", "amqp")


def missing(place: Place) -> str | None:
    """Say why a place cannot be had on this machine, or None."""
    return not_here(place[0]) or not_here(place[1])
