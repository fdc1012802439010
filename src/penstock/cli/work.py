"""``worker``: works jobs off, in this process or in several."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from penstock.cli.failures import UsageError, tell
from penstock.cli.session import Session, words
from penstock.core.config import seconds
from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import LedgerError, PenstockError
from penstock.core.secrets import mask_url
from penstock.core.visible import visible
from penstock.job.lifecycle import FINAL
from penstock.job.limits import parse_memory_bytes
from penstock.settings.checks import LOG_LEVELS

if TYPE_CHECKING:
    from penstock.core.config import Config
    from penstock.health_port import Answer, HealthPort
    from penstock.worker import Worker

_FLAG = Parameter(negative="", show_default=False)
_OPTION = Parameter(show_default=False)
_WORDS = Parameter(consume_multiple=True, negative="", show_default=False)
_KILL_AFTER_S = 5.0
"""How much longer than its own limits a process may take before its parent kills it."""


def worker(
    *queue: str,
    tasks: Annotated[tuple[str, ...], _WORDS] = (),
    concurrency: Annotated[int | None, Parameter(name=["--concurrency", "-c"], show_default=False)] = None,
    processes: Annotated[int | None, Parameter(name=["--processes", "-p"], show_default=False)] = None,
    queues: Annotated[tuple[str, ...], _WORDS] = (),
    burst: Annotated[bool, _FLAG] = False,
    until_finished: Annotated[bool, _FLAG] = False,
    at_most: Annotated[tuple[str, ...], _WORDS] = (),
    max_jobs: Annotated[int | None, _OPTION] = None,
    max_jobs_per_process: Annotated[int | None, _OPTION] = None,
    max_memory: Annotated[str | None, _OPTION] = None,
    task_concurrency: Annotated[tuple[str, ...], _WORDS] = (),
    dependencies: Annotated[tuple[str, ...], _WORDS] = (),
    grace: Annotated[str | None, _OPTION] = None,
    connect_timeout: Annotated[str | None, _OPTION] = None,
    health_port: Annotated[int | None, _OPTION] = None,
    health_host: Annotated[str | None, _OPTION] = None,
    scheduler: Annotated[bool | None, Parameter(show_default=False)] = None,
    jobs_dir: Annotated[str | None, _OPTION] = None,
    log_level: Annotated[str | None, _OPTION] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Work jobs off until told to stop.

    The first SIGTERM or Ctrl-C drains: nothing new is taken, what runs may finish within the grace. The second stops
    at once and hands the jobs back.

    Args:
        queue: The queues to work off, in order of preference; default: as configured.
        tasks: Modules and folders that hold tasks, added to those configured.
        concurrency: How many jobs at once, in each process.
        processes: How many processes.
        queues: The same as QUEUE.
        burst: Work off what is due, then end. What is scheduled for later stays.
        until_finished: Work off what is due and what is scheduled for later, then end.
        at_most: As --until-finished, but run so many jobs of a key or name, KEY=N, and cancel further ones.
        max_jobs: End after so many jobs, of all processes together.
        max_jobs_per_process: Drain and end a process that had so many; with --processes another takes its place.
        max_memory: Drain and end a process that holds more, such as 500MB; with --processes another takes its place.
        task_concurrency: How many jobs of a task each process runs at once, NAME=N; may be repeated.
        dependencies: What surrounds the body of each job, as MODULE:NAME, added to those configured.
        grace: How long a drain may take, such as 30s.
        connect_timeout: For how long to try again when engine or ledger do not answer at the start; 0: not at all.
        health_port: Answer GET /live and GET /ready there, for probes; 0: any free port, which is told.
        health_host: The address of that port; default: 127.0.0.1. It asks for no password.
        scheduler: Also make the jobs of schedules; default: as configured, which is yes.
        jobs_dir: Watch this folder of job files, and run what they say.
        log_level: Log from this level on: debug, info, warning, error.
        session: Handed in by the parser.
    """
    for option, number in (("--concurrency", concurrency), ("--max-jobs", max_jobs), ("--processes", processes),
                           ("--max-jobs-per-process", max_jobs_per_process)):  # fmt: skip
        if number is not None and number < 1:
            raise UsageError(f"{option} takes a number over 0, not {number}")
    if health_port is not None and not 0 <= health_port <= 65_535:
        raise UsageError(f"--health-port takes a number from 0 to 65535, not {health_port}")
    config = _config(session, {"--grace": grace, "--connect-timeout": connect_timeout})
    config = _replaced(config, health_port=health_port, health_host=health_host, scheduler=scheduler)
    config = _with_job_files(session, config, jobs_dir, log_level)
    config = _with_bounds(config, max_memory, max_jobs_per_process, task_concurrency)
    config = _replaced(config, dependencies=(*config.worker.dependencies, *words(dependencies)))
    bounds = _numbers("--at-most", at_most)
    count = processes or config.worker.processes
    if count > 1 and bounds:
        raise UsageError("--at-most counts in one process; leave out --processes")
    if count > 1:
        arguments = [*queue, *_repeated("--queues", queues), *_repeated("--tasks", tasks)]
        options = {
            "--concurrency": concurrency, "--grace": grace, "--connect-timeout": connect_timeout,
            "--health-port": health_port, "--jobs-dir": jobs_dir and config.jobs_dir, "--log-level": log_level,
            "--max-memory": max_memory, "--max-jobs-per-process": max_jobs_per_process,
        }  # fmt: skip
        arguments += [f"{name}={value}" for name, value in options.items() if value is not None]
        arguments += [*_repeated("--task-concurrency", task_concurrency), *(["--until-finished"] * until_finished)]
        arguments += _repeated("--dependencies", dependencies)
        arguments += [] if scheduler is None else ["--scheduler" if scheduler else "--no-scheduler"]
        arguments += ["--burst"] * burst
        return _several(session, config, count, arguments, ends=burst or until_finished, max_jobs=max_jobs)
    from penstock.leaving import Leaving
    from penstock.tether import Tether
    from penstock.worker import EXIT_FORCED, Worker

    tether = Tether.of_parent()
    opened = session.queue(config=config, tasks=tasks)
    made = Worker(
        opened, queues=words([*queue, *queues]) or None, concurrency=concurrency, burst=burst,
        until_finished=until_finished, max_jobs=max_jobs, echo=session.verbose > 0,
        connect_timeout=config.worker.connect_timeout,
    )  # fmt: skip
    opened.load_tasks()  # now, so that what does not load is told before the first job

    watched = config.worker.health_port is not None
    if watched and tether is not None:  # the parent has the port
        tether.report(lambda: msgspec.json.encode(made.vitals.health()))
    port = _open_port(session, config, made.vitals.health) if watched and tether is None else None

    def ready() -> None:
        _ready(session, made)
        if watched:
            made.watch()
        if tether is not None:
            tether.tell_ready()

    leaving = Leaving(drain_s=seconds(config.worker.grace), code=EXIT_FORCED, before=made.abandon)
    try:
        code = made.run_at_most(bounds, on_ready=ready) if bounds else made.run(on_ready=ready)
    except PenstockError as error:
        if made.holds:  # as below: the error is told here, since nobody comes to tell it
            _leave(tell(error, as_json=session.json, verbose=session.verbose > 0))
        raise
    finally:
        leaving.close()
        made.vitals.close()
        if port is not None:
            port.close()
    leaving.has_worked(code)
    if tether is not None and made.recycled:
        tether.tell_again(opened.execution.claims.claimed)
    _closing(session, made, code)
    if made.holds or code == EXIT_FORCED:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End the process at once: all jobs are handed back, and Python would wait for threads that bodies may hold."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _open_port(session: Session, config: Config, health: Callable[[], Answer]) -> HealthPort:
    from penstock.health_port import HealthPort

    wanted = config.worker
    port = HealthPort(wanted.health_host, wanted.health_port or 0, health)
    if session.json:
        _document(session, "listening", health_url=port.url)
    else:
        _line(session, f"health: {port.url}/live and {port.url}/ready")
    return port


