"""The options of commands that may be given as variables: they are no settings, and no mistakes either."""

from __future__ import annotations

from functools import lru_cache

_JOB = (
    "queue priority max_attempts max_crashes timeout backoff retry_on discard_on isolation max_memory max_cpu "
    "max_open_files expires limit metadata"
)
_SCHEDULE = (
    "timezone overlap catch_up catch_up_max grace jitter start end max_fires from_end follows soft_start tag"
)  # fmt: skip
_LETTERS = "task queue tag metadata since reason limit"

OPTIONS = {
    "enqueue": (
        "args inputs final_vars pipeline task tasks wait follow wait_timeout delay at key unique unique_for "
        f"on_conflict tag on_exit {_JOB}"
    ),
    "run": (
        "args inputs final_vars pipeline task tasks max_attempts timeout isolation max_memory max_cpu "
        "max_open_files tag on_exit"
    ),
    "retry": "why",
    "requeue": f"all {_LETTERS} dry_run inputs why to_queue delay priority max_attempts timeout",
    "cancel": "why",
    "worker": (
        "tasks concurrency processes queues burst until_finished at_most max_jobs max_jobs_per_process max_memory "
        "task_concurrency grace connect_timeout health_port health_host scheduler jobs_dir log_level dependencies"
    ),
    "scheduler": "once tasks connect_timeout",
    "schedules": "tag",
    "schedules add": f"name args inputs final_vars pipeline task tasks why on_exit {_SCHEDULE} {_JOB}",
    "schedules update": f"why {_SCHEDULE} {_JOB}",
    "schedules rm": "why",
    "schedules pause": "note",
    "schedules resume": "why",
    "schedules run": "wait follow wait_timeout why",
    "schedules next": "count",
    "schedules explain": "timezone count",
    "backfill": f"from to every cron timezone max_active rerun dry_run final_vars tasks why {_JOB}",
    "scan": "watch once",
    "top": "once refresh",
    "snapshot": "limit",
    "jobs": "status name queue tag metadata since limit before watch",
    "dead-letters": f"{_LETTERS} before",
    "workers": "queue seen_within",
    "workers for-task": "seen_within",
    "status": "attempt",
    "watch": "wait_timeout once no_log",
    "result": "wait wait_timeout load",
    "logs": "follow attempt node",
    "tasks": "tasks",
    "audit": "since subject verb actor limit",
    "strike": "drop why",
    "restore": "why",
    "pause": "why",
    "resume": "why",
}
"""By command; a test compares them with what the parser knows."""

EVERYWHERE = {
    "--url": "PENSTOCK_BACKEND",
    "--ledger": "PENSTOCK_LEDGER",
    "--config": "PENSTOCK_CONFIG",
    "--project": "PENSTOCK_PROJECT",
    "--json": "PENSTOCK_JSON",
    "--verbose": "PENSTOCK_VERBOSE",
    "--quiet": "PENSTOCK_QUIET",
    "--no-color": "PENSTOCK_NO_COLOR",
}
"""The variables of the options that every command has; the first three are read with the settings."""


def option_variable(command: str, option: str) -> str:
    """Name the variable of an option: ``worker``, ``--burst`` is ``PENSTOCK_WORKER_BURST``."""
    words = [*command.split(), option.lstrip("-")]
    return "_".join(["PENSTOCK", *words]).replace("-", "_").upper()


@lru_cache(maxsize=1)
def option_variables() -> frozenset[str]:
    """Name the variables of the options of all commands."""
    return frozenset(option_variable(command, option) for command, all_ in OPTIONS.items() for option in all_.split())
