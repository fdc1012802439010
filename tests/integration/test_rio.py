"""Periodic jobs in a Rio app, and their two views, without a browser; `test_rio_browser` has one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest

from penstock import JobQueue, task
from penstock.core.config import Config
from penstock.core.exceptions import ConfigError
from penstock.job import lifecycle
from penstock.scheduler import intent_of
from penstock.sources.decorators import TASKS
from penstock.testing.harness import wait_until

MISSING = "is not installed; pip install 'penstock[rio]' asyncio-atexit playwright"
rio = pytest.importorskip("rio", reason=f"Rio {MISSING}")
testing = pytest.importorskip("rio.testing", reason=f"what rio.testing needs {MISSING}")

import penstock.rio as rio_jobs  # noqa: E402
from penstock.rio import scheduler as scheduler_room  # noqa: E402
from penstock.rio.words import length, moment  # noqa: E402

HOUR = timedelta(hours=1)
AT_ONCE = {"wait_for_initial_interval": False, "soft_start": False}


@pytest.fixture
def queue(tmp_path):
    with JobQueue(f"huey+sqlite:///{tmp_path}/queue.db", ledger=f"sqlite:///{tmp_path}/l.db", root=tmp_path) as queue:
        yield queue


@pytest.fixture
def scheduler(queue):
    return rio_jobs.JobScheduler(queue)


def app_of(scheduler, build=rio.Spacer):
    app = rio.App(build=build, name="Test")
    app._add_extension(scheduler)
    return app


@asynccontextmanager
async def running(scheduler, app=None):
    """Start and close an app as Rio's server does."""
    app = app or app_of(scheduler)
    await app._call_event_handlers(app._extension_on_app_start_handlers, rio.ExtensionAppStartEvent(app))
    try:
        yield app
    finally:
        await app._call_event_handlers(app._extension_on_app_close_handlers, rio.ExtensionAppCloseEvent(app))


async def until(true, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not (seen := true()):
        if time.monotonic() > end:
            raise TimeoutError("not within the time")
        await asyncio.sleep(0.02)
    return seen


def doing(scheduler):
    return {job.title: job.doing for job in scheduler.jobs()}


def ended(scheduler, title, count=1):
    return [run for run in scheduler.runs() if run.title == title and run.finished_at is not None][count - 1 :]


@asynccontextmanager
async def client_of(app):
    """Open a page and wait until its views have read the ledger."""
    async with testing.DummyClient(app) as client:
        views = [*client.get_components(rio_jobs.JobsView), *client.get_components(rio_jobs.RunsView)]
        await until(
            lambda: all(getattr(v, "_jobs", None) is not None or getattr(v, "_runs", None) is not None for v in views)
        )
        yield client


def texts(client):
    return [text.text for text in client.get_components(rio.Text)]


# -- jobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"job": "no function"}, "job"),
        ({"interval": timedelta(0)}, "interval"),
        ({"interval": -HOUR}, "interval"),
        ({"interval": 60}, "interval"),
        ({"name": 7}, "name"),
        ({"wait_for_initial_interval": "no"}, "wait_for_initial_interval"),
        ({"soft_start": 1}, "soft_start"),
    ],
)
def test_a_wrong_argument_is_refused(scheduler, change, told):
    wanted = {"job": print, "interval": HOUR, **change}
    with pytest.raises(ValueError, match=told):
        scheduler.add_job(wanted.pop("job"), wanted.pop("interval"), **wanted)
    assert scheduler.jobs() == []


def test_add_job_chains_and_names_jobs_as_rio_jobs_does(scheduler):
    def clean_up(run): ...

    class Mailer:
        def send_all(self, run): ...

    clean_up.__qualname__ = "clean_up"
    scheduler.add_job(clean_up, HOUR).add_job(Mailer().send_all, HOUR).add_job(
        clean_up, HOUR, name="Aufräumen (täglich)"
    )
    assert [job.title for job in scheduler.jobs()] == ["Clean Up", "Mailer.Send All", "Aufräumen (täglich)"]


def test_two_jobs_of_one_name_are_two_jobs(scheduler):
    ran = []
    scheduler.add_job(lambda run: ran.append(1), HOUR, name="Same", **AT_ONCE)
    scheduler.add_job(lambda run: ran.append(2), HOUR, name="Same", **AT_ONCE)

    async def main():
        async with running(scheduler):
            await until(lambda: sorted(ran) == [1, 2])

    asyncio.run(main())