def _config(session: Session, durations: dict[str, str | None]) -> Config:
    config = session.settings.config
    given = {option: text for option, text in durations.items() if text is not None}
    for option, text in given.items():
        try:
            parse_duration_s(text)
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from None
    return _replaced(config, **{option.removeprefix("--").replace("-", "_"): text for option, text in given.items()})


def _replaced(config: Config, **changes: Any) -> Config:
    given = {name: value for name, value in changes.items() if value is not None}
    return msgspec.structs.replace(config, worker=msgspec.structs.replace(config.worker, **given))


def _with_bounds(
    config: Config, max_memory: str | None, max_jobs_per_process: int | None, task_concurrency: Sequence[str]
) -> Config:
    if max_memory is not None:
        try:
            parse_memory_bytes(max_memory)
        except ValueError as error:
            raise UsageError(f"--max-memory: {error}") from None
    given = _numbers("--task-concurrency", task_concurrency, least=1)
    each = {**config.worker.task_concurrency, **given} if given else None
    return _replaced(config, max_memory=max_memory, max_jobs_per_process=max_jobs_per_process, task_concurrency=each)


def _numbers(option: str, given: Sequence[str], *, least: int = 0) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in words(given):
        name, _, number = word.rpartition("=")
        if not name or not number.isdigit() or int(number) < least:
            raise UsageError(f"{option} takes NAME=N with a number from {least}, not {word!r}")
        found[name] = int(number)
    return found


def _with_job_files(session: Session, config: Config, jobs_dir: str | None, log_level: str | None) -> Config:
    if log_level is not None and log_level.lower() not in LOG_LEVELS:
        raise UsageError(f"--log-level takes {', '.join(LOG_LEVELS)}, not {log_level!r}")
    if log_level is not None or (config.log_level is not None and not session.verbose and not session.quiet):
        session.log_from(log_level or config.log_level or "")
    if jobs_dir is None:
        return config
    # Meant from where the user stands, not from where the configuration lies.
    folder = Path(jobs_dir).expanduser().absolute()
    if not folder.is_dir():
        raise UsageError(f"--jobs-dir: there is no folder {folder}")
    return msgspec.structs.replace(config, jobs_dir=str(folder))


