"""What every command is given: the global options, the queue they name, and where to write."""

from __future__ import annotations

import dataclasses
import logging
import os
import select
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.client import JobQueue, TasksNotLoadedWarning
from penstock.core.secrets import mask_known, mask_text
from penstock.core.visible import visible, visible_json
from penstock.run import current_run
from penstock.settings import Settings, load

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    from penstock.core.config import Config


@dataclasses.dataclass(kw_only=True)
class Session:
    """One call of the command line."""

    url: str | None = None
    ledger: str | None = None
    config: Path | None = None
    project: Path | None = None
    json: bool = False
    verbose: int = 0
    quiet: bool = False
    no_color: bool = False
    argv: tuple[str, ...] | None = None
    """What stood behind ``--``; None where there was no ``--``."""
    _queues: list[JobQueue] = dataclasses.field(default_factory=list[JobQueue])

    # -- the project --------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> Settings:
        """The configuration with its origins. Raises `ConfigError`."""
        flags = {"backend": self.url, "ledger": self.ledger}
        return load(
            self.project, file=self.config, flags={name: value for name, value in flags.items() if value is not None}
        )

    def look(self, *, tasks: Sequence[str] = ()) -> JobQueue:
        """Open the queue for a command that changes nothing: a ledger that nobody has made stays so, and is empty."""
        opened = self.queue(tasks=tasks)
        opened.looks_only = True
        return opened

    def queue(self, *, tasks: Sequence[str] = (), config: Config | None = None) -> JobQueue:
        """Open the queue; it is closed when the command ends. ``tasks`` come from the command line."""
        # A folder on the command line is meant from where the user stands, not from where the configuration lies.
        here = [str(Path(word).resolve()) if Path(word).exists() else word for word in words(tasks)]
        opened = JobQueue(config=config or self.settings.config, root=self.settings.root, tasks=here)
        self._queues.append(opened)
        return opened

    def close(self) -> None:
        """Close what was opened."""
        while self._queues:
            self._queues.pop().close()

    # -- writing ------------------------------------------------------------------------------------------------

    @cached_property
    def console(self) -> Console:
        """Data goes here: stdout."""
        return self._console(sys.stdout)

    @cached_property
    def err(self) -> Console:
        """Talk goes here: stderr."""
        return self._console(sys.stderr)

    def _console(self, stream: Any) -> Console:
        from rich.console import Console
        from rich.segment import Segment

        class QuietConsole(Console):
            def on_broken_pipe(self) -> None:
                raise BrokenPipeError

            def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
                for segment in super().render(renderable, options):
                    yield segment if segment.control else Segment(visible(segment.text), segment.style)

        plain = self.no_color or "NO_COLOR" in os.environ or not stream.isatty()
        return QuietConsole(
            file=stream, no_color=plain, highlight=False, soft_wrap=not stream.isatty(), emoji=False, markup=False
        )

    @property
    def pretty(self) -> bool:
        """Whether somebody looks at stdout: tables and colours, rather than tabs or JSON."""
        return not self.json and sys.stdout.isatty()

    def say(self, text: RenderableType) -> None:
        """Tell the person at the terminal something that is no data; silent with ``-q`` and ``--json``."""
        if not self.quiet and not self.json:
            self.err.print(text)

    def warn(self, text: str) -> None:
        """Tell the person at the terminal of trouble that is not the command's own; silent with ``-q``."""
        if not self.quiet:
            sys.stderr.write(told(f"penstock: warning: {text}\n"))

    def write(self, text: str) -> None:
        """Write one line of data, as it is but for what steers a terminal."""
        sys.stdout.write(visible(mask_known(text)) + "\n")

    def pass_on(self, text: str) -> None:
        """Write a text that is asked for itself: unchanged into a pipe or a file, as `write` to a terminal."""
        if self.pretty:
            self.write(text)
        else:
            sys.stdout.write(mask_known(text) + "\n")

    def document(self, value: Any) -> None:
        """Write one JSON document on one line."""
        sys.stdout.write(visible_json(mask_known(msgspec.json.encode(value, enc_hook=_plain).decode())) + "\n")

    def raise_if_nobody_reads(self) -> None:
        """Raise BrokenPipeError when the reader of stdout has left: what waits for news writes nothing that fails."""
        try:
            fd = sys.stdout.fileno()
        except OSError:
            return  # stdout is an object, not a file
        poll = select.poll()
        poll.register(fd, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            raise BrokenPipeError

    def rows(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write a table for machines: a header line, tabs between the cells, no cell with a tab or line break."""
        self.write("\t".join(header))
        for row in rows:
            self.write("\t".join(" ".join(cell.split()) if cell else "" for cell in row))

    # -- what libraries say -------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Send warnings and log records to stderr, one line each, as far as ``-v`` and ``-q`` let them through."""
        level = logging.ERROR if self.quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(self.verbose, 2)]
        logging.basicConfig(level=level, stream=sys.stderr, format="penstock: %(levelname)s: %(name)s: %(message)s")
        logging.getLogger("penstock").setLevel(level)
        for handler in logging.getLogger().handlers:
            if handler.formatter is not None:
                handler.setFormatter(_Veiled(handler.formatter))
        shown = warnings.showwarning
        warnings.simplefilter("always", TasksNotLoadedWarning)

        def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if isinstance(message, TasksNotLoadedWarning):
                sys.stderr.write(f"penstock: error: {told(str(message))}\n")
                if message.traceback:
                    sys.stderr.write(f"{told(message.traceback.rstrip())}\n")
            elif issubclass(category, UserWarning):
                if not self.quiet:
                    sys.stderr.write(f"penstock: warning: {told(str(message))}\n")
            elif self.verbose:
                shown(message, category, *place, **more)

        warnings.showwarning = show

    def log_from(self, level: str) -> None:
        """Log from a level on, such as ``info``, whatever ``-v`` and ``-q`` say."""
        logging.getLogger().setLevel(level.upper())
        logging.getLogger("penstock").setLevel(level.upper())


class _Veiled(logging.Formatter):
    """Writes as another formatter does, without secrets (libraries log the URLs that they connect to), and visibly."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        run = current_run.get()  # what a body logs may hold what is secret in its own input
        text = self._formatter.format(record)
        return told(text if run is None else run.veil(text))


def told(text: str) -> str:
    """Return a text as it may be told to the person at the terminal: without secrets, and steering nothing."""
    return visible(mask_text(text))


def words(given: Sequence[str]) -> list[str]:
    """Take ``a b`` and ``a,b`` alike."""
    return list(dict.fromkeys(part for word in given for part in word.split(",") if part))


def _plain(value: Any) -> Any:
    """Make JSON of what a job may have returned beside plain data."""
    if isinstance(value, Mapping):
        return dict(value)  # type: ignore[reportUnknownArgumentType]
    for name in ("to_dicts", "to_pylist"):  # polars, pyarrow
        if hasattr(value, name):
            return getattr(value, name)()
    if hasattr(value, "to_json") and hasattr(value, "columns"):  # pandas
        return msgspec.json.decode(value.to_json(orient="records", date_format="iso"))
    if hasattr(value, "tolist"):  # numpy, pandas Series
        return value.tolist()
    return str(value)