def test_the_decorator_leaves_the_function_as_it_is(scheduler):
    def clean_up(run): ...

    assert scheduler.job(HOUR)(clean_up) is clean_up


def test_an_async_job_runs_on_the_apps_loop_and_a_plain_one_off_it(scheduler):
    where = {}

    @scheduler.job(HOUR, **AT_ONCE)
    async def on_the_loop(run):
        where["async"] = threading.current_thread()

    @scheduler.job(HOUR, **AT_ONCE)
    def off_the_loop(run):
        where["sync"] = threading.current_thread()

    @scheduler.job(HOUR, **AT_ONCE)
    def hands_a_coroutine_back(run):
        return on_the_loop(run)

    async def main():
        async with running(scheduler):
            await until(lambda: len(where) == 2 and all(ended(scheduler, j.title) for j in scheduler.jobs()))

    asyncio.run(main())
    assert where["async"] is threading.main_thread()
    assert where["sync"] is not threading.main_thread()


def test_a_plain_job_that_blocks_does_not_stop_the_app(scheduler):
    release, began = threading.Event(), threading.Event()

    @scheduler.job(HOUR, name="blocks", **AT_ONCE)
    def blocks(run):
        began.set()
        release.wait(30)

    async def main():
        async with running(scheduler):
            await until(began.is_set)
            release.set()  # the loop has come this far, while the body blocked its thread
            await until(lambda: ended(scheduler, "blocks"))

    asyncio.run(main())


def test_the_run_knows_the_app_and_what_it_says_is_shown_while_it_runs(scheduler):
    release, seen = threading.Event(), {}

    @scheduler.job(HOUR, name="tells", **AT_ONCE)
    def tells(run):
        assert run.progress is None
        run.status_message, run.progress = "halfway", 0.5
        seen.update(app=run.app, message=run.status_message, progress=run.progress, zone=run.started_at.utcoffset())
        release.wait(30)

    async def main():
        async with running(scheduler) as app:
            (job,) = await until(lambda: [j for j in scheduler.jobs() if j.progress])
            assert (job.doing, job.status_message, job.progress) == ("running", "halfway", 0.5)
            release.set()
            assert seen == {"app": app, "message": "halfway", "progress": 0.5, "zone": timedelta(0)}

    asyncio.run(main())


def test_what_a_run_returns_says_when_the_next_one_is(scheduler, caplog):
    tomorrow = datetime.now().replace(microsecond=0) + timedelta(days=1)  # noqa: DTZ005 - naive: local time
    answers = {
        "none": None,
        "aware": tomorrow.astimezone(UTC),
        "naive": tomorrow,
        "in": timedelta(days=3),
        "never": "never",
        "wrong": "tomorrow",
    }
    for title, answer in answers.items():
        scheduler.add_job(lambda run, answer=answer: answer, HOUR, name=title, **AT_ONCE)

    async def main():
        async with running(scheduler):
            await until(
                lambda: all(
                    j.doing == "unscheduled" or (j.next_run_at and ended(scheduler, j.title)) for j in scheduler.jobs()
                )
            )
            return {job.title: job.next_run_at for job in scheduler.jobs()}, {
                run.title: run.finished_at for run in scheduler.runs()
            }

    nexts, ends = asyncio.run(main())
    assert nexts["none"] == ends["none"] + HOUR
    assert nexts["wrong"] == ends["wrong"] + HOUR
    assert nexts["aware"] == nexts["naive"] == tomorrow.astimezone(UTC)
    assert nexts["in"] == ends["in"] + timedelta(days=3)
    assert nexts["never"] is None
    assert "tomorrow" in caplog.text


def test_a_time_in_the_past_means_at_once(scheduler):
    ran = []

    @scheduler.job(HOUR, name="again", **AT_ONCE)
    def again(run):
        ran.append(run.started_at)
        return datetime.now(UTC) - HOUR if len(ran) < 3 else None

    async def main():
        async with running(scheduler):
            await until(lambda: len(ran) == 3)

    asyncio.run(main())


