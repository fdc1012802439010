"""Messages that come twice, never, or from nowhere; workers that die."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.client import JobQueue, PublishWarning
from penstock.core.capabilities import Support
from penstock.core.exceptions import BackendUnavailableError, PenstockError
from penstock.gateway import message_for, message_ids
from penstock.job.lifecycle import State
from penstock.job.models import Message, new_job_id
from penstock.sources.decorators import TASKS, task
from penstock.testing.conformance.bodies import hold, note
from penstock.testing.conformance.capability import has
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import all_final, final
from penstock.testing.harness import Harness, WorkerProcess, WorkerThread, wait_until

StartWorker = Callable[..., WorkerThread]
StartProcess = Callable[..., WorkerProcess]


def _refused(queue: JobQueue, worker: WorkerThread, kind: str = "refused") -> int:
    """Count the refused messages of the worker and, where messages run in the publishing process, of this one."""
    return worker.counts().get(kind, 0) + queue.execution.counts[kind]


def test_a_message_that_comes_five_times_runs_its_job_once(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    jobs = queue.enqueue_many([note.call(file=record.file, label=str(n)) for n in range(10)])
    for _ in range(4):
        queue.gateway.publish([message_for(job.job) for job in jobs])
    start_worker(concurrency=4)
    all_final(queue, jobs)
    probe = queue.enqueue(note, file=record.file, label="probe")
    final(queue, probe)
    assert sorted(entry.label for entry in record.starts()) == [*map(str, range(10)), "probe"]


@pytest.mark.calm
def test_a_message_that_comes_while_its_job_runs_is_refused(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    worker = start_worker(concurrency=2)
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()), delay="100ms")
    record.wait_started()
    twin = message_for(queue.ledger.get(job.id))
    queue.gateway.publish([Message(id=f"{job.id}_7", job_ids=twin.job_ids, queue=twin.queue)])
    wait_until(lambda: _refused(queue, worker) == 1, what="the twin is refused")
    record.open_gate()
    assert final(queue, job).state is State.SUCCEEDED
    assert len(record.starts()) == 1


def test_a_lost_message_is_published_again(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    if not has(queue, "withdraw"):
        # The loss is played in the ledger instead: the row says published, no message is anywhere.
        job = queue.enqueue(note, file=record.file, delay="10ms")
        wait_until(lambda: job.state == "queued")
        assert len(queue.ledger.publishable(10)) == 1
    else:
        job = queue.enqueue(note, file=record.file)
        assert queue.gateway.withdraw(message_ids(job.job)) == 1
    start_worker()
    assert final(queue, job).state is State.SUCCEEDED
    assert len(record.starts()) == 1


@pytest.mark.calm
@pytest.mark.parametrize(
    "job_id",
    [
        pytest.param(new_job_id(), id="an id nobody knows"),
        pytest.param("no-such-job", id="a text that is no uuid"),
        pytest.param("'; drop table jobs; --", id="a text that looks like SQL"),
        pytest.param("x" * 10_000, id="a text of 10,000 letters"),
        pytest.param("", id="an empty text"),
    ],
)
def test_a_message_with_an_unknown_job_id_is_refused_and_counted(
    queue: JobQueue, start_worker: StartWorker, record: Record, job_id: str
) -> None:
    worker = start_worker()
    queue.gateway.publish([Message(id=f"{new_job_id()}_1", job_ids=(job_id,))])
    final(queue, queue.enqueue(note, file=record.file, label="after"))
    # What is no id at all is refused where the message is read, as one that is not ours.
    wait_until(
        lambda: _refused(queue, worker) + _refused(queue, worker, "foreign") == 1,
        what="the stranger's message is refused",
    )
    assert [entry.label for entry in record.starts()] == ["after"]


def test_a_worker_that_lacks_the_task_leaves_the_job_queued_with_a_note(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    name = f"conformance.lacking-{new_job_id()}"
    lacking = task(name=name)(lambda: None)
    job = queue.enqueue(lacking, delay="300ms")
    TASKS.discard(name)
    start_worker()
    row = wait_until(lambda: (row := queue.ledger.get(job.id)).note is not None and row, what="the job carries a note")
    assert row.state is State.QUEUED
    assert name in row.note
    assert (row.errors, row.crashes) == (0, 0)
    assert job.state == "blocked"


def test_an_unknown_kind_of_job_is_kept_with_a_note(queue: JobQueue, start_worker: StartWorker) -> None:
    from penstock.job.models import Intent

    start_worker()
    wanted = Intent(id=new_job_id(), kind="conformance.kind", name="stranger", spec=b"{}", delay_s=0.1)
    queue.ledger.insert([wanted], grace_s=1.0)
    row = wait_until(lambda: (row := queue.ledger.get(wanted.id)).note is not None and row)
    assert row.state is State.QUEUED


def test_a_job_whose_worker_was_killed_is_rescued(queue: JobQueue, start_process: StartProcess, record: Record) -> None:
    first = start_process("--concurrency", "1")
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()), delay="200ms")
    (start,) = record.wait_started()
    assert start.pid == first.pid
    first.kill()
    record.open_gate()
    start_process("--concurrency", "1")
    row = final(queue, job, timeout_s=15)
    assert (row.state, row.crashes, row.errors) == (State.SUCCEEDED, 1, 0)
    assert [attempt.outcome for attempt in job.attempts()] == ["crashed", "succeeded"]
    assert len(record.ends()) == 1


def test_a_job_that_loses_its_worker_again_and_again_fails_as_a_crash_loop(
    queue: JobQueue, start_process: StartProcess, record: Record
) -> None:
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()), delay="200ms", max_crashes=2)
    for death in (1, 2):
        worker = start_process("--concurrency", "1")
        record.wait_started(count=death)
        worker.kill()
    start_process("--concurrency", "1")
    row = final(queue, job, timeout_s=15)
    assert (row.state, row.reason, row.crashes) == (State.FAILED, "crash_loop", 2)
    assert len(record.starts()) == 2


def test_an_engine_that_is_down_costs_a_warning_and_not_the_job(
    harness: Harness, queue: JobQueue, open_queue: Callable[..., JobQueue], start_worker: StartWorker, record: Record
) -> None:
    if harness.unreachable_url is None:
        # There is no engine that could be down; then there must be nothing that could be lost with it either.
        assert queue.gateway.capabilities.workers is Support.ABSENT
        return
    with (
        JobQueue(harness.unreachable_url, ledger=queue.ledger, config=queue.config, root=queue.root) as cut_off,
        pytest.warns(PublishWarning),
    ):
        job = cut_off.enqueue(note, file=record.file)
    assert queue.ledger.get(job.id).state is State.QUEUED
    start_worker()
    assert final(queue, job).state is State.SUCCEEDED


def test_no_foreign_exception_leaves_a_backend(harness: Harness, queue: JobQueue) -> None:
    from penstock import bridge, registry
    from penstock.core.base import BackendContext

    if harness.unreachable_url is None:
        assert queue.gateway.capabilities.workers is Support.ABSENT
        return
    found, _ = registry.for_url(harness.unreachable_url)

    async def unused(_message: Message) -> None:
        raise AssertionError

    context = BackendContext(
        url=harness.unreachable_url, settings=found.settings_type(), namespace="nowhere",
        execute=lambda _message: None, aexecute=unused,
    )  # fmt: skip
    backend = bridge.synchronous(found(context))
    message = Message(id=f"{new_job_id()}_1", job_ids=(new_job_id(),))
    verbs: list[Callable[[], object]] = [lambda: backend.publish([message])]
    if has(queue, "withdraw"):
        verbs.append(lambda: backend.withdraw([message.id]))
    if has(queue, "depth"):
        verbs.append(lambda: backend.depth("default"))
    for verb in verbs:
        with pytest.raises(PenstockError) as told:
            verb()
        assert isinstance(told.value, BackendUnavailableError)
        assert told.value.__cause__ is not None
    backend.close()
