"""`JobQueue`: what users hold. Every blocking verb has an a-twin for async callers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from penstock import calls as calls_room
from penstock import settings as settings_room
from penstock import snapshot as snapshot_room
from penstock.bridge import in_thread
from penstock.control import Controls
from penstock.core.config import Config
from penstock.core.exceptions import InvalidJobError, JobNotFoundError
from penstock.handle import JobHandle
from penstock.job.models import JOB_ID, Intent, Job, JobQuery, Ref, WorkerInfo
from penstock.options import JobOptions
from penstock.rooms import TasksNotLoadedWarning
from penstock.schedule_options import OPTIONS as SCHEDULE_OPTIONS
from penstock.sources.decorators import TASKS, BoundTask, Call, Task
from penstock.submission import PublishWarning, record

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import date, datetime

    from penstock.backfill import Counts
    from penstock.core.base import Ledger
    from penstock.job.schedules import Schedule
    from penstock.worker import Worker


class JobQueue(Controls):
    """One project's jobs: submits them, asks about them, works them off. Safe from any thread.

    ``JobQueue("huey+sqlite:///queue.db", ledger="sqlite:///ledger.db")`` takes everything from its arguments;
    `from_config` and `for_project` read the project's files. Nothing is opened before it is needed.
    """

    def __init__(
        self,
        backend: str | None = None,
        *,
        ledger: str | Ledger | None = None,
        config: Config | None = None,
        root: str | Path | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        """Set up a queue.

        Args:
            backend: the one URL that picks the engine; overrides ``config.backend``.
            ledger: a URL, or a ledger that is open (which stays the caller's to close).
            config: everything else; its defaults are those of ``penstock.toml``.
            root: the folder that relative paths in the URLs and ``tasks`` start from; default: the current one.
            tasks: modules and folders that hold tasks, added to ``config.tasks``.

        Raises:
            ConfigError: a URL names nothing known, or a setting is wrong.
        """
        at = Path(root or Path.cwd()).resolve()
        changes: dict[str, Any] = {"tasks": (*(config.tasks if config else ()), *tasks)}
        if backend is not None:
            changes["backend"] = backend
        if isinstance(ledger, str):
            changes["ledger"] = ledger
        whole = settings_room.anchored(msgspec.structs.replace(config or Config(), **changes), at)
        super().__init__(whole, root=at, ledger=None if isinstance(ledger, str) else ledger)

    # -- where a queue comes from -------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, start: str | Path | None = None, *, file: str | Path | None = None, **flags: Any) -> JobQueue:
        """Open the queue of the project that ``start`` (default: the current folder) lies in.

        ``flags`` are the top-level settings that override everything else (``backend="..."``).
        """
        loaded = settings_room.load(Path(start) if start else None, file=Path(file) if file else None, flags=flags)
        return cls(config=loaded.config, root=loaded.root)

    @classmethod
    def for_project(cls, project: Any) -> JobQueue:
        """Open the queue of a FlowerPower project: its folder, or a FlowerPowerProject or PipelineManager."""
        from penstock.sources.flowerpower import project_root

        root = project_root(project)
        return cls.from_config(root)

    _default: JobQueue | None = None
    _default_root: Path | None = None

    @classmethod
    def default(cls) -> JobQueue:
        """Return the queue that `Task.enqueue` uses: that of the configuration around the current folder."""
        here = Path.cwd()
        if cls._default is None or cls._default_root != here:
            cls._default, cls._default_root = cls.from_config(here), here
        return cls._default

    @classmethod
    def set_default(cls, queue: JobQueue | None) -> None:
        """Make `Task.enqueue` use this queue (None: look at the configuration again)."""
        cls._default, cls._default_root = queue, Path.cwd()

    # -- asking for what can be submitted --------------------------------------------------------------------------

    def tasks(self) -> dict[str, Task[..., Any]]:
        """Return the tasks that can be enqueued here, by name. Warns as `load_tasks` does."""
        self.load_tasks()
        return dict(TASKS)

    def pipelines(self) -> dict[str, Path]:
        """Return the pipelines of this queue's projects, each with its project's folder; nothing is imported.

        Raises:
            ConfigError: a project's folder does not exist, or its YAML cannot be read.
        """
        from penstock.sources.flowerpower import projects_of

        found: dict[str, Path] = {}
        for project in projects_of(self.config, self.root).values():
            if project.kind == "flowerpower" or self.config.projects:
                for name in project.pipelines():
                    found.setdefault(name, project.root)
        return found

    # -- submitting ---------------------------------------------------------------------------------------------

    def enqueue(
        self,
        task: Task[..., Any] | BoundTask[..., Any] | Call | str,
        /,
        *args: Any,
        connection: object | None = None,
        **kwargs: Any,
    ) -> JobHandle:
        """Submit one job and return its handle, whose ``outcome`` says whether it is new.

        ``task`` is a task, its name, or a `Call`. Keywords that are job options (see `JobOptions`: ``delay``,
        ``at``, ``key``, ``queue``, ``priority``, ``max_attempts``, ``timeout``, ...) are taken as such, all others
        go to the function; where both could be meant, write ``task.options(delay=...).enqueue(...)``.

        With a ``connection`` of yours to the database that the ledger is in (`psycopg.Connection` to Postgres,
        `sqlite3.Connection` to the ledger's file), the job joins the transaction that is open there: it commits
        together with your data or not at all. The handle finds its job after your commit; a worker's sweep publishes
        it then.

        Raises:
            InvalidJobError: the input or an option is wrong; nothing was written.
            UnsupportedError: the backend cannot do what was asked, or the ledger cannot join that connection;
                nothing was written.
            DuplicateJobError: a job stands in its way, by ``key`` or ``unique``, and ``on_conflict`` is "raise".
            QueueFullError: as many jobs wait in the queue as ``limits.max_queued`` allows; nothing was written.
            LedgerError: nothing was written.

        Warns:
            PublishWarning: the engine could not be reached; the job is recorded and will run.
        """
        return self.enqueue_many([calls_room.call_of(self, task, args, kwargs, connection)], connection=connection)[0]

    def enqueue_many(self, calls: Iterable[Call], *, connection: object | None = None) -> list[JobHandle]:
        """Submit many jobs in one transaction; a handle each, in order. See `enqueue`, also for the errors."""
        return self._submit([calls_room.intent_of(self.config, call) for call in calls], connection)

    def enqueue_pipeline(self, name: str, run_config: Any = None, **kwargs: Any) -> JobHandle:
        """Submit one run of a pipeline: `enqueue` with what `pipeline` returns for the same arguments."""
        return self.enqueue(self.pipeline(name, run_config, **kwargs))

    def enqueue_command(self, argv: Sequence[str], **kwargs: Any) -> JobHandle:
        """Submit a command: `enqueue` with what `command` returns for the same arguments."""
        return self.enqueue(self.command(argv, **kwargs))

    def pipeline(self, name: str, run_config: Any = None, *, project: str | None = None, **kwargs: Any) -> Call:
        """Return the call of a pipeline, for `enqueue` and `enqueue_many`.

        Takes the keywords of FlowerPower's ``PipelineManager.run`` (or its ``RunConfig``, of which only the fields
        that were given travel) and job options. ``modules=[...]`` makes it a plain Hamilton run.

        Raises:
            UnknownPipelineError: lists the pipelines that there are.
            InvalidJobError: an input is not plain data, a field is unknown, ``final_vars`` is empty.
        """
        from penstock.runners.pipeline import pipeline_call

        return pipeline_call(self.config, self.root, name, run_config, project=project, **kwargs)

    def command(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        on_exit: Mapping[int, str] | None = None,
        **options: Any,
    ) -> Call:
        """Return the call of a command: a list of arguments, never a shell line.

        ``on_exit`` says what exit statuses ask for: ``{75: "retry 5m", 69: "snooze 1h", 64: "discard"}``.
        """
        from penstock.runners.command import command_spec

        spec = command_spec(argv, cwd=cwd, env=env, on_exit=on_exit)
        return Call("command", Path(spec.argv[0]).name, spec, JobOptions.parse(options))

    def schedule(
        self, what: Task[..., Any] | BoundTask[..., Any] | Call | str, /, *args: Any, **options: Any
    ) -> Schedule:
        """Make a schedule, or change the one of the same name; jobs come from it from now on.

        ``what`` is a task, a `Call`, or the name of a task or a pipeline. One rule says when: ``cron="0 2 * * *"``,
        ``every="15m"`` (``from_end=True``: counted from the end of each run; ``follows=True``: the run may say when the
        next one is), ``at="2026-11-22T02:00"``, or ``rule=`` any of these as text, or an ISO 8601 repeating interval.
        ``timezone`` (default: the project's) is that of a cron and of naive times.

        Further: ``name`` (default: that of the task), ``inputs`` (the function's or pipeline's arguments; texts may
        hold ``{{ fire_at }}``, ``{{ interval.start }}``), ``overlap`` (skip, queue, allow, cancel_previous),
        ``catch_up`` (none, latest, all) with ``catch_up_max`` and ``grace``, ``jitter``, ``start``, ``end``,
        ``max_fires``, ``soft_start``, ``tags``, ``description``; ``why``, for the audit trail; and job options.

        Raises:
            InvalidScheduleError: an option is wrong; nothing was written.
            InvalidJobError: the input is.
            ScheduleDeclaredError: a file declares the schedule of that name.
        """
        name, inputs, why = (options.pop(word, None) for word in ("name", "inputs", "why"))
        mine = {option: options.pop(option) for option in SCHEDULE_OPTIONS if option in options}
        call = calls_room.scheduled(self, what, args, inputs or {}, options)
        return self.schedules.put(call, name=name, why=why, **mine)[0]

    def unschedule(self, name: str) -> None:
        """Take a schedule away; its jobs stay. Raises `ScheduleNotFoundError`, `ScheduleDeclaredError`."""
        self.schedules.remove(name)

    def backfill(self, what: Any, /, *, start: str | date, end: str | date, **said: Any) -> Counts:
        """Make the jobs of a schedule's past fire times, and wait for them; see `penstock.backfill.prepare`.

        A fire time whose job has succeeded is left alone. ``max_active`` (4) bounds how many are live, ``rerun`` says
        what is run (``failed``, ``missing``; both; ``purged``), ``dry_run=True`` only counts, ``tell`` is called with
        each step. A task or pipeline without a schedule takes a rule (``cron``, ``every``), ``inputs``, and options.

        Raises:
            ScheduleNotFoundError: there is no such schedule.
            InvalidJobError: the span, the rule, an option or the input is wrong; nothing was written.
        """
        from penstock.backfill import backfill

        return backfill(self, what, start=start, end=end, **said)

    def resubmit(self, job: Job) -> JobHandle:
        """Submit a job's input again as a new job; see `JobHandle.retry`. Raises `InvalidJobError` for a forged one."""
        from penstock import dead_letters

        return dead_letters.resubmit(self, job)

    def _submit(self, intents: Sequence[Intent], connection: object | None = None) -> list[JobHandle]:
        return [JobHandle(self, s.job, s.outcome) for s in record(self, intents, connection)]

    def store(self, value: Any, *, name: str = "input") -> Ref:
        """Put a DataFrame or another large value into the result store; pass the `Ref` as an input instead.

        The worker loads it, and checks it, before the body starts.

        Raises:
            ResultError: no codec takes the value, or the store cannot be written.
        """
        return self.results.put(value, name=name)

    # -- asking -------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobHandle:
        """Look a job up by id, or by the beginning of an id that fits one job only.

        Raises:
            JobNotFoundError: there is no such job, or that is no id.
            InvalidJobError: several ids begin so.
        """
        if not JOB_ID.fullmatch(job_id):
            raise JobNotFoundError(job_id)
        try:
            return JobHandle(self, self.ledger.get(job_id))
        except JobNotFoundError:
            found = self.ledger.find(JobQuery(id_prefix=job_id, limit=2)) if len(job_id) >= 4 else []
            if not found:
                raise
            if len(found) > 1:
                raise InvalidJobError(f"several jobs begin with {job_id!r}; write more of the id") from None
            return JobHandle(self, found[0])

    def jobs(self, **query: Any) -> list[JobHandle]:
        """List jobs, newest first; the keywords are the fields of `JobQuery`."""
        return [JobHandle(self, job) for job in self.ledger.find(JobQuery(**query))]

    def counts(self) -> dict[str, int]:
        """Count jobs by shown state."""
        return self.ledger.counts()

    def now(self) -> datetime:
        """Return the ledger's time, aware UTC: what ages and delays of jobs are counted from."""
        return self.ledger.now()

    def workers(self, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
        """List the workers that were seen lately."""
        return snapshot_room.workers(self, seen_within_s=seen_within_s)

    # -- working ------------------------------------------------------------------------------------------------

    def run(self, call: Call, *, echo: bool = False) -> JobHandle:
        """Submit a job and run it in this process, whatever the engine; return its handle when it is final.

        Other jobs are left alone. A job that is kept (see ``key``) is returned as it is. An exception that comes
        from outside, such as KeyboardInterrupt, cancels the job and goes on.

        Args:
            call: what to run; its ``at``, ``delay`` and ``priority`` are ignored.
            echo: also write what the body writes to this process's stderr.
        """
        from penstock.local import run_here

        return run_here(self, call, echo=echo)

    def captured(self, *, echo: bool = False) -> AbstractContextManager[None]:
        """Keep what bodies write with their attempts, where an enqueue runs them in this process (``inline://``).

        A worker and `run` do so by themselves; else it goes where this process's own output goes.

        Args:
            echo: also write it to this process's stderr.
        """
        from penstock.local import captured

        return captured(self, echo=echo)

    def worker(
        self,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
        burst: bool = False,
        max_jobs: int | None = None,
        max_memory: str | int | None = None,
        connect_timeout: str | float = 0,
        scheduler: bool | None = None,
        dependencies: Mapping[str, Any] | None = None,
    ) -> Worker:
        """Return a worker: run it (`Worker.run`), or use it as a context manager to work in the background."""
        from penstock.worker import Worker

        return Worker(
            self, queues=queues, concurrency=concurrency, burst=burst, max_jobs=max_jobs, max_memory=max_memory,
            connect_timeout=connect_timeout, scheduler=scheduler, dependencies=dependencies,
        )  # fmt: skip

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # The a-twins: each is its verb in a thread.

    async def aenqueue(
        self,
        task: Task[..., Any] | BoundTask[..., Any] | Call | str,
        /,
        *args: Any,
        connection: object | None = None,
        **kwargs: Any,
    ) -> JobHandle:
        """`enqueue`, awaited."""
        return await in_thread(self.enqueue, task, *args, connection=connection, **kwargs)

    async def aenqueue_many(self, calls: Iterable[Call], *, connection: object | None = None) -> list[JobHandle]:
        """`enqueue_many`, awaited."""
        return await in_thread(self.enqueue_many, calls, connection=connection)

    async def aenqueue_pipeline(self, name: str, run_config: Any = None, **kwargs: Any) -> JobHandle:
        """`enqueue_pipeline`, awaited."""
        return await in_thread(self.enqueue_pipeline, name, run_config, **kwargs)

    async def aenqueue_command(self, argv: Sequence[str], **kwargs: Any) -> JobHandle:
        """`enqueue_command`, awaited."""
        return await in_thread(self.enqueue_command, argv, **kwargs)

    async def aschedule(
        self, what: Task[..., Any] | BoundTask[..., Any] | Call | str, /, *args: Any, **options: Any
    ) -> Schedule:
        """`schedule`, awaited."""
        return await in_thread(self.schedule, what, *args, **options)

    async def aunschedule(self, name: str) -> None:
        """`unschedule`, awaited."""
        return await in_thread(self.unschedule, name)

    async def abackfill(self, what: Any, /, *, start: str | date, end: str | date, **said: Any) -> Counts:
        """`backfill`, awaited."""
        return await in_thread(self.backfill, what, start=start, end=end, **said)

    async def astore(self, value: Any, *, name: str = "input") -> Ref:
        """`store`, awaited."""
        return await in_thread(self.store, value, name=name)

    async def ajob(self, job_id: str) -> JobHandle:
        """`job`, awaited."""
        return await in_thread(self.job, job_id)

    async def ajobs(self, **query: Any) -> list[JobHandle]:
        """`jobs`, awaited."""
        return await in_thread(self.jobs, **query)

    async def arun(self, call: Call, *, echo: bool = False) -> JobHandle:
        """`run`, awaited."""
        return await in_thread(self.run, call, echo=echo)

    async def atasks(self) -> dict[str, Task[..., Any]]:
        """`tasks`, awaited."""
        return await in_thread(self.tasks)

    async def apipelines(self) -> dict[str, Path]:
        """`pipelines`, awaited."""
        return await in_thread(self.pipelines)

    async def anow(self) -> datetime:
        """`now`, awaited."""
        return await in_thread(self.now)

    async def aworkers(self, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
        """`workers`, awaited."""
        return await in_thread(self.workers, seen_within_s=seen_within_s)

    async def acounts(self) -> dict[str, int]:
        """`counts`, awaited."""
        return await in_thread(self.counts)

    async def aclose(self) -> None:
        """`close`, awaited."""
        return await in_thread(self.close)


__all__ = ["JobQueue", "PublishWarning", "TasksNotLoadedWarning"]