def test_an_exception_is_kept_with_the_run_and_the_interval_goes_on(scheduler, queue, caplog):
    @scheduler.job(HOUR, name="breaks", **AT_ONCE)
    async def breaks(run):
        raise ConnectionError("no route")

    async def main():
        async with running(scheduler):
            await until(lambda: ended(scheduler, "breaks") and scheduler.jobs()[0].next_run_at)

    asyncio.run(main())
    (run,) = scheduler._runs_read
    assert (run.state, run.error) == ("failed", "ConnectionError('no route')")
    assert queue.schedules.get("breaks").next_at == run.finished_at + HOUR
    assert "'breaks' has crashed" in caplog.text


def test_soft_jobs_begin_thirty_seconds_apart_and_one_that_is_added_later_does_not_wait(scheduler):
    ran = []
    for number in range(3):
        scheduler.add_job(lambda run: None, HOUR + timedelta(minutes=number), name=f"late {number}")
        scheduler.add_job(ran.append, HOUR, name=f"soft {number}", wait_for_initial_interval=False)
    scheduler.add_job(ran.append, HOUR, name="hard", **AT_ONCE)

    async def main():
        async with running(scheduler):
            first = scheduler.queue.schedules.get("soft 0").made_at
            await until(lambda: len(ran) == 2)
            nexts = {job.title: job.next_run_at for job in scheduler.jobs()}
            scheduler.add_job(ran.append, HOUR, name="added", wait_for_initial_interval=False)
            await until(lambda: len(ran) == 3)
            return first, nexts

    first, nexts = asyncio.run(main())
    one, two = nexts["soft 1"], nexts["soft 2"]
    assert two - one == timedelta(seconds=30)
    assert timedelta(0) <= one - first - timedelta(seconds=30) < timedelta(seconds=10)
    assert abs(nexts["late 0"] - first - HOUR) < timedelta(seconds=10)
    assert nexts["late 1"] - nexts["late 0"] == timedelta(minutes=1)


# -- with the app -----------------------------------------------------------------------------------------------------


def test_history_and_next_runs_survive_a_restart(queue):
    """The ledger is read by a scheduler of another process, so to speak: nothing of the first one is left."""

    def begin(ran):
        scheduler = rio_jobs.JobScheduler(queue)
        scheduler.add_job(lambda run: ran.append("warm"), HOUR, name="warm", **AT_ONCE)
        scheduler.add_job(lambda run: ran.append("once") or "never", HOUR, name="once", **AT_ONCE)
        scheduler.add_job(lambda run: ran.append("slow"), HOUR, name="slow", soft_start=False)
        return scheduler

    async def main(scheduler, ran):
        async with running(scheduler):
            await until(lambda: sorted(ran) == ["once", "warm"] and len(scheduler.runs()) % 2 == 0)
            await until(lambda: all(run.finished_at for run in scheduler.runs()))
            await until(lambda: doing(scheduler) == {"slow": "scheduled", "warm": "scheduled", "once": "unscheduled"})
            return {job.title: job.next_run_at for job in scheduler.jobs()}, [run.title for run in scheduler.runs()]

    first, seen = asyncio.run(main(begin(ran := []), ran))
    assert sorted(seen) == ["once", "warm"]
    again, seen = asyncio.run(main(begin(ran := []), ran))
    # An app's start is a new beginning for what does not wait, as with rio-jobs; what waits goes on waiting.
    assert sorted(seen) == ["once", "once", "warm", "warm"]
    assert again["slow"] == first["slow"]


def test_a_job_that_is_gone_from_the_app_is_gone_from_the_ledger(queue):
    async def main(scheduler):
        async with running(scheduler):
            return doing(scheduler)

    assert asyncio.run(main(rio_jobs.JobScheduler(queue).add_job(print, HOUR, name="old"))) == {"old": "scheduled"}
    assert asyncio.run(main(rio_jobs.JobScheduler(queue).add_job(print, HOUR, name="new"))) == {"new": "scheduled"}


def test_a_shorter_interval_need_not_wait_for_the_end_of_the_longer_one(queue):
    async def main(interval):
        scheduler = rio_jobs.JobScheduler(queue).add_job(print, interval, name="report", soft_start=False)
        async with running(scheduler):
            return scheduler.jobs()[0].next_run_at

    first = asyncio.run(main(timedelta(days=30)))
    assert asyncio.run(main(timedelta(days=40))) == first
    shorter = asyncio.run(main(HOUR))
    assert first - shorter > timedelta(days=29)
    assert asyncio.run(main(HOUR)) == shorter


