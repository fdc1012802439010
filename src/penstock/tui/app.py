"""The screen itself: two tables, the lines that a run wrote, and keys that act."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, RichLog, Static

from penstock.cli import show
from penstock.core.exceptions import PenstockError
from penstock.core.visible import visible
from penstock.job.lifecycle import State, shown_state
from penstock.job.models import Job
from penstock.job.schedules import SCHEDULE
from penstock.tui import draw
from penstock.tui.snapshot import Row, Snapshot, take

if TYPE_CHECKING:
    from penstock.client import JobQueue

_LINES = 500
_HELP = """\
r      run the selected function now, or that of the selected run
t      retry the selected run, if it has ended: a new job with the same input
c      cancel the selected run, or the one that is running of the selected function
p      pause or resume its schedule
Enter  all about the selected run
Tab    go from the functions to the runs to the log
/      show only what has this in its name; Esc shows all again
g      look again now
q      quit

What is listed as a run is a job; `penstock logs ID` and `penstock status ID` tell more."""


class Page(ModalScreen[None]):
    """A text over the screen, until a key closes it."""

    BINDINGS: ClassVar[list[Any]] = [("escape,q,enter,question_mark", "dismiss", "Close")]
    CSS = """
    Page { align: center middle; }
    Page > VerticalScroll { width: 90%; height: auto; max-height: 90%; border: round $primary; background: $surface;
        padding: 0 1; }
    """

    def __init__(self, title: str, content: Text) -> None:
        super().__init__()
        self._title = title
        self._content = show.seen(content)

    def compose(self) -> ComposeResult:
        """See Textual."""
        with VerticalScroll() as box:
            box.border_title = _title(self._title)
            box.border_subtitle = "Esc closes"
            yield Static(self._content)

    def on_mount(self) -> None:
        """Let the arrow keys scroll."""
        self.query_one(VerticalScroll).focus()


class Table(DataTable[Text]):
    """A table whose own keys stand in the line of keys."""

    BINDINGS: ClassVar[list[Any]] = [
        Binding("enter", "select_cursor", "Run detail"),
        Binding("tab", "app.focus_next", "Functions/Runs/Log"),
    ]


class Top(App[None]):
    """``penstock top``. Asks the client in threads; what it gets is drawn in the screen's own."""

    TITLE = "penstock"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: auto; max-height: 7; padding: 0 1; }
    DataTable { height: 1fr; min-height: 4; border: round $primary 40%; scrollbar-size-horizontal: 0; }
    DataTable:focus { border: round $primary; }
    #functions { height: 3fr; }
    #runs { height: 3fr; }
    #log { height: 2fr; min-height: 4; border: round $primary 40%; padding: 0 1; }
    #log:focus { border: round $primary; }
    #filter { display: none; height: 3; }
    #filter.shown { display: block; }
    """
    BINDINGS: ClassVar[list[Any]] = [
        Binding("r", "run_now", "Run now"),
        Binding("t", "retry", "Retry"),
        Binding("c", "cancel", "Cancel"),
        Binding("p", "pause", "Pause/Resume"),
        Binding("slash", "filter", "Filter"),
        Binding("question_mark", "help", "Help"),
        Binding("g", "look", "Look again", show=False),
        Binding("escape", "unfilter", "Show all", show=False),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, queue: JobQueue, *, refresh_s: float) -> None:
        """Set the screen up; it asks ``queue`` again every ``refresh_s`` seconds."""
        super().__init__()
        self._queue = queue
        self._refresh_s = refresh_s
        self._filter = ""
        self._rows: dict[str, Row] = {}
        self._jobs: dict[str, Job] = {}
        self._shown_log: tuple[str, int] = ("", -1)
        self.snapshot: Snapshot | None = None
        """What is on the screen."""

    def compose(self) -> ComposeResult:
        """See Textual."""
        yield Static("looking ...", id="head")
        with Vertical():
            yield Table(id="functions", cursor_type="row", zebra_stripes=True)
            yield Table(id="runs", cursor_type="row", zebra_stripes=True)
            yield RichLog(id="log", max_lines=_LINES, wrap=False)
        yield Input(placeholder="part of a name", id="filter")
        yield Footer()

    def on_mount(self) -> None:
        """Look for the first time, and again and again."""
        self._functions.add_columns(*draw.FUNCTION_COLUMNS)
        self._runs.add_columns(*draw.RUN_COLUMNS)
        self._functions.border_title, self._runs.border_title = "functions", "runs"
        self._lines.border_title = "log"
        self._functions.focus()
        self.action_look()
        self.set_interval(self._refresh_s, self.action_look)

    @property
    def _functions(self) -> Table:
        return self.query_one("#functions", Table)

    @property
    def _runs(self) -> Table:
        return self.query_one("#runs", Table)

    @property
    def _lines(self) -> RichLog:
        return self.query_one("#log", RichLog)

    # -- looking ------------------------------------------------------------------------------------------------------

    @work(thread=True, exclusive=True, group="look")
    def action_look(self) -> None:
        """Ask for everything again."""
        try:
            snapshot = take(self._queue)
        except PenstockError as error:
            self.call_from_thread(self._draw_head, str(error))
            return
        self.call_from_thread(self._draw, snapshot)

    def _draw(self, snapshot: Snapshot) -> None:
        if not self._stands:
            return
        self.snapshot = snapshot
        self._draw_head()
        rows = [row for row in snapshot.rows if self._fits(row.name) or self._fits(row.runs)]
        jobs = [job for job in snapshot.jobs if self._fits(job.name)]
        self._rows = {row.name: row for row in rows}
        self._jobs = {job.id: job for job in jobs}
        short = show.short_ids(list(self._jobs))
        _fill(self._functions, {name: draw.function_cells(row, snapshot.at) for name, row in self._rows.items()})
        if not self._runs.has_focus:
            self._runs.move_cursor(row=0, animate=False)  # who looks elsewhere wants to see the newest
        _fill(self._runs, {key: draw.run_cells(job, snapshot.at, short[key]) for key, job in self._jobs.items()})
        filtered = f"  (only: {self._filter})" if self._filter else ""
        self._functions.border_title = _title(f"functions {len(rows)}{filtered}")
        self._runs.border_title = _title(f"runs, the newest {len(jobs)}{filtered}")
        self._show_log()

    @property
    def _stands(self) -> bool:
        """Whether there is still something to draw on: an answer may come when the screen is being taken down."""
        return bool(self.query("#head") and self.query("#functions") and self.query("#runs") and self.query("#log"))

    def _draw_head(self, trouble: str = "") -> None:
        if not self._stands:
            return
        if self.snapshot is None:
            self.query_one("#head", Static).update(show.seen(Text(f"⚠ {trouble}", style="bold red")))
        else:
            self.query_one("#head", Static).update(
                show.seen(Text("\n").join(draw.head(self.snapshot, trouble=trouble)))
            )

    def _fits(self, name: str) -> bool:
        return self._filter.lower() in name.lower()

    # -- what is selected ---------------------------------------------------------------------------------------------

    @property
    def _row(self) -> Row | None:
        """The selected function; where the runs have the focus, that of the selected run."""
        if self._runs.has_focus:
            job = self._job
            name = None if job is None else job.metadata.get(SCHEDULE, job.name)
            return next((row for row in self._rows.values() if name in (row.name, row.runs)), None)
        key = _selected(self._functions)
        return None if key is None else self._rows.get(key)

    @property
    def _job(self) -> Job | None:
        """The selected run; where the functions have the focus, the one that runs, or the newest."""
        if self._runs.has_focus:
            key = _selected(self._runs)
            return None if key is None else self._jobs.get(key)
        row = self._row
        return None if row is None else row.live or next(iter(row.jobs), None)

    @on(DataTable.RowHighlighted)
    @on(DataTable.RowSelected)
    def _moved(self, event: Any) -> None:
        if isinstance(event, DataTable.RowSelected):
            self.action_detail()
        self._show_log()

    def on_descendant_focus(self) -> None:
        """Another table has the focus: show the log of what is selected there."""
        if self._runs.has_focus or self._functions.has_focus:
            self._show_log()

    def _show_log(self) -> None:
        if not self._stands or self._lines.has_focus:
            return
        job = self._job
        if job is None:
            self._lines.clear()
            self._shown_log, self._lines.border_title = ("", -1), "log"
        else:
            self._read_log(job)

    @work(thread=True, exclusive=True, group="log")
    def _read_log(self, job: Job) -> None:
        try:
            lines = [show.log_text(line) for line in self._queue.job(job.id).logs()[-_LINES:]]
        except PenstockError as error:
            lines = [Text(str(error), style="red")]
        if job.error is not None and job.state is State.FAILED:
            told = job.error.traceback.rstrip() or show.error_line(job)
            lines += [Text(line, style="red") for line in told.splitlines()]
        self.call_from_thread(self._draw_log, job, lines)

    def _draw_log(self, job: Job, lines: list[Text]) -> None:
        if self._shown_log == (job.id, len(lines)) or not self._stands:
            return
        self._shown_log = (job.id, len(lines))
        short = show.short_ids([job.id])[job.id]
        self._lines.border_title = _title(f"log: {job.name} {short} (attempt {job.attempt})")
        self._lines.clear()
        for line in lines or [Text("nothing was written", style="dim")]:
            self._lines.write(show.seen(line))

    # -- acting -------------------------------------------------------------------------------------------------------

    def action_run_now(self) -> None:
        """Make a job of the selected function."""
        row = self._row
        if row is None:
            self.notify("there is no function to run", severity="warning")
        elif row.schedule is not None:
            self._act(lambda: f"{row.name}: job {_short(self._queue.schedules.trigger(row.name).id)}")
        else:
            self._act(lambda: f"{row.name}: job {_short(self._queue.enqueue(row.name).id)}")

    def action_retry(self) -> None:
        """Run the selected job again."""
        if (job := self._job) is not None:
            self._act(
                lambda: f"{job.name}: job {_short(self._queue.job(job.id).retry().id)}, again of {_short(job.id)}"
            )

    def action_cancel(self) -> None:
        """Cancel the selected job."""
        if (job := self._job) is not None:
            self._act(lambda: f"{job.name} {_short(job.id)}: {self._queue.job(job.id).cancel()}")

    def action_pause(self) -> None:
        """Pause the selected schedule, or let it go on."""
        row = self._row
        if row is None or row.schedule is None:
            self.notify("there is no schedule to pause", severity="warning")
        elif row.schedule.pause is None:
            self._act(lambda: f"{self._queue.schedules.pause(row.name).name} is paused")
        else:
            self._act(lambda: f"{self._queue.schedules.resume(row.name).name} goes on")

    @work(thread=True, group="act")
    def _act(self, verb: Callable[[], str]) -> None:
        try:
            told, severity = verb(), "information"
        except PenstockError as error:
            told, severity = str(error), "error"
        self.call_from_thread(self.notify, visible(told), severity=severity, markup=False)
        self.call_from_thread(self.action_look)

    def action_detail(self) -> None:
        """Show all about the selected run."""
        if (job := self._job) is not None:
            self._read_detail(job)

    @work(thread=True, exclusive=True, group="detail")
    def _read_detail(self, job: Job) -> None:
        try:
            handle = self._queue.job(job.id)
            job, now = handle.refresh(), self._queue.now()
            parts = [Text.assemble(show.state_text(shown_state(job, now)), f"  {job.name}  ", (job.id, "dim"))]
            if job.error is not None:
                parts.append(Text(show.error_line(job), style="red"))
            facts = {"created": show.iso(job.created_at), "took": show.took(job, now), "tries": show.tries(job),
                     "queue": job.queue, "worker": job.owner or "", "message": job.message or ""}  # fmt: skip
            parts += [Text.assemble((f"{name:<9}", "dim"), told) for name, told in facts.items() if told]
            parts += [
                Text(f"try {one.number}: {one.outcome or 'running'} {show.ago(one.started_at, now)}")
                for one in handle.attempts()
            ]
            parts += [Text(), *(show.log_text(line) for line in handle.logs()[-_LINES:])]
            if job.error is not None and job.error.traceback:
                parts += [Text(), Text(job.error.traceback.rstrip(), style="red")]
        except PenstockError as error:
            self.call_from_thread(self.notify, visible(str(error)), severity="error", markup=False)
            return
        self.call_from_thread(self.push_screen, Page(job.name, Text("\n").join(parts)))

    def action_help(self) -> None:
        """Tell the keys."""
        self.push_screen(Page("keys", Text(_HELP)))

    # -- filtering ----------------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Ask for a part of a name."""
        field = self.query_one("#filter", Input)
        field.add_class("shown")
        field.focus()

    def action_unfilter(self) -> None:
        """Show all again."""
        self.query_one("#filter", Input).value = ""
        self._close_filter()

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        self._filter = event.value
        if self.snapshot is not None:
            self._draw(self.snapshot)

    @on(Input.Submitted, "#filter")
    def _close_filter(self) -> None:
        self.query_one("#filter", Input).remove_class("shown")
        self._functions.focus()


def _fill(table: Table, lines: dict[str, list[Text]]) -> None:
    """Show these lines, each by its key. The cursor stays on its line, or at the top where it was not moved."""
    key, at, offset = _selected(table), table.cursor_row, table.scroll_offset
    at_top = at == 0 and not table.has_focus
    table.clear()
    for name, cells in lines.items():
        table.add_row(*map(show.seen, cells), key=name)
    names = list(lines)
    if not names or at_top:
        table.scroll_home(animate=False)
        return
    table.move_cursor(row=names.index(key) if key in lines else min(at, len(names) - 1), animate=False)
    table.scroll_to(y=offset.y, animate=False)


def _selected(table: Table) -> str | None:
    if not table.row_count:
        return None
    return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value


def _title(text: str) -> Any:
    """Return the title of a box: a str would be read as Textual's markup."""
    return show.seen(Text(text))


def _short(job_id: str) -> str:
    return show.short_ids([job_id])[job_id]


__all__ = ["Top"]
