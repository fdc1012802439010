"""Bar 14: nights in which clocks change, clocks that are set, outages: each fire time once, missed ones as agreed."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from bars import Trial, bar
from report import Figure, equals, none, told

from penstock import JobQueue
from penstock.core.config import Config
from penstock.ledger.memory import MemoryLedger
from penstock.testing.frozen import FrozenScheduler, VirtualClock

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia")


@bar(
    14, "clocks that change, clocks that are set, outages",
    small={"years": 2}, full={"years": 20}, places=(("-", "memory://"),),
)  # fmt: skip
def clocks(trial: Trial) -> list[Figure]:
    figures: list[Figure] = []
    days = nights = 0
    wrong: list[str] = []
    for zone in ZONES:
        nights_of, days_of, odd = _nights(zone, trial.size["years"])
        nights, days = nights + nights_of, days + days_of
        wrong += odd
    figures += [equals("nights", nights, days), none("days with another count than one", wrong)]
    for catch_up, wanted in (("latest", 1), ("all", 72), ("none", 0)):
        figures.append(equals(f"made up for after three days, {catch_up}", _outage(catch_up), wanted))
    back, forward = _step(-1), _step(1)
    figures += [
        equals("clock set back by an hour: jobs in ten hours", back, 10),
        none("fire times twice", [] if back == 10 else ["back"]),
        told("clock set forward by an hour: jobs in ten hours", forward),
    ]
    return figures


def _frozen(folder: str, at: datetime) -> FrozenScheduler:
    clock = VirtualClock(at)
    config = Config(backend="inline://", results=str(Path(folder, "results")))
    return FrozenScheduler(JobQueue(config=config, root=folder, ledger=MemoryLedger(clock=clock)), clock)


def _nights(zone: str, years: int) -> tuple[int, int, list[str]]:
    """Fire at 02:30 on each day, with a scheduler that is restarted at each fire time and inside the folded hours."""
    from datetime import date

    begin, end = date(2031 - years, 1, 1), date(2031, 1, 1)
    local = ZoneInfo(zone)
    with tempfile.TemporaryDirectory() as folder:
        frozen = _frozen(folder, datetime(begin.year, 1, 1, tzinfo=local).astimezone(UTC))
        frozen.queue.schedule(frozen.queue.command(["true"]), name="night", cron="30 2 * * *", timezone=zone)
        until = datetime(end.year, 1, 1, tzinfo=local).astimezone(UTC)
        runs = frozen.advance(until - frozen.queue.now() - timedelta(seconds=1), run=False)
    fired = Counter(run.fire_at.astimezone(local).date() for run in runs)
    exist = {
        day
        for n in range((end - begin).days)
        if (day := begin + timedelta(days=n)) == _noon(day, local).astimezone(UTC).astimezone(local).date()
    }
    odd = [
        f"{zone} {day}: {fired.get(day, 0)}"
        for day in sorted(exist | set(fired))
        if fired.get(day, 0) != (day in exist)
    ]
    return len(runs), len(exist), odd


def _noon(day: object, local: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=local)  # type: ignore[attr-defined]


def _outage(catch_up: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        frozen = _frozen(folder, datetime(2026, 11, 22, 0, 10, tzinfo=UTC))
        frozen.queue.schedule(
            frozen.queue.command(["true"]), name="hourly", cron="0 * * * *", overlap="allow", catch_up=catch_up
        )
        frozen._clock.seconds += 72 * 3600  # nobody looks for three days
        return frozen.tick()


def _step(hours: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        frozen = _frozen(folder, datetime(2026, 11, 22, 0, 10, tzinfo=UTC))
        frozen.queue.schedule(frozen.queue.command(["true"]), name="hourly", cron="0 * * * *", overlap="allow")
        runs = frozen.advance("5h", run=False)
        frozen._clock.seconds += hours * 3600
        runs += frozen.advance(timedelta(hours=5 - hours), run=False)
        fires = [run.fire_at for run in runs]
        return len(set(fires)) if len(set(fires)) == len(fires) else -1
