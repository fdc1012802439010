"""Fire times become jobs, exactly one for each: overlap, misses, intervals from the end, edits, pauses."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec.structs import replace

from penstock import JobQueue, Run, task
from penstock.core.config import Config
from penstock.core.exceptions import InvalidJobError, ScheduleDeclaredError, ScheduleNotFoundError
from penstock.declared import declare
from penstock.job import lifecycle
from penstock.job.models import ErrorInfo, JobQuery
from penstock.job.rules import After
from penstock.ledger.memory import MemoryLedger
from penstock.scheduler import LedgerScheduler
from penstock.testing.frozen import VirtualClock

START = datetime(2026, 11, 22, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def said():
    return []


@pytest.fixture
def clock():
    return VirtualClock(START)


@pytest.fixture
def queue(tmp_path, clock):
    """A queue whose jobs nobody runs: their ends are told by `end`."""
    config = Config(backend=f"huey+sqlite:///{tmp_path}/queue.db", results=str(tmp_path / "results"))
    with JobQueue(config=config, root=tmp_path, ledger=MemoryLedger(clock=clock)) as queue:
        yield queue


@pytest.fixture
def sales():
    @task(name="sales")
    def sales(region: str = "eu", day: str = "") -> None:
        """Do nothing."""

    return sales


def move(clock, **by):
    clock.seconds += timedelta(**by).total_seconds()


def jobs(queue, *states):
    return sorted(queue.ledger.find(JobQuery(states=states, limit=5000)), key=lambda job: job.id)


def end(queue, job, *, error=False, result=None):
    claimed = queue.ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=3600))
    attempt = claimed.job.attempt
    if error:
        told = lifecycle.fail(claimed.job, error=ErrorInfo("ValueError", "no"))
        assert queue.ledger.apply(told) is not None
    else:
        stored = queue.results.encode(result, job_id=job.id, attempt=attempt)
        assert queue.ledger.apply(lifecycle.succeed(job.id, attempt=attempt, result=stored)) is not None


def fired(queue):
    return [job.metadata["penstock.fire_at"] for job in jobs(queue)]


# -- one job for each fire time -----------------------------------------------------------------------------------


def test_a_fire_time_makes_one_job_when_it_has_come(queue, clock, sales):
    queue.schedule(sales, cron="0 2 * * *", timezone="Europe/Berlin", inputs={"region": "us"})
    move(clock, minutes=59, seconds=59)
    assert queue.scheduler.tick() == 0
    move(clock, seconds=1)
    assert [queue.scheduler.tick() for _ in range(3)] == [1, 0, 0]
    (job,) = jobs(queue)
    assert (job.name, job.tick_key) == ("sales", "sales@2026-11-22T01:00:00.000000Z")
    assert b'"us"' in job.spec


def test_a_job_carries_its_fire_time_and_its_interval(queue, clock, sales):
    queue.schedule(sales, cron="0 2 * * 1", inputs={"day": "{{ interval.start.date }}..{{ fire_at.date }}"})
    move(clock, days=2)
    queue.scheduler.tick()
    (job,) = jobs(queue)
    assert job.metadata["penstock.fire_at"] == "2026-11-23T02:00:00+00:00"
    assert job.metadata["penstock.interval_start"] == "2026-11-16T02:00:00+00:00"
    assert b"2026-11-16..2026-11-23" in job.spec


def test_a_body_is_told_its_fire_time_and_interval(job_queue, said):
    @task(name="told")
    def told(run: Run) -> None:
        said.append((run.fire_at, run.interval))

    job_queue.schedule(told, every="1h")
    job_queue.schedules.trigger("told")
    ((fire_at, (starts, ends)),) = said
    assert (ends, ends - starts) == (fire_at, HOUR)
    job_queue.enqueue(told)
    assert said[1] == (None, None)


def test_of_many_schedulers_one_makes_the_job(tmp_path, sales):
    url = f"sqlite:///{tmp_path}/ledger.db"
    config = Config(backend=f"huey+sqlite:///{tmp_path}/queue.db", ledger=url, results=str(tmp_path))
    queues = [JobQueue(config=config, root=tmp_path) for _ in range(4)]
    schedule = queues[0].schedule(sales, cron="* * * * * *", max_fires=20, overlap="allow", catch_up="all")
    before = schedule.next_at - timedelta(seconds=30)
    queues[0].schedules._change("sales", lambda schedule, _now: replace(schedule, next_at=before, made_at=before))
    made = []
    threads = [threading.Thread(target=lambda q=q: made.append(q.scheduler.tick())) for q in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = jobs(queues[0])
    assert len(found) == len({job.tick_key for job in found}) == 20
    assert sum(made) == 20
    for queue in queues:
        queue.close()


def test_a_scheduler_that_dies_between_job_and_cursor_leaves_no_second_job(queue, clock, sales, monkeypatch):
    queue.schedule(sales, every="1h")
    move(clock, hours=1)

    def dies(_changes):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(queue.ledger.records, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            queue.scheduler.tick()
    assert len(jobs(queue)) == 1
    assert queue.scheduler.tick() == 0
    assert len(jobs(queue)) == 1
    assert queue.schedules.get("sales").counts == {"fired": 1}


def test_a_clock_that_goes_back_offers_no_fire_time_twice(queue, clock, sales):
    queue.schedule(sales, cron="0 * * * *", overlap="allow")
    move(clock, hours=3)
    queue.scheduler.tick()
    before = fired(queue)
    move(clock, hours=-1)
    assert queue.scheduler.tick() == 0
    move(clock, hours=2)
    queue.scheduler.tick()
    assert fired(queue) == [*before, "2026-11-22T04:00:00+00:00"]


# -- missed fire times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "made", "late"),
    [
        ({"catch_up": "none"}, 0, 72),
        ({"catch_up": "latest"}, 1, 71),
        ({"catch_up": "all"}, 72, 0),
        ({"catch_up": "all", "catch_up_max": 10}, 10, 62),
        ({"catch_up": "all", "grace": "5h"}, 5, 67),
        ({"catch_up": "latest", "grace": "10m"}, 0, 72),
    ],
)
def test_three_days_of_outage_are_made_up_for_as_catch_up_says(queue, clock, sales, options, made, late):
    queue.schedule(sales, cron="0 * * * *", overlap="allow", **options)
    move(clock, days=3, minutes=30)
    assert queue.scheduler.tick() == made
    counts = queue.schedules.get("sales").counts
    assert (counts.get("fired", 0), counts.get("skipped: late", 0)) == (made, late)
    move(clock, minutes=30)
    assert queue.scheduler.tick() == 1


def test_an_outage_of_many_fire_times_is_counted_whole(queue, clock, sales):
    queue.schedule(sales, every="1s")
    move(clock, hours=8, milliseconds=500)
    assert queue.scheduler.tick() == 1
    counts = queue.schedules.get("sales").counts
    assert sum(counts.values()) == 8 * 3600


def test_a_scheduler_that_was_busy_for_a_moment_misses_nothing(queue, clock, sales):
    queue.schedule(sales, every="1s", overlap="allow", catch_up="none")
    move(clock, seconds=4)
    assert queue.scheduler.tick() == 4


def test_what_is_made_up_for_runs_one_after_another_unless_overlap_is_allowed(queue, clock, sales):
    queue.schedule(sales, cron="0 * * * *", catch_up="all")
    move(clock, hours=3, minutes=30)
    for count in (1, 2, 3):
        queue.scheduler.tick()
        assert len(jobs(queue)) == count
        queue.scheduler.tick()
        assert len(jobs(queue)) == count
        end(queue, jobs(queue, "queued")[0])
        move(clock, seconds=1)
    assert fired(queue) == [f"2026-11-22T0{hour}:00:00+00:00" for hour in (1, 2, 3)]


# -- overlap ----------------------------------------------------------------------------------------------------------


def test_a_fire_time_is_skipped_while_the_last_run_lasts(queue, clock, sales):
    queue.schedule(sales, every="1h")
    for _ in range(3):
        move(clock, hours=1)
        queue.scheduler.tick()
    assert queue.schedules.get("sales").counts == {"fired": 1, "skipped: overlap": 2}
    end(queue, jobs(queue)[0])
    move(clock, hours=1)
    assert queue.scheduler.tick() == 1


def test_overlapping_fire_times_can_wait_in_line(queue, clock, sales):
    queue.schedule(sales, every="1h", overlap="queue")
    for _ in range(3):
        move(clock, hours=1)
        queue.scheduler.tick()
    assert len(jobs(queue)) == 1
    for count in (2, 3):
        end(queue, jobs(queue, "queued")[0])
        move(clock, seconds=1)
        queue.scheduler.tick()
        assert len(jobs(queue)) == count


def test_overlapping_runs_can_be_allowed(queue, clock, sales):
    queue.schedule(sales, every="1h", overlap="allow")
    for _ in range(3):
        move(clock, hours=1)
        queue.scheduler.tick()
    assert len(jobs(queue, "queued")) == 3


def test_the_previous_run_can_be_cancelled(queue, clock, sales):
    queue.schedule(sales, every="1h", overlap="cancel_previous")
    for _ in range(3):
        move(clock, hours=1)
        queue.scheduler.tick()
    assert [job.state.value for job in jobs(queue)] == ["cancelled", "cancelled", "queued"]


# -- from the end, and as the run says ------------------------------------------------------------------------------


def test_an_interval_can_count_from_the_end_of_the_last_run(queue, clock, sales):
    queue.schedule(sales, every="10m", from_end=True)
    assert queue.scheduler.tick() == 1
    move(clock, hours=1)
    assert queue.scheduler.tick() == 0
    end(queue, jobs(queue)[0])
    move(clock, minutes=9, seconds=59)
    assert queue.scheduler.tick() == 0
    move(clock, seconds=1)
    assert queue.scheduler.tick() == 1


@pytest.mark.parametrize(
    ("returned", "after"),
    [
        (None, timedelta(minutes=10)),
        ("in:PT1M", timedelta(minutes=1)),
        ("at:2026-11-22T05:00:00+00:00", 5 * HOUR),
        ("at:2000-01-01T00:00:00+00:00", timedelta()),
        (17, timedelta(minutes=10)),
    ],
)
def test_a_run_may_say_when_the_next_one_is(queue, clock, sales, returned, after):
    from penstock.job.schedules import answer_of

    value = returned
    if isinstance(returned, str):
        kind, _, text = returned.partition(":")
        value = datetime.fromisoformat(text) if kind == "at" else timedelta(minutes=1)
    queue.schedule(sales, every="10m", follows=True)
    queue.scheduler.tick()
    end(queue, jobs(queue)[0], result=answer_of(value, "UTC"))
    move(clock, seconds=1)
    queue.scheduler.tick()
    schedule = queue.schedules.get("sales")
    if after:
        assert schedule.next_at == START + after
    else:
        assert len(jobs(queue)) == 2
    assert any("warning" in what for what in schedule.counts) is (returned == 17)


def test_a_run_that_says_never_is_the_last(queue, clock, sales):
    from penstock.job.schedules import answer_of

    queue.schedule(sales, every="10m", follows=True)
    queue.scheduler.tick()
    end(queue, jobs(queue)[0], result=answer_of("never", "UTC"))
    move(clock, days=1)
    assert queue.scheduler.tick() == 0
    assert queue.schedules.get("sales").over


def test_an_exception_never_unschedules(queue, clock, sales):
    queue.schedule(sales, every="10m", follows=True)
    queue.scheduler.tick()
    end(queue, jobs(queue)[0], error=True)
    move(clock, minutes=10)
    assert queue.scheduler.tick() == 1


def test_a_returned_time_without_a_zone_is_of_the_schedules(frozen_scheduler):
    @task(name="says")
    def says() -> datetime:
        return datetime(2030, 1, 1, 2)  # noqa: DTZ001 - that is the point

    frozen_scheduler.at("2026-11-22T00:00Z")
    frozen_scheduler.queue.schedule(says, every="10m", follows=True, timezone="Europe/Berlin")
    assert len(frozen_scheduler.advance("1h")) == 1
    assert frozen_scheduler.queue.schedules.get("says").next_at == datetime(2030, 1, 1, 1, tzinfo=UTC)


def test_first_runs_can_be_staggered(queue, sales):
    for name in ("a", "b", "c"):
        queue.schedule(sales, name=name, every="10m", from_end=True, soft_start=True)
    queue.schedule(sales, name="hard", every="10m", from_end=True)
    queue.schedules.stagger(["a", "b", "c", "hard"], 30)
    seconds = {s.name: (s.next_at - START).total_seconds() for s in queue.schedules.list()}
    assert seconds == {"a": 0, "b": 30, "c": 60, "hard": 0}


# -- changing -----------------------------------------------------------------------------------------------------


def test_making_a_schedule_again_changes_nothing(queue, sales):
    first = queue.schedule(sales, every="1h")
    assert queue.schedule(sales, every="1h") == first


def test_a_change_is_counted_and_keeps_where_it_stands(queue, clock, sales):
    queue.schedule(sales, cron="0 * * * *")
    move(clock, hours=1)
    queue.scheduler.tick()
    changed = queue.schedules.update("sales", cron="30 * * * *", overlap="allow", max_attempts=5)
    assert (changed.revision, changed.cursor_at) == (2, START + HOUR)
    assert changed.next_at == START + timedelta(minutes=90)
    assert changed.plan.template.max_attempts == 5


def test_a_pause_lasts_until_it_is_resumed_and_is_not_made_up_for(queue, clock, sales):
    queue.schedule(sales, cron="0 * * * *", catch_up="all")
    paused = queue.schedules.pause("sales", "broken feed", by="ada")
    assert (paused.pause.by, paused.pause.note) == ("ada", "broken feed")
    move(clock, hours=5, minutes=1)
    assert queue.scheduler.tick() == 0
    queue.schedules.resume("sales")
    assert queue.scheduler.tick() == 0
    move(clock, hours=1)
    assert queue.scheduler.tick() == 1


def test_a_paused_schedule_stays_paused_when_it_is_deployed_again(queue, sales):
    plan = queue.schedule(sales, every="1h").plan
    queue.unschedule("sales")
    queue.schedules.declare("config:x", {"sales": plan})
    queue.schedules.pause("sales", "wait")
    queue.schedules.declare("config:x", {"sales": replace(plan, overlap="allow")})
    schedule = queue.schedules.get("sales")
    assert schedule.pause is not None
    assert schedule.plan.overlap == "allow"


def test_a_declared_command_may_say_what_its_exit_statuses_ask_for(tmp_path):
    table = {"command": ["./sync.sh"], "every": "1h", "on_exit": {"75": "retry 5m"}}
    wrong = {"task": "sales", "every": "1h", "on_exit": {"75": "retry 5m"}}
    config = Config(backend="inline://", ledger="memory://", schedules={"sync": table, "wrong": wrong})
    with JobQueue(config=config, root=tmp_path) as queue:
        told = declare(queue)
        plan = queue.schedules.get("sync").plan
    assert msgspec.json.decode(plan.template.spec)["on_exit"] == {"75": "retry 5m"}
    assert "on_exit is for a command" in told["wrong"]


def test_what_a_file_no_longer_declares_is_gone(queue, sales):
    plan = queue.schedule(sales, every="1h").plan
    queue.schedules.declare("config:x", {"a": plan, "b": plan})
    queue.schedules.declare("config:y", {"c": plan})
    queue.schedules.declare("config:x", {"b": plan})
    assert [schedule.name for schedule in queue.schedules.list()] == ["b", "c", "sales"]


def test_what_a_file_declares_is_changed_there_alone(queue, sales):
    plan = queue.schedule(sales, every="1h").plan
    queue.schedules.declare("config:x", {"a": replace(plan, where="penstock.toml")})
    with pytest.raises(ScheduleDeclaredError, match=r"declared in penstock\.toml"):
        queue.schedules.update("a", every="2h")
    with pytest.raises(ScheduleDeclaredError, match=r"declared in penstock\.toml"):
        queue.unschedule("a")


def test_a_trigger_is_recorded_as_manual_and_moves_nothing(queue, clock, sales):
    before = queue.schedule(sales, cron="0 * * * *")
    job = queue.schedules.trigger("sales")
    after = queue.schedules.get("sales")
    assert (after.next_at, after.counts, after.last_job) == (before.next_at, {"manual": 1}, job.id)
    assert job.job.metadata["penstock.manual"] == "1"


def test_a_trigger_of_what_counts_from_the_end_starts_no_second_run(queue, sales):
    queue.schedule(sales, every="10m", from_end=True)
    queue.scheduler.tick()
    (running,) = jobs(queue)
    assert queue.schedules.trigger("sales").id == running.id
    assert len(jobs(queue)) == 1


def test_a_time_that_is_over_by_now_is_not_made_up_for(queue, clock, sales):
    queue.schedule(sales, at="2026-11-21T12:00")
    assert queue.scheduler.tick() == 0
    schedule = queue.schedules.get("sales")
    assert (schedule.over, schedule.counts) == (True, {"skipped: late": 1})
    assert queue.schedules.update("sales", at="2026-11-21T13:00").over
    assert not queue.schedules.update("sales", at="2026-11-22T13:00").over


def test_it_fires_no_more_often_than_it_may(queue, clock, sales):
    queue.schedule(sales, rule="R3/2026-11-22T01:00Z/PT1H", overlap="allow")
    for _ in range(6):
        move(clock, hours=1)
        queue.scheduler.tick()
    assert len(jobs(queue)) == 3
    assert queue.schedules.get("sales").over


def test_it_fires_between_start_and_end(queue, clock, sales):
    queue.schedule(sales, cron="0 * * * *", start="2026-11-22T03:00Z", end="2026-11-22T05:00Z", overlap="allow")
    for _ in range(9):
        move(clock, hours=1)
        queue.scheduler.tick()
    assert fired(queue) == [f"2026-11-22T0{hour}:00:00+00:00" for hour in (3, 4, 5)]


def test_jitter_puts_a_job_off_by_the_same_time_whoever_makes_it(queue, clock, sales):
    from penstock.job.schedules import jitter_s

    plan = queue.schedule(sales, cron="0 * * * *", jitter="10m").plan
    move(clock, hours=1)
    queue.scheduler.tick()
    (job,) = jobs(queue)
    off_s = (job.scheduled_at - START - HOUR).total_seconds()
    assert 0 < off_s < 600
    assert abs(off_s - jitter_s(plan, "sales", START + HOUR)) < 0.001


def test_a_full_queue_keeps_the_fire_time(tmp_path, clock, sales):
    from penstock.core.config import LimitsConfig

    config = Config(backend="inline://", results=str(tmp_path), limits=LimitsConfig(max_queued=1))
    with JobQueue(config=config, root=tmp_path, ledger=MemoryLedger(clock=clock)) as queue:
        scheduler = LedgerScheduler(
            queue.ledger, config, submit=lambda i: queue.ledger.insert(i, grace_s=60, max_queued={"default": 1}),
            cancel=lambda _: None, value_of=lambda _: None,
        )  # fmt: skip
        for name in ("a", "b"):
            queue.schedule(sales, name=name, cron="0 * * * *")
        move(clock, hours=1)
        assert scheduler.tick() == 1
        (first,) = jobs(queue)
        end(queue, first)
        move(clock, seconds=6)
        assert scheduler.tick() == 1
        assert fired(queue) == ["2026-11-22T01:00:00+00:00"] * 2


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "needs a rule"),
        ({"cron": "* * *"}, "cron: cron '\\* \\* \\*' has 3 fields"),
        ({"cron": "0 2 * * *", "every": "1h"}, "cron and every are two rules"),
        ({"cron": "0 2 * * *", "timezone": "Europe/Berlim"}, "Did you mean 'Europe/Berlin'"),
        ({"every": "-1h"}, "every: "),
        ({"every": "soon"}, "every: 'soon' is not a duration"),
        ({"at": "tomorrow"}, "at: 'tomorrow' is not an ISO 8601 time"),
        ({"rule": "R/2026-11-22/P1M"}, "no fixed length"),
        ({"rule": "whenever"}, "is no schedule; write"),
        ({"every": "1h", "overlap": "skipp"}, "Did you mean 'skip'"),
        ({"every": "1h", "catch_up": "some"}, "none of none, latest, all"),
        ({"every": "1h", "catch_up_max": 0}, "whole number"),
        ({"every": "1h", "start": "2026-01-02", "end": "2026-01-01"}, "end lies before start"),
        ({"cron": "@daily", "from_end": True}, "need an interval"),
        ({"every": "1h", "jiter": "5m"}, "jiter"),
        ({"every": "1h", "inputs": {"day": "{{ interval.strat }}"}}, "there is no {{ interval.strat }}"),
        ({"every": "1h", "inputs": {"nobody": 1}}, "nobody"),
        ({"every": "1h", "key": "x"}, "belong to one job"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(queue, sales, options, told):
    with pytest.raises(InvalidJobError, match=told):
        queue.schedule(sales, **options)
    assert queue.schedules.list() == []


def test_an_unknown_schedule_is_told_with_the_nearest_name(queue, sales):
    queue.schedule(sales, every="1h")
    with pytest.raises(ScheduleNotFoundError, match="Did you mean 'sales'"):
        queue.schedules.pause("slaes")


def test_braces_of_others_stay(queue, clock):
    queue.schedule(queue.command(["docker", "ps", "--format", "{{.Names}} {{ other }}"]), every="1h")
    move(clock, hours=1)
    queue.scheduler.tick()
    (job,) = jobs(queue)
    assert b"{{.Names}} {{ other }}" in job.spec


@pytest.mark.parametrize(
    "rule", ["*/5 * * * *", "@daily", "every 10m", "2026-11-23T02:00", "R/2026-11-22T00:00Z/PT1H", "PT1H"]
)
def test_a_rule_is_said_in_words_with_its_next_times(queue, rule):
    words, fires = queue.schedules.explain(rule, timezone="Europe/Berlin", count=3)
    assert words
    assert fires
    assert all(fire.at > START for fire in fires)


def test_days_on_which_clocks_change_are_marked(queue, clock, sales):
    clock.seconds = datetime(2026, 10, 23, tzinfo=UTC).timestamp()
    queue.schedule(sales, cron="30 2 * * *", timezone="Europe/Berlin")
    assert [fire.change for fire in queue.schedules.next("sales", 4)] == ["", "", "clocks go back by 1:00", ""]


def test_an_unreadable_rule_of_the_ledger_stops_no_other(queue, clock, sales, caplog):
    from penstock.core.records import Change

    queue.schedule(sales, every="1h")
    queue.ledger.records.write([Change(kind="schedule", name="bad", seen=0, body=b"{}", due_at=START)])
    move(clock, hours=1)
    assert queue.scheduler.tick() == 1
    queue.scheduler.tick()
    assert caplog.text.count("schedule bad makes no jobs here: it cannot be read") == 1


def test_a_rule_that_is_after_needs_no_zone():
    assert After(60).explain() == "1 m 0 s after the end of each run"
    with pytest.raises(ValueError, match="at least 1 ms"):
        After(0)
