"""How schedules look: in words, in tables, in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from penstock.cli import show
from penstock.core.durations import format_duration
from penstock.core.secrets import mask_data
from penstock.core.triggers import At, Cron, Every, zone_of
from penstock.job.lifecycle import State, shown_state
from penstock.job.models import Job, shown_spec
from penstock.job.schedules import Plan, Schedule, TickEvent
from penstock.schedules import Fire

STATES: dict[str, tuple[str, str]] = {
    "active": ("●", "green"),
    "paused": ("‖", "yellow"),
    "over": ("✓", "dim"),
}
_WIDE = 120
_NARROW = 100
_HALF_A_YEAR = timedelta(days=182)
COLUMNS = ("name", "state", "rule", "explained", "timezone", "next_at", "last_job", "last_state", "last_at", "fired",
           "skipped", "runs", "declared_in", "held")  # fmt: skip
FIRE_COLUMNS = ("fire_at", "local", "change")


def state_of(schedule: Schedule) -> str:
    """Return ``active``, ``paused`` or ``over``: it will never fire again by itself."""
    if schedule.pause is not None:
        return "paused"
    return "over" if schedule.over else "active"


def state_text(schedule: Schedule) -> Text:
    """Return the state with its sign and colour."""
    state = state_of(schedule)
    sign, style = STATES[state]
    return Text(f"{sign} {state}", style=style)


def rule_text(plan: Plan) -> str:
    """Write a rule as it may be given again on a command line."""
    match plan.rule:
        case Cron(expr=expr):
            return expr
        case Every(seconds=seconds_between):
            return f"every {_exact(seconds_between)}"
        case At(instant=instant):
            return instant.astimezone(zone_of(plan.timezone)).isoformat()
        case rule:
            return f"every {_exact(rule.seconds)}"


def explained(plan: Plan) -> str:
    """Say a rule in words."""
    if isinstance(plan.rule, At):
        return f"Once at {local(plan.rule.instant, plan.timezone)}"
    return plan.rule.explain()


def declared_in(plan: Plan) -> str:
    """Say who declared a schedule; empty for one that was made by hand."""
    return plan.where or plan.source


def local(at: datetime, timezone: str, *, since: datetime | None = None) -> str:
    """Write an instant as the clocks of a zone show it: ``22 Nov 2026 02:00 CET``.

    The year is left out where it lies within half a year of ``since``.
    """
    there = at.astimezone(zone_of(timezone))
    near = since is not None and abs(at - since) < _HALF_A_YEAR
    seconds = f":{there:%S}" if there.second or there.microsecond else ""
    return f"{there.day} {there:{'%b' if near else '%b %Y'} %H:%M}{seconds} {there.tzname() or timezone}"


def next_text(schedule: Schedule, now: datetime) -> str:
    """Say when a schedule fires next, in its zone and from now."""
    if schedule.pause is not None:
        note = f": {schedule.pause.note}" if schedule.pause.note else ""
        by = f" by {schedule.pause.by}" if schedule.pause.by else ""
        return f"paused{by} {show.ago(schedule.pause.at, now)}{note}"
    if schedule.next_at is None:
        return "" if schedule.awaits is None else "after the run that is under way"
    when = show.ago(schedule.next_at, now) if schedule.next_at > now else "due"
    return f"{local(schedule.next_at, schedule.plan.timezone, since=now)}  {when}"


def last_text(last: Job | None, now: datetime) -> Text:
    """Say what became of the newest job."""
    if last is None:
        return Text("–", style="dim")
    state = shown_state(last, now)
    text = show.state_text(state, word=last.state is not State.SUCCEEDED)
    return text.append(f" {show.when(last, now)}", style="dim")


def skipped(schedule: Schedule) -> int:
    """Count the fire times that made no job."""
    return sum(count for what, count in schedule.counts.items() if what.startswith("skipped"))


def schedules_table(listed: Sequence[tuple[Schedule, Job | None]], now: datetime, *, width: int) -> Table:
    """Return a list of schedules for a terminal of that width; narrow ones leave out who declared them."""
    wide, narrow = width >= _WIDE, width < _NARROW
    rows: list[list[Text | str]] = []
    for schedule, last in listed:
        plan = schedule.plan
        runs = "" if narrow or plan.template.name == schedule.name else f"  → {plan.template.name}"
        rows.append([
            state_text(schedule),
            Text.assemble((show.cut(schedule.name, 32), "bold"), (show.cut(runs, 24), "dim")),
            explained(plan).removesuffix(f" ({plan.timezone})"),
            next_text(schedule, now),
            last_text(last, now),
            *([Text(declared_in(plan) or "by hand", style="dim")] if wide else []),
        ])  # fmt: skip
    header = ["state", "name", "rule", "next", "last", *(["declared in"] if wide else [])]
    return show.table(header, rows, width=width, gives=[*([5] if wide else []), 2, 1, 3])


def row(schedule: Schedule, last: Job | None, now: datetime, *, held: Sequence[str]) -> list[str]:
    """Return the cells of `COLUMNS`."""
    plan = schedule.plan
    return [
        schedule.name, state_of(schedule), rule_text(plan), explained(plan), plan.timezone, show.iso(schedule.next_at),
        schedule.last_job or "", "" if last is None else shown_state(last, now),
        "" if last is None else show.iso(last.finished_at or last.started_at or last.created_at),
        str(schedule.counts.get("fired", 0)), str(skipped(schedule)), plan.template.name, declared_in(plan),
        "; ".join(held),
    ]  # fmt: skip


def fires_table(fires: Sequence[Fire], now: datetime) -> Table:
    """Return fire times to come, days on which the clocks change marked."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False, show_edge=False)
    for fire in fires:
        when = f"{fire.at:%a} {fire.at.day:>2} {fire.at:%b %Y %H:%M:%S} {fire.at.tzname() or ''}"
        mark = Text(f"◐ {fire.change}", style="yellow") if fire.change else Text("")
        table.add_row(Text(when), Text(show.ago(fire.at, now), style="dim"), mark)
    return table


