"""The two views of rio-jobs: the jobs of a scheduler, and their newest runs.

Both read the ledger in a thread, when they are first shown and then every ten seconds, so a ledger that does not answer
stops no page.
"""

# No `from __future__ import annotations`: Rio reads the fields' types.

import functools
import logging
from datetime import UTC, datetime

import rio

from penstock.core.exceptions import PenstockError
from penstock.rio.scheduler import JobScheduler
from penstock.rio.shown import PastRun, ScheduledJob
from penstock.rio.words import length, moment

logger = logging.getLogger("penstock.rio")

ICON_SIZE = 2.2
REFRESH_S = 10
TROUBLE = "The ledger does not answer; this is what was last read."


class _Row(rio.Component):
    """One line of a list: an icon, a title, a bar, two dim lines, a button."""

    title: str
    told: str
    when: str
    progress: float | None
    icon: rio.Component
    button: rio.Component | None = None

    def build(self) -> rio.Component:
        lines = rio.Column(rio.Text(self.title, overflow="wrap"), spacing=0.3, grow_x=True, align_y=0.5)
        if self.progress is not None:
            lines.add(rio.ProgressBar(self.progress))
        for text in (self.told, self.when):
            if text:
                lines.add(rio.Text(text, style="dim", overflow="wrap"))
        row = rio.Row(self.icon, lines, spacing=0.8, margin=0.5)
        if self.button is not None:
            row.add(self.button)
        return row


def _icon(name: str, fill: str) -> rio.Component:
    return rio.Icon(name, fill=fill, min_width=ICON_SIZE, min_height=ICON_SIZE, align_y=0.5)  # type: ignore[arg-type]


def _spinner() -> rio.Component:
    return rio.ProgressCircle(min_size=ICON_SIZE, align_y=0.5)


def _nothing(text: str) -> rio.Component:
    return rio.Card(
        rio.Column(
            rio.Icon("material/history_toggle_off", fill="dim", min_width=3, min_height=3, align_x=0.5, align_y=0.5),
            rio.Text(text, justify="center", style="dim"),
            spacing=1,
            margin=1,
        )
    )


def _page(rows: rio.ListView, trouble: str) -> rio.Component:
    if not trouble:
        return rows
    return rio.Column(rio.Banner(text=trouble, style="warning"), rows, spacing=0.5)


class JobsView(rio.Component):
    """The jobs of a scheduler by their next run, with a button that runs one now."""

    scheduler: JobScheduler
    _jobs: list[ScheduledJob] | None = None
    _trouble: str = ""

    @rio.event.on_populate
    async def _on_populate(self) -> None:
        await self._look()

    @rio.event.periodic(REFRESH_S)
    async def _on_periodic(self) -> None:
        await self._look()

    async def _look(self) -> None:
        try:
            self._jobs = await self.scheduler.ajobs()
            self._trouble = ""
        except PenstockError as error:
            logger.warning("the jobs could not be read: %s", error)
            self._trouble = TROUBLE
        self.force_refresh()

    async def _on_run_now(self, name: str) -> None:
        try:
            await self.scheduler.arun_now(name)
        except PenstockError as error:
            logger.warning("job %s could not be run: %s", name, error)
        await self._look()

    def build(self) -> rio.Component:
        """Draw the list."""
        jobs = self._jobs if self._jobs is not None else self.scheduler.jobs_as_read()
        if not jobs:
            return _nothing("No jobs are scheduled")
        rows = rio.ListView(align_y=0)
        for job in jobs:
            rows.add(self._row(job))
        return _page(rows, self._trouble)

    def _row(self, job: ScheduledJob) -> rio.Component:
        now, zone = datetime.now(UTC), self.session.timezone
        icon, button = _icon("material/schedule", "dim"), None
        if job.doing in ("scheduled", "ended", "paused", "unscheduled"):
            button = rio.Tooltip(
                rio.IconButton(
                    "material/play_arrow:fill",
                    style="plain-text",
                    on_press=functools.partial(self._on_run_now, job.name),
                    min_size=ICON_SIZE,
                    align_y=0.5,
                ),
                tip="Run Now",
            )
        match job.doing:
            case "starting":
                when = "Waits for the app to start"
            case "running":
                icon = _spinner()
                when = f"Running since {moment(job.started_at, now, zone)}" if job.started_at else "Running"
            case "queued":
                held = job.status_message
                icon = _icon("material/pause_circle" if held else "material/hourglass_top", "dim")
                when = f"Held back: {held}" if held else "Waits for a free place"
            case "paused":
                icon, when = _icon("material/pause_circle", "dim"), "Paused"
                when += f": {job.status_message}" if job.status_message else ""
            case "unscheduled":
                icon = _icon("material/event_busy", "dim")
                when = "This job has been unscheduled and will not run again"
            case "ended":
                when = "About to be scheduled"
            case "scheduled":
                at = job.next_run_at
                when = f"Scheduled for {moment(at, now, zone)}" if at is not None else ""
        return _Row(
            title=job.title,
            told=job.status_message if job.doing == "running" else "",
            when=when,
            progress=job.progress if job.doing == "running" else None,
            icon=icon,
            button=button,
            key=job.name,
        )


class RunsView(rio.Component):
    """The 50 newest runs over all jobs of a scheduler, and how they ended."""

    scheduler: JobScheduler
    _runs: list[PastRun] | None = None
    _trouble: str = ""

    @rio.event.on_populate
    async def _on_populate(self) -> None:
        await self._look()

    @rio.event.periodic(REFRESH_S)
    async def _on_periodic(self) -> None:
        await self._look()

    async def _look(self) -> None:
        try:
            self._runs = await self.scheduler.aruns(50)
            self._trouble = ""
        except PenstockError as error:
            logger.warning("the runs could not be read: %s", error)
            self._trouble = TROUBLE
        self.force_refresh()

    def build(self) -> rio.Component:
        """Draw the list."""
        runs = self._runs if self._runs is not None else self.scheduler.runs_as_read()
        if not runs:
            return _nothing("No jobs have run yet")
        rows = rio.ListView(align_y=0)
        for run in runs:
            rows.add(self._row(run))
        return _page(rows, self._trouble)

    def _row(self, run: PastRun) -> rio.Component:
        after = length(run.finished_at - run.started_at) if run.finished_at is not None else ""
        match run.state:
            case "running":
                icon, text, ending = _spinner(), f"{run.title} is currently running", ""
            case "interrupted":
                icon, text = _icon("material/replay", "dim"), f"{run.title} was interrupted and will begin again"
                ending = ""
            case "succeeded":
                icon, text = _icon("material/check", "success"), f"{run.title} has completed successfully"
                ending = f", finished in {after}"
            case "cancelled":
                icon, text = _icon("material/block", "dim"), f"{run.title} has been cancelled"
                ending = f", cancelled after {after}"
            case "failed":
                icon, text = _icon("material/error", "danger"), f"{run.title} has failed with {run.error}"
                ending = f", failed after {after}"
        return _Row(
            title=text,
            told="",
            when=f"Started {moment(run.started_at, datetime.now(UTC), self.session.timezone)}{ending}",
            progress=None,
            icon=icon,
            key=run.job_id,
        )
