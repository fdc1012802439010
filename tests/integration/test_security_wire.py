"""What lies in the engines, and what travels to and from them, byte by byte: nothing that could be unpickled."""

from __future__ import annotations

import pickle
import pickletools
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from penstock import JobQueue, task
from penstock.testing.harness import CALM, short_config, wait_until
from penstock.testing.transports import transports

FOUND, _ = transports()
_BINARY = re.compile(rb"\x80[\x02-\x05]")
_AS_TEXT = re.compile(rb"c(?:os|posix|nt|builtins|__builtin__|subprocess|copy_reg|copyreg)\n\w+\n|\(dp\d|\(lp\d")
_CHUNK = 65_536


def pickles_in(data: bytes) -> Iterator[bytes]:
    """Yield what in some bytes is a pickle from its first to its last opcode."""
    yield from (found[0] for found in _AS_TEXT.finditer(data))
    for start in (found.start() for found in _BINARY.finditer(data)):
        with suppress(Exception):
            *_, last = pickletools.genops(data[start : start + _CHUNK])
            if last[2] is not None and last[2] > 4:
                yield data[start : start + last[2] + 1]


class Tap:
    """A proxy that keeps every byte that passes, in either direction."""

    def __init__(self, host: str, port: int) -> None:
        self._there = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._streams: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def passed(self) -> list[bytes]:
        return [bytes(stream) for stream in self._streams]

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.create_connection(self._there)
                for source, sink in ((ours, theirs), (theirs, ours)):
                    kept = bytearray()
                    self._streams.append(kept)
                    threading.Thread(target=self._pass_on, args=(source, sink, kept), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                kept += data
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.close()


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_among_other_bytes_is_found(protocol):
    class Odd:
        def __reduce__(self):
            return (print, ("x",))

    data = b"\x93\x81\xa4" + pickle.dumps([Odd(), {"a": 1}], protocol) + b"\x00\x80\x02"
    assert list(pickles_in(data))


@pytest.mark.servers
@pytest.mark.parametrize("harness_type", FOUND, ids=lambda found: found.name)
def test_no_pickle_lies_in_the_engine_nor_travels_to_it(harness_type, tmp_path):
    if (why := harness_type.available()) is not None:
        pytest.skip(why)

    @task
    def double(data: dict, when: str) -> dict:
        return {"twice": data["n"] * 2, "when": when}

    @task(max_attempts=1)
    def fail() -> None:
        raise ValueError("told to the engine's own screens")

    harness = harness_type(tmp_path)
    url, taps = harness.url, []
    parts = urlsplit(url)
    if parts.hostname and parts.port:
        tap = Tap(parts.hostname, parts.port)
        taps.append(tap)
        login = parts.netloc.rpartition("@")
        url = urlunsplit(parts._replace(netloc=f"{login[0]}{login[1]}127.0.0.1:{tap.port}"))
    config = short_config(
        backend=url, ledger=f"sqlite:///{tmp_path}/ledger.db", namespace=harness.namespace, sweep=CALM
    )
    with JobQueue(config=config, root=tmp_path) as queue:
        jobs = [queue.enqueue(double, {"n": n}, "2026-11-21") for n in range(5)]
        jobs.append(queue.enqueue(fail))
        if not queue.gateway.in_process:
            worker = harness.start_worker(queue)
            wait_until(lambda: all(job.refresh().state.final for job in jobs), 30, "the jobs are done")
            harness.stop_worker(worker)
        queue.enqueue(double, {"n": 1}, "waits in the engine")
    harness.reset()
    for tap in taps:
        tap.close()
    files = [path.read_bytes() for path in sorted(Path(tmp_path).rglob("*")) if path.is_file()]
    streams = [stream for tap in taps for stream in tap.passed]
    assert sum(map(len, streams + files)) > 1000
    assert [found for data in (*streams, *files) for found in pickles_in(data)] == []
