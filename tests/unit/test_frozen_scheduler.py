"""The fixture ``frozen_scheduler``: time passes when a test says so."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from penstock import Run, task
from penstock.testing.frozen import FrozenScheduler


@pytest.fixture
def ran():
    return []


@pytest.fixture
def nightly(ran):
    @task(name="nightly")
    def nightly(run: Run) -> None:
        ran.append(run.fire_at)

    return nightly


def test_a_nightly_job_runs_once_in_the_night_in_which_clocks_go_back(frozen_scheduler, nightly, ran):
    frozen_scheduler.at("2026-10-25T00:00", tz="Europe/Berlin")
    frozen_scheduler.queue.schedule(nightly, cron="30 2 * * *", timezone="Europe/Berlin")
    runs = frozen_scheduler.advance("24h")
    assert [run.job for run in runs] == ["nightly"]
    assert ran == [runs[0].fire_at]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"])
def test_a_nightly_job_fires_once_on_each_day_that_exists(frozen_scheduler, nightly, zone):
    frozen_scheduler.at("2011-01-01T00:00", tz=zone)
    frozen_scheduler.queue.schedule(nightly, cron="30 2 * * *", timezone=zone)
    # Apia left the 30 December 2011 out.
    assert len(frozen_scheduler.advance(timedelta(days=365), run=False)) == 365


def test_a_scheduler_that_starts_anew_within_the_folded_hour_fires_no_second_time(frozen_scheduler, nightly):
    frozen_scheduler.at("2026-10-25T00:00", tz="Europe/Berlin")
    frozen_scheduler.queue.schedule(nightly, cron="30 2 * * *", timezone="Europe/Berlin")
    runs = []
    for _ in range(24 * 12):
        runs += frozen_scheduler.advance("5m", run=False)
        frozen_scheduler = FrozenScheduler(frozen_scheduler.queue, frozen_scheduler._clock)
    assert len({run.id for run in runs}) == 1


def test_bodies_need_not_run(frozen_scheduler, nightly, ran):
    frozen_scheduler.at("2026-01-01T00:00Z").queue.schedule(nightly, every="1h")
    runs = frozen_scheduler.advance("10h", run=False)
    assert [run.state for run in runs] == ["succeeded"] * 10
    assert ran == []


def test_what_has_been_told_is_not_told_again(frozen_scheduler, nightly):
    frozen_scheduler.at("2026-01-01T00:00Z").queue.schedule(nightly, every="1h")
    assert [len(frozen_scheduler.advance("90m")) for _ in range(4)] == [1, 2, 1, 2]


def test_a_failed_run_is_tried_again_at_its_time(frozen_scheduler):
    tries = []

    @task(name="flaky", max_attempts=3, backoff="10m")
    def flaky() -> None:
        tries.append(frozen_scheduler.queue.now())
        raise ValueError("no")

    frozen_scheduler.at("2026-01-01T00:00Z").queue.schedule(flaky, at="2026-01-01T01:00Z")
    (run,) = frozen_scheduler.advance("2h")
    assert run.state == "failed"
    assert [(later - tries[0]) // timedelta(minutes=1) for later in tries] == [0, 10, 20]


def test_it_has_the_schedules_of_the_project_around(tmp_path, monkeypatch, request):
    Path(tmp_path, "penstock.toml").write_text(
        'backend = "rq+redis://nowhere/0"\ntimezone = "Europe/Berlin"\n'
        '[schedules.hello]\ncommand = ["true"]\ncron = "0 7 * * MON-FRI"\n'
    )
    monkeypatch.chdir(tmp_path)
    frozen_scheduler = request.getfixturevalue("frozen_scheduler")
    runs = frozen_scheduler.at("2026-11-20T00:00").advance("5d", run=False)
    assert [(run.schedule, f"{run.fire_at:%a %H}") for run in runs] == [
        ("hello", "Fri 06"), ("hello", "Mon 06"), ("hello", "Tue 06"),
    ]  # fmt: skip
