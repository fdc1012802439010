"""A Rio app with periodic jobs: `rio run` in this folder, or `python app.py`, then open the page it names.

With rio-jobs the second import would read `import rio_jobs`, and the rest would be the same.
"""

from datetime import datetime, timedelta
from pathlib import Path

import rio

import penstock.rio as rio_jobs

scheduler = rio_jobs.JobScheduler(keep_past_runs_for=timedelta(days=7), keep_past_n_runs=20)

FEEDS = ("weather", "exchange rates", "headlines")
HERE = Path(__file__).parent


@scheduler.job(timedelta(minutes=15), wait_for_initial_interval=False)
async def refresh_feeds(run: rio_jobs.Run) -> None:
    """Runs on the app's own loop, so it may use what the app has open."""
    run.app.default_attachments  # noqa: B018 - the app is there for whatever a job needs of it
    for number, feed in enumerate(FEEDS):
        run.status_message = f"Reading {feed}"
        run.progress = number / len(FEEDS)
    run.progress = 1.0


@scheduler.job(timedelta(hours=1), wait_for_initial_interval=False)
def count_files(run: rio_jobs.Run) -> timedelta | None:
    """Blocks a thread of its own, and no page of the app."""
    files = sum(path.is_file() for path in HERE.rglob("*"))
    run.status_message = f"{files} files"
    return timedelta(minutes=5) if files > 1000 else None


@scheduler.job(timedelta(days=1), name="Nightly report")
def report(run: rio_jobs.Run) -> datetime:
    """Says itself when it runs next: tomorrow at two, local time."""
    run.status_message = "Written"
    return datetime.now().replace(hour=2, minute=0, second=0, microsecond=0) + timedelta(days=1)  # noqa: DTZ005 - local


@scheduler.job(timedelta(days=1), name="Move old data", wait_for_initial_interval=False, soft_start=False)
def move_old_data(run: rio_jobs.Run) -> str:
    """Once, when the app starts."""
    run.log("nothing to move")
    return "never"


@scheduler.job(timedelta(minutes=30), name="Ask the old server", wait_for_initial_interval=False, soft_start=False)
async def ask_the_old_server(run: rio_jobs.Run) -> None:
    """Fails, is shown to have failed, and is tried again after the interval."""
    raise ConnectionError("no route to old.example.com")


class Page(rio.Component):
    """Both views, beside each other where there is room."""

    def build(self) -> rio.Component:
        """Draw the page."""
        views = (
            _titled("Jobs", rio_jobs.components.JobsView(scheduler)),
            _titled("Runs", rio_jobs.components.RunsView(scheduler)),
        )
        if self.session.window_width < 60:
            return rio.Column(*views, spacing=2, margin=1, align_y=0)
        return rio.Row(*views, proportions="homogeneous", spacing=2, margin=2, align_y=0)


def _titled(title: str, view: rio.Component) -> rio.Component:
    return rio.Column(rio.Text(title, style="heading2"), view, spacing=1, align_y=0)


app = rio.App(build=Page, name="Feeds")
app._add_extension(scheduler)  # noqa: SLF001 - Rio 0.12 has no public way

if __name__ == "__main__":
    app.run_as_web_server(host="127.0.0.1", port=8000)
