"""An RQ worker whose jobs run in threads: no fork, no signals, no death penalty, no commands by pub/sub.

RQ's `SimpleWorker` takes ten round trips for a job, does not beat while one runs (RQ then moves it to the failed jobs)
and belongs to the main thread. Here a job takes four, and one thread beats for all; the rest is RQ's own.
"""

# RQ's hints are partial: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingTypeStubs=false

from __future__ import annotations

import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import redis
from rq import Queue, SimpleWorker
from rq import worker_registration as registration
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.utils import now, utcformat
from rq.version import VERSION
from rq.worker import WorkerStatus

from penstock.job.models import Message

if TYPE_CHECKING:
    from penstock.backends.rq.config import RqSettings
    from penstock.core.base import BackendContext, WorkOrder

logger = logging.getLogger("penstock.backends.rq")
logging.getLogger("rq.worker").setLevel(logging.WARNING)  # RQ sets INFO, and tells of each cleaning of each queue

ENTRY = "penstock.backends.rq.worker.attempt"
"""The function that every native job names. It is compared with, never imported."""

_KEEP_NEWEST = """
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -ARGV[1] - 1)) do
    redis.call('DEL', ARGV[2] .. id, ARGV[3] .. id)
    redis.call('ZREM', KEYS[1], id)
end
"""

_OUTAGE = (redis.RedisError, OSError)
_ONE_CURRENT_JOB = hasattr(SimpleWorker, "set_current_job_id")
"""RQ 2 has a field for what a worker runs, RQ 3 looks at its executions."""


def attempt(**_message: Any) -> None:
    """Stand for an attempt where RQ's own worker takes one: its job is published again for a worker of ours."""
    raise RuntimeError("this queue belongs to penstock: run `penstock worker`, not `rq worker`")


