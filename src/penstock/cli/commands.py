"""The table of commands, and the help page that is printed from it.

`penstock --help` is answered from here alone: loading the argument parser takes longer than a shell user should
wait for a list of words. A test compares this page with what the parser knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Command(NamedTuple):
    """One command: ``target`` is imported when the command is used."""

    name: str
    target: str
    group: str
    help: str
    usage: str = "[OPTIONS]"


COMMANDS = (
    Command(
        "init",
        "penstock.cli.starting:init",
        "Start",
        "Write a first config, a first task and its test",
        "[DIR] [OPTIONS]",
    ),
    Command(
        "enqueue",
        "penstock.cli.submit:enqueue",
        "Submit",
        "Submit a task, a pipeline, or -- a command",
        "NAME [KEY=VALUE...] [OPTIONS]  |  [OPTIONS] -- COMMAND [ARGS...]",
    ),
    Command(
        "run",
        "penstock.cli.submit:run",
        "Submit",
        "Run it here and now, recorded all the same",
        "NAME [KEY=VALUE...] [OPTIONS]  |  [OPTIONS] -- COMMAND [ARGS...]",
    ),
    Command(
        "retry", "penstock.cli.change:retry", "Submit", "Run final jobs again, with the same input", "REF... [OPTIONS]"
    ),
    Command(
        "requeue",
        "penstock.cli.letters:requeue",
        "Submit",
        "Run failed jobs again, with other inputs if need be",
        "REF [KEY=VALUE...] [OPTIONS]  |  --all [FILTERS] [OPTIONS]",
    ),
    Command(
        "cancel", "penstock.cli.change:cancel", "Submit", "Cancel jobs, or stop those that run", "REF... [OPTIONS]"
    ),
    Command("worker", "penstock.cli.work:worker", "Work", "Work jobs off until told to stop", "[QUEUE...] [OPTIONS]"),
    Command("scheduler", "penstock.cli.scheduling:scheduler", "Work", "Make the jobs of schedules, run none"),
    Command("schedules", "penstock.cli.schedules:schedules", "Schedule", "List what makes jobs by itself"),
    Command(
        "schedules add",
        "penstock.cli.schedules:add",
        "Schedule",
        "Run a task, a pipeline or a command by a rule",
        "WHAT RULE [KEY=VALUE...] [OPTIONS]  |  RULE [OPTIONS] -- COMMAND [ARGS...]",
    ),
    Command("schedules update", "penstock.cli.schedules:update", "Schedule", "Change one", "NAME [RULE] [OPTIONS]"),
    Command("schedules rm", "penstock.cli.schedules:remove", "Schedule", "Take some away", "NAME... [OPTIONS]"),
    Command(
        "schedules pause", "penstock.cli.schedules:pause", "Schedule", "Let some make no jobs", "NAME... [OPTIONS]"
    ),
    Command("schedules resume", "penstock.cli.schedules:resume", "Schedule", "Let them go on", "NAME... [OPTIONS]"),
    Command("schedules run", "penstock.cli.schedules:trigger", "Schedule", "Make a job of one now", "NAME [OPTIONS]"),
    Command("schedules next", "penstock.cli.schedules:upcoming", "Schedule", "Print fire times", "NAME [OPTIONS]"),
    Command("schedules show", "penstock.cli.schedules:show_one", "Schedule", "Show all of one", "NAME [OPTIONS]"),
    Command("schedules explain", "penstock.cli.schedules:explain", "Schedule", "Say a rule in words", "RULE [OPTIONS]"),
    Command(
        "backfill",
        "penstock.cli.filling:backfill",
        "Schedule",
        "Make the jobs of past fire times",
        "NAME [KEY=VALUE...] --from TIME --to TIME [OPTIONS]",
    ),
    Command("scan", "penstock.cli.scan:scan", "Work", "Find scheduled functions in the folders", "[PATH...] [OPTIONS]"),
    Command("top", "penstock.cli.top:top", "Look", "Show functions, runs and logs on one screen"),
    Command("snapshot", "penstock.cli.overview:snapshot", "Look", "Count jobs; show what runs, what comes, who works"),
    Command("queues", "penstock.cli.overview:queues", "Look", "List queues: what waits, since when, who listens"),
    Command("jobs", "penstock.cli.lists:jobs", "Look", "List submitted jobs, newest first"),
    Command("dead-letters", "penstock.cli.letters:dead_letters", "Look", "List failed jobs that nobody has requeued"),
    Command("workers", "penstock.cli.workers:workers", "Look", "List the workers, how they are, what they can run"),
    Command(
        "workers for-task", "penstock.cli.workers:for_task", "Look", "List those that can run a task", "NAME [OPTIONS]"
    ),
    Command("status", "penstock.cli.look:status", "Look", "Show one job: attempts, nodes, error", "[REF] [OPTIONS]"),
    Command("explain", "penstock.cli.reasons:explain", "Look", "Say why a job is where it is", "REF [OPTIONS]"),
    Command("watch", "penstock.cli.following:watch", "Look", "Tell what happens to a job, live", "REF [OPTIONS]"),
    Command("result", "penstock.cli.look:result", "Look", "Print what a job returned", "REF [OPTIONS]"),
    Command("logs", "penstock.cli.look:logs", "Look", "Print what a job wrote; -f follows", "REF [OPTIONS]"),
    Command(
        "tasks", "penstock.cli.lists:tasks", "Look", "List what can be run: tasks and pipelines", "[NAME] [OPTIONS]"
    ),
    Command("audit", "penstock.cli.reasons:audit", "Look", "List what was done by hand: who, when, what, why"),
    Command(
        "strike",
        "penstock.cli.steer:strike",
        "Steer",
        "Let no job of a task, or with such an argument, begin",
        'TASK ["NAME OP VALUE"] [OPTIONS]',
    ),
    Command("restore", "penstock.cli.steer:restore", "Steer", "Take a strike back", 'TASK ["NAME OP VALUE"] [OPTIONS]'),
    Command(
        "pause", "penstock.cli.steer:pause", "Steer", "Let a queue, a task or a worker rest", "WHAT NAME [OPTIONS]"
    ),
    Command("resume", "penstock.cli.steer:resume", "Steer", "Let it go on", "WHAT NAME [OPTIONS]"),
    Command("rules", "penstock.cli.steer:rules", "Steer", "List the strikes and pauses that hold"),
    Command("backends", "penstock.cli.setup:backends", "Setup", "List the engines and what each can do"),
    Command("doctor", "penstock.cli.setup:doctor", "Setup", "Check config, ledger, engine, tasks, workers"),
    Command("config show", "penstock.cli.setup:show_config", "Setup", "Print every setting with its origin"),
)

GLOBALS = (
    ("--url, --backend URL", "The engine, such as saq+redis://localhost"),
    ("--ledger URL", "Where jobs are recorded, such as sqlite:///ledger.db"),
    ("--config FILE", "Read this file instead of looking for one"),
    ("--project DIR", "Look for the configuration from this folder upwards"),
    ("--json", "One JSON document, or JSON Lines for lists"),
    ("-v, --verbose", "Say more; tracebacks; twice for debugging"),
    ("-q, --quiet", "Say only what was asked for"),
    ("--no-color", "No colours (also: NO_COLOR, or a pipe)"),
    ("-h, --help", "What a command does and takes"),
    ("--version", "Which version this is"),
)

REF = """\
REF is a job's id, a unique beginning of it (4 letters or more), or the name of
a task, a pipeline or a schedule, which stands for its latest job."""


def help_page(*, color: bool, plugged: Mapping[str, str] | None = None) -> str:
    """Return the page that ``penstock --help`` prints; ``plugged`` says what the commands of plugins do."""

    def bold(text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if color else text

    def cyan(text: str) -> str:
        return f"\x1b[36m{text}\x1b[0m" if color else text

    lines = [
        f"{bold('penstock')} runs data pipelines as durable jobs on the job queue you already have.",
        "",
        f"{bold('Usage:')} penstock COMMAND [OPTIONS]     (penstock COMMAND --help tells more)",
    ]
    for group in dict.fromkeys(command.group for command in COMMANDS):
        lines += ["", bold(group)]
        named = [command for command in COMMANDS if command.group == group]
        width = max(12, *(len(command.name) for command in named))
        lines += [f"  {cyan(f'{c.name:<{width}}')} {c.help}" for c in named]
    if plugged:
        width = max(12, *map(len, plugged))
        lines += ["", bold("Plugins"), *(f"  {cyan(f'{name:<{width}}')} {told}" for name, told in plugged.items())]
    lines += ["", bold("Everywhere")]
    lines += [f"  {cyan(f'{option:<21}')} {told}" for option, told in GLOBALS]
    lines += ["", REF]
    return "\n".join(lines)