# -- one process ----------------------------------------------------------------------------------------------------


def _ready(session: Session, made: Worker) -> None:
    try:
        info = made.info()
    except LedgerError as error:  # it may have gone away meanwhile: a worker at work outlives that
        _line(session, f"worker {made.queue.owner} is ready, and its ledger does not answer any more: {error}")
        return
    if session.json:
        _document(session, "ready", worker=info)
        return
    pipelines = len(made.queue.pipelines())
    known = f"{len(info.tasks)} tasks" + (f", {pipelines} pipelines" if pipelines else "")
    _line(
        session,
        f"worker {info.id} is ready: {mask_url(info.backend)}, queues {', '.join(info.queues)}, "
        f"{info.concurrency} at once, {known}",
    )
    functions = sum(bool(task.marks) for task in made.queue.tasks().values())
    if functions and not session.verbose:  # then the log has said so
        _line(session, f"discovered {functions} scheduled functions")


def _closing(session: Session, made: Worker, code: int) -> None:
    counts: dict[str, int] = {}
    left: dict[str, int] = {}
    if made.ready:
        counts = made.counts()
        try:
            left = {state: count for state, count in made.queue.counts().items() if state not in FINAL}
        except LedgerError as error:
            _line(session, f"what is still to do is not known: {error}")
    if session.json:
        _document(session, "ended", counts=counts, left=left, exit_code=code, recycled=made.recycled or None)
        return
    if made.recycled:
        _line(session, f"this process has had {made.recycled}")
    told = (_told(counts) or "nothing to do") if made.ready else "it was never ready"
    _line(session, f"worker {made.queue.owner} ended: {told}" + (f"; still to do: {_told(left)}" if left else ""))


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())


# -- several processes ----------------------------------------------------------------------------------------------


def _several(
    session: Session, config: Config, count: int, arguments: Sequence[str], *, ends: bool, max_jobs: int | None
) -> int:
    """Run the worker in several processes; each reads the configuration for itself."""
    from penstock.processes import Processes, refuse_unshared, shares
    from penstock.worker import EXIT_FORCED

    refuse_unshared(session.queue(config=config), count)
    session.close()  # nothing was connected, and nothing will be here
    patience_s = seconds(config.worker.health_patience)
    common = [*_of_everywhere(session), *arguments, "--processes=1"]
    processes = Processes(
        common,
        shares(max_jobs, count),
        ends=ends or max_jobs is not None,
        drain_s=seconds(config.worker.grace) + seconds(config.lease.cancel_grace) + _KILL_AFTER_S,
        say=_saying(session),
        as_json=session.json,
    )
    watched = config.worker.health_port is not None
    port = _open_port(session, config, lambda: processes.health(patience_s)) if watched else None
    try:
        code = processes.run()
    finally:
        if port is not None:
            port.close()
    if code == EXIT_FORCED:
        _leave(code)  # to take an engine's hundreds of modules apart would need more than half a second
    return code


def _of_everywhere(session: Session) -> list[str]:
    """Write the global options as they were given."""
    options = {
        "--url": session.url, "--ledger": session.ledger, "--config": session.config, "--project": session.project,
    }  # fmt: skip
    flags = {"--json": session.json, "--quiet": session.quiet, "--no-color": session.no_color}
    return [
        *(f"{name}={value}" for name, value in options.items() if value is not None),
        *(name for name, given in flags.items() if given),
        *["--verbose"] * session.verbose,
    ]


def _repeated(option: str, values: Sequence[str]) -> list[str]:
    return [f"{option}={value}" for value in values]


def _saying(session: Session) -> Callable[..., None]:
    def say(event: str, **fields: Any) -> None:
        if session.json:
            _document(session, event, **fields)
        else:
            _line(session, _TEXTS[event](fields))

    return say


_TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "started": lambda told: f"{len(told['pids'])} processes: {', '.join(map(str, told['pids']))}",
    "died": lambda told: (
        f"warning: process {told['pid']} {_of_code(told['code'])}; another takes its place in {told['again_in_s']:g} s"
    ),
    "gave_up": lambda told: f"error: process {told['pid']} {_of_code(told['code'])} before it was ready; giving up",
    "recycled": lambda told: f"process {told['pid']} has ended after {told['jobs']:,} jobs; another takes its place",
    "killed": lambda told: f"warning: process {told['pid']} did not end in time; it is killed",
}


def _of_code(code: int) -> str:
    if code > 128:  # as a shell tells of a signal
        try:
            return f"died of {signal.Signals(code - 128).name}"
        except ValueError:
            pass
    return f"ended with exit code {code}"


# -- writing --------------------------------------------------------------------------------------------------------


def _document(session: Session, event: str, **fields: Any) -> None:
    session.document({"schema": "penstock.worker/1", "event": event, **fields})
    sys.stdout.flush()


def _line(session: Session, text: str) -> None:
    if not session.quiet:
        sys.stderr.write(visible(f"penstock: {text}\n"))
        sys.stderr.flush()