def test_the_queue_that_is_given_may_have_a_worker_of_its_own(queue):
    @task(name="other")
    def other():
        return 7

    ran = []

    async def main():
        async with running(rio_jobs.JobScheduler(queue).add_job(ran.append, HOUR, name="mine", **AT_ONCE)):
            assert await queue.enqueue(other).aresult(20) == 7
            await until(lambda: ran)

    with queue.worker():
        asyncio.run(main())


@pytest.mark.parametrize("engine", ["rq", "saq", "arq", "taskiq", "dramatiq", "huey"])
def test_jobs_run_on_every_engine(engine, redis_url, tmp_path):
    where = {}
    backend = f"{engine}+{redis_url}"
    config = Config(namespace=f"rio-{engine}")
    with JobQueue(backend, ledger=f"sqlite:///{tmp_path}/l.db", root=tmp_path, config=config) as queue:
        scheduler = rio_jobs.JobScheduler(queue)

        @scheduler.job(HOUR, **AT_ONCE)
        async def on_the_loop(run):
            where["async"] = threading.current_thread() is threading.main_thread()
            return "never"

        @scheduler.job(HOUR, **AT_ONCE)
        def off_the_loop(run):
            where["sync"] = threading.current_thread() is threading.main_thread()
            return "never"

        async def main():
            async with running(scheduler):
                await until(lambda: set(doing(scheduler).values()) == {"unscheduled"})

        asyncio.run(main())
    assert where == {"async": True, "sync": False}


def test_nothing_runs_after_the_app_has_closed(scheduler, queue):
    ran = []
    scheduler.add_job(ran.append, timedelta(milliseconds=50), name="fast", **AT_ONCE)

    async def main():
        async with running(scheduler):
            await until(lambda: len(ran) >= 2)
        count = len(ran)
        await asyncio.sleep(0.5)
        assert len(ran) == count
        assert scheduler.run_now("fast") is None

    asyncio.run(main())
    assert queue.workers() == []


def test_a_run_that_the_close_interrupts_begins_again_with_the_app(queue):
    began, stopped = [], []

    def begin():
        scheduler = rio_jobs.JobScheduler(queue, close_grace=timedelta(milliseconds=100))

        @scheduler.job(HOUR, name="long", **AT_ONCE)
        async def long(run):
            began.append(run.job_id)
            try:
                if len(began) == 1:
                    await asyncio.sleep(60)
            except asyncio.CancelledError:
                stopped.append(run.job_id)
                raise

        return scheduler

    async def main(scheduler, true):
        async with running(scheduler):
            await until(lambda: true(scheduler))

    asyncio.run(main(begin(), lambda _: began))
    assert stopped == began
    asyncio.run(main(begin(), lambda scheduler: ended(scheduler, "long")))
    assert began == [stopped[0]] * 2


def test_a_name_that_a_task_of_the_process_has_is_refused(scheduler):
    @task(name="taken")
    def taken(): ...

    scheduler.add_job(print, HOUR, name="taken")

    async def main():
        await scheduler._on_app_start(rio.ExtensionAppStartEvent(app_of(scheduler)))

    with pytest.raises(ConfigError, match="taken"):
        asyncio.run(main())
    assert TASKS["taken"] is taken


def test_jobs_begin_once_the_ledger_can_be_opened(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(scheduler_room, "_RETRY_S", 0.05)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "penstock.toml").write_text('backend = "inline://"\nledger = "sqlite:///disk/ledger.db"\n')
    (tmp_path / "disk").write_text("a file where the folder is to be")
    ran = []
    scheduler = rio_jobs.JobScheduler().add_job(ran.append, HOUR, **AT_ONCE)
    app = rio.App(build=rio.Spacer, name="Test", assets_dir=tmp_path / "assets")
    app._add_extension(scheduler)

    async def main():
        async with running(scheduler, app):
            assert "no jobs run until this is over" in caplog.text
            (tmp_path / "disk").unlink()
            await until(lambda: ran)

    asyncio.run(main())