class ThreadWorker(SimpleWorker):
    """One worker as RQ lists it; `serve` runs its jobs in threads."""

    def __init__(self, context: BackendContext, queues: Sequence[str], *, connection: Any) -> None:
        name = f"{context.namespace}.{os.uname().nodename}.{os.getpid()}.{secrets.token_hex(3)}"
        settings: Any = context.settings
        self.settings: RqSettings = settings  # first: what follows asks for `connection_timeout`
        super().__init__(list(queues), name=name, connection=connection, serializer=JSONSerializer)
        self.stopping = threading.Event()
        self._execute = context.execute
        self._refuse = context.refuse
        self._keys = {queue.key: queue for queue in self.queues}
        self._taking = threading.Lock()
        self._running: dict[str, tuple[Job, Execution]] = {}
        self._suspended_seen_at = 0.0
        self._cleaned_at = 0.0
        self._contact: Callable[[], None] = lambda: None
        self._fault: Exception | None = None

    def serve(self, order: WorkOrder) -> None:
        """Run jobs until `stopping` is set, and return when the last has ended. This thread beats for all.

        An outage of the broker is waited out; what is a fault of this code, or of an RQ that it does not fit, ends
        the worker and is raised.
        """
        self._contact = order.on_contact
        self.register_birth()
        threads = [
            threading.Thread(target=self._serve, name=f"penstock-rq-{number}", daemon=True)
            for number in range(order.concurrency)
        ]
        for thread in threads:
            thread.start()
        order.on_ready()
        for thread in threads:
            while thread.is_alive():
                self._beat()
                thread.join(self.settings.heartbeat_s)
        try:
            self.register_death()
        except redis.RedisError as error:
            logger.warning("this worker could not sign off at RQ: %s", error)
        if self._fault is not None:
            raise self._fault

    def _give_up(self, fault: Exception) -> None:
        self._fault = self._fault or fault
        self.stopping.set()
        logger.error("this worker ends: a fault that trying again does not mend, with RQ %s", VERSION, exc_info=fault)

    # -- one message after the other ----------------------------------------------------------------------------

    def _serve(self) -> None:
        pause_s = 0.1
        while not self.stopping.is_set():
            try:
                taken = self._take()
                if taken is not None:
                    self._run(*taken)
                pause_s = 0.1
            except _OUTAGE as error:
                logger.warning("RQ's broker is in trouble, trying again: %s: %s", type(error).__name__, error)
                self.stopping.wait(pause_s)
                pause_s = min(2 * pause_s, 5.0)
            except Exception as error:  # noqa: BLE001 - raised by `serve`
                self._give_up(error)

    def _take(self) -> tuple[str, Queue] | None:
        """Take a message's id. One thread at a time waits at the broker, the others wait for that thread."""
        with self._taking:
            if self.stopping.is_set() or self._is_suspended():
                return None
            taken: Any = self.connection.blpop(list(self._keys), timeout=self.settings.block_s)
        self._contact()
        if taken is None:
            return None
        key, message_id = taken
        return message_id.decode(errors="replace"), self._keys[key.decode()]

    def _is_suspended(self) -> bool:
        """Obey ``rq suspend``, looked at once a second."""
        if time.monotonic() - self._suspended_seen_at < 1:
            return False
        if is_suspended(self.connection, self):
            self.stopping.wait(0.5)
            return True
        self._suspended_seen_at = time.monotonic()
        return False

    def _run(self, message_id: str, queue: Queue) -> None:
        job: Job | None = None
        try:
            job = Job.fetch(message_id, connection=self.connection, serializer=JSONSerializer)
            job.origin = queue.name
            if job.func_name != ENTRY:
                raise ValueError(f"it calls {job.func_name!r}")
            message = msgspec.convert(job.kwargs, Message)
        except NoSuchJobError:
            return  # withdrawn, or a copy of a message that is done: RQ's list may hold ids without a job
        except (redis.ConnectionError, redis.TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a foreign message holds, it must stop nobody
            self._refuse(f"on {queue.name}: {type(error).__name__}: {error}")
            if job is not None:
                self._end_refused(job, error)
            return
        execution = self._begin(job)
        self._running[execution.id] = (job, execution)
        try:
            failure = self._execute(message)
        finally:
            del self._running[execution.id]
        self._end(job, execution, failure if self.settings.mirror_failures else None)

    # -- what RQ's tools show -----------------------------------------------------------------------------------

    def _begin(self, job: Job) -> Execution:
        with self.connection.pipeline() as pipe:
            execution = Execution.create(job, self._lease_s, pipeline=pipe, worker_name=self.name)
            job.prepare_for_execution(self.name, pipeline=pipe)
            if _ONE_CURRENT_JOB:
                self.set_current_job_id(job.id, pipeline=pipe)
            self.set_state(WorkerStatus.BUSY, pipeline=pipe)
            pipe.execute()
        return execution

    def _end_refused(self, job: Job, why: Exception) -> None:
        try:
            self._end(job, None, f"refused: not a message of penstock ({why})")
        except Exception as error:  # noqa: BLE001 - it may be refused for what cannot be written back either
            logger.warning("RQ was not told that %s was refused: %s: %s", job.id, type(error).__name__, error)

    def _end(self, job: Job, execution: Execution | None, failure: str | None) -> None:
        job.ended_at = now()
        settings = self.settings
        with self.connection.pipeline() as pipe:
            if failure is not None:
                registry, kept_s = job.failed_job_registry, settings.failure_ttl_s
                job.set_status(JobStatus.FAILED, pipeline=pipe)
                registry.add(job, kept_s, failure, pipe)
                Result.create_failure(job, kept_s, failure, worker_name=self.name, pipeline=pipe)
                self.increment_failed_job_count(pipe)
            else:
                registry, kept_s = job.finished_job_registry, settings.result_ttl_s
                job.set_status(JobStatus.FINISHED, pipeline=pipe)
                pipe.hset(job.key, "ended_at", utcformat(job.ended_at))
                pipe.expire(job.key, kept_s)  # 0: it is gone at once
                registry.add(job, kept_s, pipe)
                self.increment_successful_job_count(pipe)
            # RQ's registries never end, and nobody but a worker takes out what is over.
            pipe.expire(registry.key, kept_s)
            pipe.eval(_KEEP_NEWEST, 1, registry.key, settings.shown, job.key_for(""), Result.get_key(""))
            if execution is not None:
                execution.delete(job, pipe)
            if job.started_at is not None:
                self.increment_total_working_time(job.ended_at - job.started_at, pipe)
            if not self._running:
                self.set_state(WorkerStatus.IDLE, pipeline=pipe)
                if _ONE_CURRENT_JOB:
                    self.set_current_job_id(None, pipeline=pipe)
            pipe.execute()

    @property
    def connection_timeout(self) -> int:
        """RQ raises a socket timeout that is under this; its own figure would notice a silent server after 415 s."""
        return math.ceil(self.settings.block_s + self.settings.answer_timeout_s)

    # -- heartbeats and maintenance -----------------------------------------------------------------------------

    @property
    def _lease_s(self) -> int:
        return math.ceil(self.settings.heartbeat_s + self.settings.abandon_after_s)

    def _beat(self) -> None:
        try:
            with self.connection.pipeline() as pipe:
                self.heartbeat(self._lease_s + self.worker_ttl, pipeline=pipe)
                # A broker that lost its memory has lost this worker too.
                pipe.hset(self.key, mapping=self.serialize())
                registration.register(self, pipe)
                for job, execution in list(self._running.values()):
                    execution.heartbeat(job.started_job_registry, self._lease_s, pipe)
                pipe.execute()
        except _OUTAGE as error:
            logger.warning("RQ was not told that this worker is alive: %s: %s", type(error).__name__, error)
        except Exception as error:  # noqa: BLE001 - raised by `serve`
            self._give_up(error)
        else:
            self._clean()

    def _clean(self) -> None:
        if time.monotonic() - self._cleaned_at <= self.settings.maintenance_s:
            return
        self._cleaned_at = time.monotonic()
        try:
            self.clean_registries()
        except Exception as error:  # noqa: BLE001 - RQ's lists may hold what others put there; it is tried again
            logger.warning("RQ's lists were not cleaned: %s: %s", type(error).__name__, error)
