"""What is kept of the lines that a body writes: without secrets, each cut to size, all of them counted."""

from __future__ import annotations

import codecs
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from penstock.core.secrets import mask_text
from penstock.job.models import LogLine

if TYPE_CHECKING:
    from penstock.body import Emit

MAX_LINES = 10_000
MAX_BYTES = 1024 * 1024
MAX_LINE_BYTES = 8 * 1024
TAIL_BYTES = 64 * 1024
"""Of what is over the limit, the end is kept: it tells why a body ended."""

echo: Callable[[LogLine], None] | None = None
"""Also shown each line that is kept, where a worker echoes its bodies on the console."""

speaking = threading.local()
"""``speaking.on`` while a line is passed on: what that code itself writes belongs to nobody's attempt."""


def printable(text: str) -> str:
    """Return the text with what UTF-8 cannot hold (lone surrogates) written as escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


class LineKeeper:
    """Makes log lines of what one attempt writes. Safe from any thread.

    Keeps at most `MAX_LINES` lines and ``max_bytes`` bytes per attempt and `MAX_LINE_BYTES` per line; `close` adds the
    last `TAIL_BYTES` of what came after that, and before them a line that tells how much is left out.
    """

    def __init__(
        self,
        job_id: str,
        attempt: int,
        emit: Emit,
        *,
        max_bytes: int = MAX_BYTES,
        veil: Callable[[str], str] = mask_text,
    ) -> None:
        self._max_bytes = max_bytes
        self._veil = veil
        self._job_id = job_id
        self._attempt = attempt
        self._emit = emit
        self._lock = threading.Lock()
        self._partial: dict[str, str] = {}
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}
        self._lines = 0
        self._bytes = 0
        self._tail: deque[tuple[LogLine, int]] = deque()
        self._tail_bytes = 0
        self._dropped_lines = 0
        self._dropped_bytes = 0

    def add(self, level: str, source: str, text: str, *, node: str | None = None) -> None:
        """Keep one entry, which may hold line breaks of its own (a logged traceback)."""
        text = self._veil(text)
        size = len(text)
        if size * 4 > MAX_LINE_BYTES or not text.isascii():
            text, size = _cut(printable(text))
        with self._lock:
            if self._lines >= MAX_LINES or self._bytes + size > self._max_bytes:
                self._keep_in_tail(self._line(level, source, text, node), size)
                return
            self._lines += 1
            self._bytes += size
        self._tell(self._line(level, source, text, node))

    def _keep_in_tail(self, line: LogLine, size: int) -> None:
        self._tail.append((line, size))
        self._tail_bytes += size
        while self._tail_bytes > TAIL_BYTES or len(self._tail) > MAX_LINES:
            _, gone = self._tail.popleft()
            self._tail_bytes -= gone
            self._dropped_lines += 1
            self._dropped_bytes += gone

    def feed(self, source: str, text: str) -> None:
        """Take a piece of a stream; whole lines are kept at once, the rest when its line ends."""
        if "\n" not in text:
            if not text:
                return
            with self._lock:
                held = self._partial.get(source, "") + text
                if len(held) <= MAX_LINE_BYTES:
                    self._partial[source] = held
                    return
                # A progress bar redraws its line without ever ending it: the newest drawing is enough.
                redrawn = "\r" in held
                self._partial[source] = held.rpartition("\r")[2][-MAX_LINE_BYTES:] if redrawn else ""
            if not redrawn:
                self.add("INFO", source, held)
            return
        with self._lock:
            whole, _, rest = (self._partial.pop(source, "") + text).rpartition("\n")
        for line in whole.split("\n"):
            self.add("INFO", source, _shown(line))
        if rest:
            self.feed(source, rest)

    def feed_bytes(self, source: str, data: bytes) -> None:
        """`feed` for raw output; bytes that are not UTF-8 become escapes."""
        decoder = self._decoders.get(source)
        if decoder is None:
            decoder = self._decoders[source] = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.feed(source, decoder.decode(data))

    def close(self) -> None:
        """Keep what has no line end yet, and tell what was dropped. May be called more than once."""
        for source, decoder in list(self._decoders.items()):
            if tail := decoder.decode(b"", final=True):
                self.feed(source, tail)
        with self._lock:
            partial, self._partial = self._partial, {}
        for source, text in partial.items():
            self.add("INFO", source, _shown(text))
        with self._lock:
            lines, size = self._dropped_lines, self._dropped_bytes
            self._dropped_lines = self._dropped_bytes = 0
            tail, self._tail = self._tail, deque()
            self._tail_bytes = 0
        if lines:
            told = (
                f"{lines} lines ({size:,} bytes) were dropped here: an attempt keeps its first {MAX_LINES:,} lines or "
                f"{self._max_bytes:,} bytes (limits.log_max_bytes), and its last {TAIL_BYTES:,} bytes"
            )
            self._tell(self._line("WARNING", "penstock", told, None))
        for line, _ in tail:
            self._tell(line)

    def _line(self, level: str, source: str, text: str, node: str | None) -> LogLine:
        return LogLine(
            job_id=self._job_id,
            attempt=self._attempt,
            at=datetime.now(UTC),
            level=level,
            source=source,
            text=text,
            node=node,
        )

    def _tell(self, line: LogLine) -> None:
        speaking.on = True
        try:
            self._emit(line)
            if echo is not None:
                echo(line)
        finally:
            speaking.on = False


def _shown(line: str) -> str:
    """Return what a terminal would show of a line that was redrawn by carriage returns."""
    line = line.removesuffix("\r")
    return line.rpartition("\r")[2] if "\r" in line else line


def _cut(text: str) -> tuple[str, int]:
    raw = text.encode()
    if len(raw) <= MAX_LINE_BYTES:
        return text, len(raw)
    note = f" ... [line cut: {len(raw):,} bytes]"
    kept = raw[: MAX_LINE_BYTES - len(note)].decode(errors="ignore") + note
    return kept, len(kept.encode())