def fire_row(fire: Fire) -> list[str]:
    """Return the cells of `FIRE_COLUMNS`."""
    return [show.iso(_utc(fire.at)), fire.at.isoformat(), fire.change]


def facts(schedule: Schedule, last: Job | None, now: datetime, *, held: Sequence[str]) -> list[tuple[str, str]]:
    """Return what there is to say of a schedule, each with its name."""
    plan, template = schedule.plan, schedule.plan.template
    told = [
        ("runs", f"{template.kind} {template.name}"),
        ("input", msgspec.json.encode(shown_spec(template.spec.encode())).decode()),
        ("rule", f"{rule_text(plan)}  {explained(plan)}"),
        ("time zone", plan.timezone),
        ("next", next_text(schedule, now)),
        ("held back", "; ".join(held)),
        ("last", "" if last is None else f"{last_text(last, now).plain}  {last.id}"),
        ("overlap", plan.overlap),
        ("catch up", _catch_up(plan)),
        ("jitter", format_duration(plan.jitter_s) if plan.jitter_s else ""),
        ("starts", "" if plan.start_at is None else local(plan.start_at, plan.timezone)),
        ("ends", "" if plan.end_at is None else local(plan.end_at, plan.timezone)),
        ("at most", "" if plan.max_fires is None else f"{schedule.fired} of {plan.max_fires} fire times"),
        ("soft start", "yes" if plan.soft_start else ""),
        ("tags", ", ".join(plan.tags)),
        ("queue", f"{template.queue}, priority {template.priority}"),
        ("tries", f"{template.max_attempts}"),
        ("timeout", "" if template.timeout_s is None else format_duration(template.timeout_s)),
        ("waiting", f"{len(schedule.waiting)} for the end of the job before" if schedule.waiting else ""),
        ("counted", ", ".join(f"{count} {what}" for what, count in sorted(schedule.counts.items()))),
        ("declared in", declared_in(plan) or "made by hand"),
        ("description", plan.description),
        ("made", show.ago(schedule.made_at, now)),
        ("revision", f"{schedule.revision}, changed {show.ago(schedule.changed_at, now)}"),
    ]  # fmt: skip
    return [(name, text) for name, text in told if text]


def _catch_up(plan: Plan) -> str:
    bound = f", at most {plan.catch_up_max}" if plan.catch_up == "all" else ""
    patience = plan.grace_s
    grace = "" if plan.catch_up == "none" or patience is None else f", no later than {format_duration(patience)}"
    return f"{plan.catch_up}{bound}{grace}"


def events_table(events: Sequence[TickEvent], plan: Plan, now: datetime, *, width: int) -> Table:
    """Return what happened lately, newest first."""
    rows: list[list[Text | str]] = []
    for event in reversed(events):
        style = "" if event.what in ("fired", "manual") else "yellow"
        many = f" x {event.count}" if event.count > 1 else ""
        fire_at = "" if event.fire_at is None else local(event.fire_at, plan.timezone)
        rows.append([show.ago(event.at, now), Text(event.what + many, style=style), fire_at, event.job_id or ""])
    return show.table(("when", "what", "fire time", "job"), rows, width=width, gives=[1, 3])


def document(schedule: Schedule, last: Job | None, now: datetime, *, held: Sequence[str]) -> dict[str, Any]:
    """Return a schedule as a JSON document."""
    plan = schedule.plan
    fields = {name: getattr(schedule, name) for name in schedule.__struct_fields__ if name != "plan"}
    template = {name: getattr(plan.template, name) for name in plan.template.__struct_fields__}
    template |= {"spec": shown_spec(plan.template.spec.encode()), "metadata": mask_data(plan.template.metadata)}
    told = {name: getattr(plan, name) for name in plan.__struct_fields__ if name not in ("rule", "template")}
    return {
        "schema": "penstock.schedule/1",
        **fields,
        "state": state_of(schedule),
        "rule": {"text": rule_text(plan), "explained": explained(plan), **msgspec.to_builtins(plan.rule)},
        **told,
        "job": template,
        "last_state": None if last is None else shown_state(last, now),
        "held": held,
    }


def fire_document(fire: Fire) -> dict[str, str]:
    """Return a fire time to come as JSON."""
    return dict(zip(FIRE_COLUMNS, fire_row(fire), strict=True))


def _utc(at: datetime) -> datetime:
    return at.astimezone(zone_of("UTC"))


def _exact(seconds: float) -> str:
    """Write an interval so that it is read back as it is: ``90s``, ``1h30m``."""
    whole, rest = divmod(seconds, 1)
    if rest:
        return f"{seconds:g}s"
    told = ""
    left = int(whole)
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        told += f"{count}{unit}" if count else ""
    return told or "0s"
