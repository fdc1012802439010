"""Keeps what a body writes with its attempt: logging, loguru, print and the standard streams.

Records of the standard library are taken where they are made (the record factory), not by a handler on the root
logger: a handler there would turn a body's own ``logging.basicConfig`` into a no-op, would miss loggers that do not
propagate, and would see a line again when a console handler writes it to the stream that is captured too.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Literal, TextIO, cast

from penstock import lines
from penstock.core.visible import visible
from penstock.job.models import LogLine
from penstock.run import Run, current_run

Mode = Literal["context", "process"]

_LOGGING_HANDLE = logging.Handler.handle.__code__
_FRAMES_LOOKED_AT = 40
_formatter = logging.Formatter()


class Capture:
    """The capture of this process; there is one at most.

    Mode ``context``: a line belongs to the run of its context (thread or asyncio task), and lines without one go
    where they always went. Mode ``process``: every line belongs to `process_run` unless its context has a run.
    """

    _installed: Capture | None = None

    def __init__(self, mode: Mode, level: int) -> None:
        self.mode = mode
        self.process_run: Run | None = None
        self._level = level
        self._level_before: int | None = None
        self._pid = os.getpid()
        self._streams: dict[str, tuple[_Stream, Any]] = {}
        self._factory_before: Callable[..., logging.LogRecord] = logging.getLogRecordFactory()
        self._factory: Callable[..., logging.LogRecord] = self._make_record
        self._sink_id: int | None = None
        self._loguru_level = level

    @classmethod
    def install(cls, mode: Mode = "context", *, echo: bool = False, level: int = logging.INFO) -> Capture:
        """Start to capture, or return the capture that is installed, with its streams put back in place.

        Args:
            mode: see the class.
            echo: show each kept line on the real stderr too.
            level: records of at least this level are made where the root logger still has its default level;
                a level that the program has chosen is left alone.
        """
        self = cls._installed
        if self is None:
            self = cls._installed = cls(mode, level)
            logging.setLogRecordFactory(self._factory)
            root = logging.getLogger()
            if root.level == logging.WARNING > level:
                self._level_before = root.level
                root.setLevel(level)
        self._pid = os.getpid()
        self._put_streams()
        lines.echo = _echo if echo else None
        self.rearm_loguru()
        return self

    @classmethod
    def rearm_installed(cls, level: str | None) -> bool:
        """See `rearm_loguru` below."""
        if cls._installed is not None:
            cls._installed.rearm_loguru(level)
        return cls._installed is not None

    @classmethod
    def is_installed(cls) -> bool:
        """Whether lines of bodies are kept in this process."""
        return cls._installed is not None

    def uninstall(self) -> None:
        """Put everything back as it was."""
        if Capture._installed is not self:
            return
        Capture._installed = None
        lines.echo = None
        for name, (ours, before) in self._streams.items():
            if getattr(sys, name) is ours:
                setattr(sys, name, before)
        if logging.getLogRecordFactory() is self._factory:
            logging.setLogRecordFactory(self._factory_before)
        root = logging.getLogger()
        if self._level_before is not None and root.level == self._level:
            root.setLevel(self._level_before)
        if self._sink_id is not None and self._sink_is_there():
            _loguru().remove(self._sink_id)

    def run(self) -> Run | None:
        """Return the run that a line written here and now belongs to."""
        run = current_run.get() or self.process_run
        if run is None or getattr(lines.speaking, "on", False):
            return None
        # A process that the body has forked cannot reach the ledger: its lines go to the real streams.
        return run if os.getpid() == self._pid else None

    def rearm_loguru(self, level: str | None = None) -> None:
        """Add our sink to loguru, if loguru is loaded and our sink is not there.

        FlowerPower calls ``logger.remove()`` when it is imported and at each run; whoever calls it, calls this after.
        From now on loguru's lines of ``level`` and above are kept; None: of the capture's own level.
        """
        if "loguru" not in sys.modules:
            return
        self._loguru_level = self._level if level is None else _loguru().level(level).no
        if not self._sink_is_there():
            # Level 0, because a sink with another level would be a new one, and to add one takes loguru 5 ms.
            self._sink_id = _loguru().add(self._loguru_sink, level=0, format="{message}")

    def keeps_already(self) -> bool:
        """Whether the code that writes now is a log handler, whose record was kept when it was made."""
        frame = sys._getframe(2)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one way to see a caller
        for _ in range(_FRAMES_LOOKED_AT):
            if frame.f_code is _LOGGING_HANDLE:
                return True
            if frame.f_globals.get("__name__") == "loguru._handler":
                return self._sink_is_there()
            if frame.f_back is None:
                return False
            frame = frame.f_back
        return False

    # -- inside -------------------------------------------------------------------------------------------------

    def _put_streams(self) -> None:
        for name in ("stdout", "stderr"):
            there = getattr(sys, name)
            if name not in self._streams:
                self._streams[name] = (_Stream(self, name, there), there)
            if self.mode == "process" or there is self._streams[name][1]:
                setattr(sys, name, self._streams[name][0])

    def _make_record(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._factory_before(*args, **kwargs)
        run = self.run() if Capture._installed is self else None
        if run is not None:
            run.lines.add(record.levelname, record.name, _text_of(record))
        return record

    def _loguru_sink(self, message: Any) -> None:
        run = self.run()
        record = message.record
        if run is not None and record["level"].no >= self._loguru_level:
            run.lines.add(record["level"].name, record["name"] or "loguru", str(message).rstrip("\n"))

    def _sink_is_there(self) -> bool:
        if self._sink_id is None or "loguru" not in sys.modules:
            return False
        core = getattr(_loguru(), "_core", None)
        return self._sink_id in getattr(core, "handlers", {})


class _Stream(io.TextIOBase):
    """Stands in for sys.stdout or sys.stderr."""

    encoding = "utf-8"  # type: ignore[assignment] - a plain attribute, as on a real stream
    errors = "backslashreplace"  # type: ignore[assignment]

    def __init__(self, capture: Capture, name: str, real: TextIO | None) -> None:
        self._capture = capture
        self._name = name
        self._real = real
        self.buffer = _Buffer(self)

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users pass what they like
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        run = self._capture.run()
        if run is None:
            return self._real.write(text) if self._real is not None else len(text)
        if text and not self._capture.keeps_already():
            run.lines.feed(self._name, text)
        return len(text)

    def write_bytes(self, data: bytes) -> int:
        run = self._capture.run()
        if run is not None:
            run.lines.feed_bytes(self._name, data)
        elif (buffer := getattr(self._real, "buffer", None)) is not None:
            buffer.write(data)
        return len(data)

    def flush(self) -> None:
        if self._real is not None and self._capture.run() is None:
            self._real.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False if self._capture.run() is not None or self._real is None else self._real.isatty()

    def fileno(self) -> int:
        if self._real is None:
            raise io.UnsupportedOperation("fileno")
        return self._real.fileno()

    def reconfigure(self, **_settings: Any) -> None:
        """Accept and ignore: lines are kept whatever their encoding."""

    def close(self) -> None:
        """Stay open: the stream belongs to the process, not to the body that closes it."""

    def __del__(self) -> None:
        """Close nothing."""


class _Buffer(io.RawIOBase):
    """The binary side of a captured stream."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def write(self, data: Any, /) -> int:
        return self._stream.write_bytes(bytes(data))

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        """Stay open, as the stream does."""


def rearm_loguru(level: str | None = None) -> bool:
    """`Capture.rearm_loguru` of the capture that is installed; return whether there is one.

    Call it after FlowerPower set up its logs.
    """
    return Capture.rearm_installed(level)


def _loguru() -> Any:
    return cast("Any", sys.modules["loguru"]).logger


def _text_of(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            text = f"{text}\n{_formatter.formatException(record.exc_info)}"
        return text
    except Exception:  # noqa: BLE001 - arguments that do not fit, a __str__ that raises: never the body's failure
        return f"{record.msg!r} (its arguments do not fit)" if isinstance(record.msg, str) else "<cannot be shown>"


def _echo(line: LogLine) -> None:
    try:
        sys.__stderr__.write(visible(f"{line.job_id[-6:]} {line.level[:4]} {line.source} | {line.text}\n"))  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        pass  # no console, or a closed one