def test_an_app_that_closes_before_its_ledger_could_be_opened_ends(tmp_path, caplog):
    (tmp_path / "disk").write_text("a file where the folder is to be")
    (tmp_path / "penstock.toml").write_text('ledger = "sqlite:///disk/ledger.db"\n')
    scheduler = rio_jobs.JobScheduler().add_job(print, HOUR)
    app = rio.App(build=rio.Spacer, name="Test", assets_dir=tmp_path / "assets")
    app._add_extension(scheduler)

    async def main():
        async with running(scheduler, app):
            pass

    asyncio.run(main())
    assert scheduler.queue is None


PROCESS = """
    import asyncio, json, os, sys, time
    from datetime import timedelta
    sys.modules.update(pandas=None, polars=None)  # Rio would import them for the types of its tables, in seconds
    import rio
    import penstock.rio as rio_jobs

    scheduler = rio_jobs.JobScheduler()
    log = open(sys.argv[1], "a", buffering=1)

    @scheduler.job(timedelta(seconds=0.2), name="often", wait_for_initial_interval=False)
    def often(run):
        print(json.dumps(["often", os.getpid(), run.job_id]), file=log)

    @scheduler.job(timedelta(hours=1), name="once", wait_for_initial_interval=False, soft_start=False)
    async def once(run):
        print(json.dumps(["once", os.getpid(), run.job_id]), file=log)
        return "never"

    app = rio.App(build=rio.Spacer, name="Shop")
    app._add_extension(scheduler)

    async def main():
        await app._call_event_handlers(app._extension_on_app_start_handlers, rio.ExtensionAppStartEvent(app))
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await app._call_event_handlers(app._extension_on_app_close_handlers, rio.ExtensionAppCloseEvent(app))

    asyncio.run(main())
"""


