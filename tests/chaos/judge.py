"""The judge of what ran: reads the file that bodies wrote, and the deaths that the driver noted. Never the ledger."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    event: str
    job_id: str
    attempt: int
    pid: int
    at: float


class Span(NamedTuple):
    """One body, from its start to its end, to the moment it was stopped, or to the death of its process."""

    job_id: str
    attempt: int
    pid: int
    began: float
    until: float
    how: str
    """``ended``, ``stopped``, ``died``; ``runs`` where none of these is known: then it is alive for ever."""


class Verdict(NamedTuple):
    """What a run came to. The lists hold what was wrong, as texts."""

    spans: dict[str, list[Span]]
    """The bodies of each job, by their start."""
    commits: int
    """Jobs whose body of the highest attempt ended."""
    lost: list[str]
    """Jobs that were acknowledged and whose body of the highest attempt never ended, or that had none."""
    double: list[str]
    """Two bodies of one job alive at once."""
    second: list[str]
    """Bodies that ran although nothing had happened to the one before."""
    strange: list[str]
    """Jobs nobody submitted, attempts that began twice or went backwards, more attempts than deaths explain."""

    @property
    def bodies(self) -> int:
        """How many bodies began."""
        return sum(map(len, self.spans.values()))

    @property
    def cut_off(self) -> int:
        """How many bodies died with their process: none, and the faults hit nothing."""
        return sum(span.how == "died" for of_job in self.spans.values() for span in of_job)

    @property
    def attempts(self) -> dict[str, int]:
        """The highest attempt of each job."""
        return {job_id: max(span.attempt for span in of_job) for job_id, of_job in self.spans.items()}


def read(file: Path) -> list[Line]:
    """Return the lines so far, oldest first. A last line that is only half there is left out."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        return []
    return parsed(text[: text.rfind("\n") + 1])


def parsed(text: str) -> list[Line]:
    """Read whole lines."""
    return [
        Line(event, job_id, int(attempt), int(pid), float(at))
        for event, job_id, attempt, pid, at in (line.split() for line in text.splitlines())
    ]


def judge(file: Path, acknowledged: Iterable[str], deaths: Mapping[int, float]) -> Verdict:
    """Judge a run that is over.

    Args:
        file: what the bodies wrote.
        acknowledged: the ids of the jobs whose submit was answered.
        deaths: when each process died that did, by pid.
    """
    wanted = set(acknowledged)
    strange: list[str] = []
    spans = _spans(read(file), deaths, strange)
    double: list[str] = []
    second: list[str] = []
    died_at = sorted(deaths.values())
    for job_id, of_job in spans.items():
        if job_id not in wanted:
            strange.append(f"{job_id} was never acknowledged")
        for one, other in itertools.pairwise(of_job):
            if one.until > other.began:
                double.append(f"{_told(one)} and {_told(other)}")
            if other.attempt <= one.attempt:
                strange.append(f"{_told(other)} came after {_told(one)}")
            # A body that had ended may run again only if its process died: before it could tell of the end.
            if one.how == "ended" and deaths.get(one.pid, math.inf) > other.began:
                second.append(f"{_told(other)} after {_told(one)}")
        last = of_job[-1]
        stops = sum(span.how == "stopped" for span in of_job)
        if last.attempt > 1 + stops + sum(at < last.began for at in died_at):
            strange.append(f"{_told(last)}: more attempts than deaths")
    # The highest attempt counts: a process that was frozen may begin a lower one after it has woken.
    newest = {job_id: max(of_job, key=lambda span: (span.attempt, span.began)) for job_id, of_job in spans.items()}
    ended = {job_id for job_id, span in newest.items() if span.how == "ended"}
    lost = [f"{job_id} ({'began and never ended' if job_id in spans else 'never began'})" for job_id in wanted - ended]
    return Verdict(spans, len(ended & wanted), sorted(lost), double, second, strange)


def _spans(lines: Iterable[Line], deaths: Mapping[int, float], strange: list[str]) -> dict[str, list[Span]]:
    begun: dict[tuple[str, int, int], float] = {}
    seen = set[tuple[str, int]]()
    spans: dict[str, list[Span]] = defaultdict(list)
    for line in lines:
        key = (line.job_id, line.attempt, line.pid)
        if line.event == "start":
            if key[:2] in seen:
                strange.append(f"attempt {line.attempt} of {line.job_id} began twice")
            seen.add(key[:2])
            begun[key] = line.at
        elif line.event in ("end", "stopped") and key in begun:
            how = "ended" if line.event == "end" else "stopped"
            spans[line.job_id].append(Span(*key, begun.pop(key), line.at, how))
    for key, began in begun.items():
        # A body that never told of its end lived until its process died.
        died = deaths.get(key[2])
        spans[key[0]].append(Span(*key, began, math.inf if died is None else died, "runs" if died is None else "died"))
    return {job_id: sorted(of_job, key=lambda span: span.began) for job_id, of_job in spans.items()}


def _told(span: Span) -> str:
    until = "..." if math.isinf(span.until) else f"{span.until:.3f}"
    return f"{span.job_id}#{span.attempt} in {span.pid} ({span.how} {span.began:.3f}-{until})"
