"""The use cases that Docket's pages describe, written against this API, on three engines."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from penstock import (
    Agenda,
    ConcurrencyLimit,
    CurrentQueue,
    Depends,
    ExponentialRetry,
    JobQueue,
    Perpetual,
    Progress,
    Shared,
    task,
)
from penstock.core.exceptions import InvalidJobError
from penstock.sources.decorators import TASKS
from penstock.testing.harness import CALM, harness_for, not_here, wait_until

ENGINES = ["saq+{redis}", "rq+{redis}", "huey+sqlite:///{folder}/queue.db"]
SOON = timedelta(milliseconds=50)
seen: list[str] = []
counts: Counter[str] = Counter()
lock = threading.Lock()


def note(text: str) -> None:
    with lock:
        seen.append(text)


class Pool:
    """What a worker opens once."""

    opened = 0

    def __init__(self) -> None:
        Pool.opened += 1


# -- find and flood -----------------------------------------------------------------------------------------------


@task
def find_orders(
    queue: JobQueue = CurrentQueue(), again: Perpetual = Perpetual(every=timedelta(milliseconds=50))
) -> None:
    with lock:
        counts["found"] += 1
        turn = counts["found"]
    for number in range(3):
        queue.enqueue(process_order, f"{turn}.{number}", key=f"order:{turn}.{number}")
    if turn == 3:
        again.cancel()


@task
def process_order(order: str) -> None:
    note(order)


# -- chains, fan-out, decisions -------------------------------------------------------------------------------------


@task
def download(url: str, queue: JobQueue = CurrentQueue()) -> None:
    note(f"downloaded {url}")
    queue.enqueue(validate, f"{url}.csv")


@task
async def validate(path: str, queue: JobQueue = CurrentQueue()) -> None:
    note(f"validated {path}")
    await queue.aenqueue(store if path.startswith("good") else reject, path)


@task
def store(path: str) -> None:
    note(f"stored {path}")


@task
def reject(path: str) -> None:
    note(f"rejected {path}")


@task
def split(dataset: str, queue: JobQueue = CurrentQueue()) -> int:
    queue.enqueue_many([chunk.call(dataset, number) for number in range(4)])
    queue.enqueue(finalize, dataset, delay=0.2, key=f"finalize:{dataset}")
    return 4


@task
def chunk(dataset: str, number: int) -> None:
    note(f"{dataset}/{number}")


@task
def finalize(dataset: str) -> None:
    note(f"final {dataset}")


# -- resources, limits, polling -------------------------------------------------------------------------------------


def session(pool: Pool = Shared(Pool)) -> str:
    return f"session of {type(pool).__name__}"


@task
def query(number: int, of: str = Depends(session)) -> str:
    return of


@task
def for_customer(customer: str, slot: ConcurrencyLimit = ConcurrencyLimit("customer", 1)) -> None:
    with lock:
        counts[customer] += 1
        counts[f"most {customer}"] = max(counts[f"most {customer}"], counts[customer])
    threading.Event().wait(0.02)
    with lock:
        counts[customer] -= 1


@task
def poll(
    name: str,
    retry: ExponentialRetry = ExponentialRetry(
        attempts=5, minimum_delay=timedelta(milliseconds=10), maximum_delay=timedelta(milliseconds=40)
    ),
) -> int:
    with lock:
        counts[name] += 1
        tries = counts[name]
    if tries < 3:
        raise ConnectionError("not there yet")
    return tries


@task
def count_up(progress: Progress = Progress()) -> None:
    progress.set_total(4)
    for _ in range(4):
        progress.increment()
    progress.set_message("done")


MINE = [one for one in list(TASKS.values()) if one.fn.__module__ == __name__]


@pytest.fixture(params=ENGINES, ids=lambda template: template.partition(":")[0].replace("{", "").replace("}", ""))
def queue(request, tmp_path):
    if (why := not_here(request.param)) is not None:
        pytest.skip(why)
    for one in MINE:
        TASKS.add(one)
    seen.clear()
    counts.clear()
    harness = harness_for(request.param)(tmp_path)
    queue = harness.queue(f"sqlite:///{tmp_path}/ledger.db", sweep=CALM)
    with queue.worker(concurrency=4):
        yield queue
    harness.reset()
    queue.close()


def test_find_and_flood(queue):
    queue.enqueue(find_orders)
    wanted = {f"{turn}.{number}" for turn in (1, 2, 3) for number in range(3)}
    wait_until(lambda: set(seen) == wanted, 60)
    assert sorted(seen) == sorted(wanted)


def test_a_chain_passes_what_it_has_on(queue):
    for url in ("good", "bad"):
        queue.enqueue(download, url)
    wait_until(lambda: {"stored good.csv", "rejected bad.csv"} <= set(seen), 60)
    assert sum(text.startswith("downloaded") for text in seen) == 2


def test_a_job_fans_out_and_one_comes_last(queue):
    assert queue.enqueue(split, "sales").result(60) == 4
    wait_until(lambda: "final sales" in seen, 60)
    assert sorted(seen) == ["final sales", *(f"sales/{number}" for number in range(4))]


def test_a_worker_opens_once_what_its_jobs_share(queue):
    before = Pool.opened
    jobs = queue.enqueue_many([query.call(number) for number in range(6)])
    assert {job.result(60) for job in jobs} == {"session of Pool"}
    assert Pool.opened == before + 1


def test_a_customer_has_one_job_at_a_time(queue):
    jobs = queue.enqueue_many([for_customer.call(customer) for _ in range(4) for customer in ("ada", "bob")])
    for job in jobs:
        job.wait(60)
    assert {job.state for job in jobs} == {"succeeded"}
    assert (counts["most ada"], counts["most bob"]) == (1, 1)


def test_polling_gives_up_late_and_not_soon(queue):
    assert queue.enqueue(poll, "file").result(60) == 3


def test_progress_is_seen_from_outside(queue):
    job = queue.enqueue(count_up)
    job.wait(60)
    assert (job.refresh().progress, job.job.message) == (1.0, "done")


def test_a_batch_is_scattered_over_a_time(queue):
    agenda = Agenda()
    for number in range(4):
        agenda.add(process_order, str(number))
    start = datetime.now(UTC) + timedelta(hours=1)
    jobs = agenda.scatter(queue, over="40m", start=start)
    assert [(job.scheduled_at - start).total_seconds() / 60 for job in jobs] == pytest.approx([5, 15, 25, 35])
    assert {job.state for job in jobs} == {"scheduled"}


# -- agendas, where no engine matters -------------------------------------------------------------------------------


@pytest.fixture
def quiet(tmp_path):
    for one in MINE:
        TASKS.add(one)
    with JobQueue("huey+sqlite:///q.db", ledger="memory://", root=tmp_path) as queue:
        yield queue


def test_one_alone_is_due_in_the_middle(quiet):
    start = datetime.now(UTC) + timedelta(hours=2)
    (job,) = Agenda().add(process_order, "a").scatter(quiet, over="10m", start=start)
    assert job.scheduled_at - start == timedelta(minutes=5)


def test_jitter_moves_jobs_but_never_before_the_start(quiet):
    start = datetime.now(UTC) + timedelta(hours=2)
    agenda = Agenda().add(process_order, "a").add(process_order, "b")
    jobs = agenda.scatter(quiet, over="10m", start=start, jitter="1h", rand=lambda: 0.0)
    assert [job.scheduled_at for job in jobs] == [start, start]


def test_an_agenda_can_be_scattered_again(quiet):
    agenda = Agenda().add(process_order, "a")
    first, second = (agenda.scatter(quiet, over="1h")[0].id for _ in range(2))
    assert (first != second, len(agenda)) == (True, 1)


@pytest.mark.parametrize(
    "said",
    [{"over": "soon"}, {"over": -1}, {"over": "1h", "start": datetime(2026, 1, 1)}],  # noqa: DTZ001 - no zone
)
def test_times_that_mean_nothing_are_refused(quiet, said):
    with pytest.raises(InvalidJobError):
        Agenda().add(process_order, "a").scatter(quiet, **said)
    assert quiet.counts() == {}


def test_a_call_that_says_itself_when_it_is_due_is_refused(quiet):
    agenda = Agenda().add(process_order.options(delay="1h").call("a"))
    with pytest.raises(InvalidJobError, match="says itself"):
        agenda.scatter(quiet, over="1h")


def test_what_is_no_task_is_refused_when_it_is_added(quiet):
    with pytest.raises(InvalidJobError, match="not a task"):
        Agenda().add(print)
