"""What a worker and its child processes say to each other: length-prefixed msgpack, never pickle."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from penstock.body import Cause, Ended
from penstock.core.config import LimitsConfig
from penstock.job.models import ErrorInfo, Job, LogLine, NodeRun, Progress

_HEAD = struct.Struct(">I")


class Prepare(msgspec.Struct, frozen=True, tag="prepare", kw_only=True):
    """The first frame to a child: what it is for."""

    kind: str
    setup: dict[str, Any]
    sys_path: list[str]
    results_url: str
    inline_max_bytes: int
    limits: LimitsConfig = LimitsConfig()
    secrets: list[str] = []
    """What the worker hides in all that it shows; the child hides it in all that it tells."""


class Work(msgspec.Struct, frozen=True, tag="work"):
    """Run this job."""

    job: Job
    silence_s: float | None = None
    """End yourself when the worker gives no sign of life for so long; None: never."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Why the SIGTERM comes that follows; a SIGTERM without this frame is somebody else's and is ignored."""

    cause: Cause


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child is prepared."""


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """The child could not prepare itself, and ends."""

    error: ErrorInfo
    retryable: bool


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The body has ended; all its reports were sent before."""

    ended: Ended


class Extend(msgspec.Struct, frozen=True, tag="extend"):
    """The body takes longer than was allowed."""

    by_s: float


ToChild = Prepare | Work | Stop
FromChild = Ready | Broken | Done | Extend | LogLine | NodeRun | Progress

_encoder = msgspec.msgpack.Encoder()
to_child: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
from_child: msgspec.msgpack.Decoder[FromChild] = msgspec.msgpack.Decoder(FromChild)


def frame(content: ToChild | FromChild) -> bytes:
    """Return a frame, ready to be written."""
    body = _encoder.encode(content)
    return _HEAD.pack(len(body)) + body


class Frames:
    """Cuts a stream of bytes into the frames' contents."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what came and yield what is complete."""
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _HEAD.size:
            (size,) = _HEAD.unpack_from(self._buffer, at)
            start = at + _HEAD.size
            if len(self._buffer) - start < size:
                break
            at = start + size
            yield bytes(self._buffer[start:at])
        del self._buffer[:at]