@pytest.mark.slow
def test_several_processes_of_an_app_run_each_job_once(tmp_path):
    log = tmp_path / "log"
    log.touch()
    (tmp_path / "app.py").write_text(textwrap.dedent(PROCESS))
    processes = []

    def begin(count):
        for _ in range(count):
            command = [sys.executable, "app.py", str(log)]
            processes.append(
                subprocess.Popen(
                    command, cwd=tmp_path, env=os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
        assert all("ready" in process.stdout.readline() for process in processes[-count:])

    try:
        begin(2)  # at once
        wait_until(lambda: "once" in log.read_text())
        begin(1)  # and one that joins them
        seen = log.read_text().count("often")
        wait_until(lambda: log.read_text().count("often") >= seen + 4)
    finally:
        for process in processes:
            process.communicate("\n", timeout=30)
    assert [process.returncode for process in processes] == [0, 0, 0]
    ran = [json.loads(line) for line in log.read_text().splitlines()]
    assert [name for name, _, _ in ran].count("once") == 1
    assert len({job_id for _, _, job_id in ran}) == len(ran) >= 6


# -- the views: what went wrong in rio-jobs ---------------------------------------------------------------------------


def view(scheduler, kind):
    return app_of(scheduler, build=lambda: kind(scheduler))


def test_a_job_that_was_added_before_the_start_shows_no_time_yet(scheduler):
    scheduler.add_job(print, HOUR, name="Tidy")

    async def main():
        async with client_of(view(scheduler, rio_jobs.JobsView)) as client:
            assert texts(client) == ["Tidy", "Waits for the app to start"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "told"), [(rio_jobs.JobsView, "No jobs are scheduled"), (rio_jobs.RunsView, "No jobs have run yet")]
)
def test_an_empty_view_says_so(scheduler, kind, told):
    async def main():
        async with client_of(view(scheduler, kind)) as client:
            assert texts(client) == [told]

    asyncio.run(main())


def test_three_presses_on_run_now_make_one_run_and_multiply_nothing(scheduler):
    release, ran = threading.Event(), []

    @scheduler.job(HOUR, name="Tidy")
    def tidy(run):
        ran.append(run.job_id)
        release.wait(30)

    async def main():
        app = view(scheduler, rio_jobs.JobsView)
        async with running(scheduler, app), client_of(app) as client:
            await until(lambda: list(client.get_components(rio.IconButton)))
            button = client.get_component(rio.IconButton)
            await asyncio.gather(*[client.click_component(button) for _ in range(3)])
            await until(lambda: "Running since" in " ".join(texts(client)))
            assert list(client.get_components(rio.IconButton)) == []
            release.set()
            (run,) = await until(lambda: ended(scheduler, "Tidy"))
            await until(lambda: doing(scheduler) == {"Tidy": "scheduled"})
            assert scheduler.jobs()[0].next_run_at == run.finished_at + HOUR
            await asyncio.sleep(0.5)
        assert ran == [run.job_id]

    asyncio.run(main())


def test_a_job_that_a_pause_holds_back_says_so(scheduler, queue):
    scheduler.add_job(print, HOUR, name="Tidy", soft_start=False)

    async def main():
        app = view(scheduler, rio_jobs.JobsView)
        async with running(scheduler, app):
            (job,) = scheduler.jobs()
            queue.pause(task=job.name)
            await until(lambda: scheduler._opened.queue.steering.rules())
            scheduler.run_now(job.name)
            await until(lambda: scheduler.jobs()[0].status_message)
            async with client_of(app) as client:
                assert f"Held back: paused: task {job.name}" in texts(client)

    asyncio.run(main())


def test_a_job_that_never_runs_again_stands_last_beside_the_others(scheduler):
    scheduler.add_job(lambda run: "never", HOUR, name="Once", **AT_ONCE)
    scheduler.add_job(print, HOUR, name="Hourly", soft_start=False)

    async def main():
        app = view(scheduler, rio_jobs.JobsView)
        async with running(scheduler, app):
            await until(lambda: doing(scheduler)["Once"] == "unscheduled")
            async with client_of(app) as client:
                seen = [text for text in texts(client) if text != "Run Now"]
                assert (seen[0], seen[2]) == ("Hourly", "Once")
                assert seen[1].startswith("Scheduled for ")
                assert seen[3] == "This job has been unscheduled and will not run again"
                # And it can be run by hand.
                assert len(list(client.get_components(rio.IconButton))) == 2

    asyncio.run(main())


def test_a_cancelled_run_has_an_end_and_says_so(scheduler, queue):
    @scheduler.job(HOUR, name="Long", **AT_ONCE)
    async def long(run):
        await asyncio.sleep(60)

    async def main():
        app = view(scheduler, rio_jobs.RunsView)
        async with running(scheduler, app):
            (run,) = await until(lambda: [r for r in scheduler.runs() if r.state == "running"])
            await queue.job(run.job_id).acancel()
            (run,) = await until(lambda: ended(scheduler, "Long"))
            assert run.state == "cancelled"
            async with client_of(app) as client:
                await until(lambda: texts(client)[0] == "Long has been cancelled")
                assert ", cancelled after " in texts(client)[1]

    asyncio.run(main())


def test_times_are_those_of_the_visitors_clock(scheduler):
    scheduler.add_job(lambda run: None, HOUR, name="Tidy", **AT_ONCE)

    async def main():
        app = app_of(scheduler, build=lambda: rio.Column(rio_jobs.JobsView(scheduler), rio_jobs.RunsView(scheduler)))
        async with running(scheduler, app):
            (run,) = await until(lambda: ended(scheduler, "Tidy") if doing(scheduler)["Tidy"] == "scheduled" else [])
            async with client_of(app) as client:
                client.session.timezone = zone = ZoneInfo("Asia/Kathmandu")
                for kind in (rio_jobs.JobsView, rio_jobs.RunsView):
                    await client.get_component(kind)._look()
                now = datetime.now(UTC)
                await until(lambda: f"Started {moment(run.started_at, now, zone)}, finished" in " ".join(texts(client)))
                assert f"Scheduled for {moment(run.finished_at + HOUR, now, zone)}" in texts(client)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("2026-11-21T23:30Z", "00:30"),
        ("2026-11-21T22:30Z", "yesterday at 23:30"),
        ("2026-11-22T23:00Z", "tomorrow at 00:00"),
        ("2026-11-24T01:05Z", "2026-11-24 02:05"),
    ],
)
def test_an_instant_is_told_by_the_days_of_its_reader(at, told):
    now = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
    assert moment(datetime.fromisoformat(at), now, ZoneInfo("Europe/Berlin")) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "less than a second"), (0.9, "less than a second"), (61, "1 minute 1 second"), (93_600, "1 day 2 hours")],
)
def test_a_length_is_told_in_words(seconds, told):
    assert length(timedelta(seconds=seconds)) == told


def test_a_view_whose_ledger_fails_keeps_what_it_has_read_and_says_so(scheduler, queue):
    scheduler.add_job(print, HOUR, name="Tidy", soft_start=False)

    async def main():
        app = view(scheduler, rio_jobs.JobsView)
        async with running(scheduler, app), client_of(app) as client:
            await until(lambda: "Scheduled for" in " ".join(texts(client)))
            shown = client.get_component(rio_jobs.JobsView)
            (kept,) = scheduler.jobs()
            scheduler.jobs = lambda: queue.schedules.get("unknown")  # raises, as what a ledger out of reach raises
            await shown._look()
            await until(lambda: any(isinstance(c, rio.Banner) for c in client.get_components()))
            assert kept.title in texts(client)

    asyncio.run(main())


def test_the_newest_runs_are_shown_whatever_their_age_and_at_most_fifty(queue):
    scheduler = rio_jobs.JobScheduler(queue, keep_past_runs_for=timedelta(0), keep_past_n_runs=2)
    count = []

    @scheduler.job(HOUR, name="Often", **AT_ONCE)
    def often(run):
        count.append(1)
        return timedelta(0) if len(count) < 4 else None

    async def main():
        async with running(scheduler):
            await until(lambda: len(count) == 4)
            await until(lambda: doing(scheduler)["Often"] == "scheduled")
            assert len(scheduler.runs()) == 2

    asyncio.run(main())


def runs_of(queue, name, count):
    """Record so many runs that have ended, a minute apart, as if workers had had them."""
    (schedule,) = (s for s in queue.schedules.list() if s.name == name)
    first = datetime(2026, 1, 1, tzinfo=UTC)
    intents = [intent_of(schedule, first + n * timedelta(minutes=1)) for n in range(count)]
    apart = [msgspec.structs.replace(intent, tick_key=None) for intent in intents]
    for made in queue.ledger.insert(apart, grace_s=3600):
        claimed = queue.ledger.apply(lifecycle.claim(made.job.id, owner="w", lease_s=60))
        assert claimed is not None
        queue.ledger.apply(lifecycle.succeed(made.job.id, attempt=claimed.job.attempt, result=None))


def refreshing(kind):
    """Return what Rio calls again and again for a view, and how many seconds apart."""
    ((handler, period_s),) = kind._rio_event_handlers_[rio.event.EventTag.PERIODIC]
    return handler, period_s


def test_the_runs_view_shows_the_fifty_newest_and_looks_again_every_ten_seconds(queue):
    scheduler = rio_jobs.JobScheduler(queue, keep_past_n_runs=1000)
    scheduler.add_job(print, HOUR, name="Tidy", soft_start=False)

    async def main():
        app = view(scheduler, rio_jobs.RunsView)
        async with running(scheduler, app), client_of(app) as client:
            name = await until(lambda: next((s.name for s in queue.schedules.list()), None))
            await asyncio.to_thread(runs_of, queue, name, 60)
            shown = client.get_component(rio_jobs.RunsView)
            handler, period_s = refreshing(rio_jobs.RunsView)
            assert period_s == 10
            await handler(shown)
            await until(lambda: "Tidy has completed successfully" in texts(client))
            newest = [handle.id for handle in queue.jobs(limit=50)]
            assert [run.job_id for run in shown._runs] == newest
            assert texts(client).count("Tidy has completed successfully") == 50

    asyncio.run(main())


def test_the_jobs_view_looks_again_every_ten_seconds(scheduler, queue):
    scheduler.add_job(print, HOUR, name="Tidy", soft_start=False)

    async def main():
        app = view(scheduler, rio_jobs.JobsView)
        async with running(scheduler, app), client_of(app) as client:
            await until(lambda: "Scheduled for" in " ".join(texts(client)))
            (schedule,) = await asyncio.to_thread(queue.schedules.list)
            await asyncio.to_thread(queue.schedules.pause, schedule.name)
            handler, period_s = refreshing(rio_jobs.JobsView)
            assert period_s == 10
            await handler(client.get_component(rio_jobs.JobsView))
            await until(lambda: "Paused" in texts(client))

    asyncio.run(main())


def test_importing_it_writes_nothing_into_a_pipe():
    done = subprocess.run(
        [sys.executable, "-c", "import penstock.rio; print(7)"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "7\n"
