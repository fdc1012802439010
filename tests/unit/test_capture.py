from __future__ import annotations

import asyncio
import functools
import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from loguru import logger as loguru_logger
from test_run import JOB

from penstock.capture import Capture, rearm_loguru
from penstock.job.models import LogLine
from penstock.run import Run, current_run


@pytest.fixture
def console() -> io.StringIO:
    return io.StringIO()


@contextmanager
def streams(console: io.StringIO) -> Iterator[None]:
    """Inside the test itself: pytest changes the streams between a fixture and its test."""
    before = sys.stdout, sys.stderr, sys.__stderr__
    sys.stdout = sys.stderr = sys.__stderr__ = console
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.__stderr__ = before


def captured(test: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(test)
    def wrapped(**fixtures: Any) -> None:
        with streams(fixtures.get("console") or io.StringIO()):
            capture = Capture.install()
            try:
                test(**fixtures)
            finally:
                capture.uninstall()

    return wrapped


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    root.setLevel(logging.WARNING)
    yield root
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@contextmanager
def running(told: list[Any]) -> Iterator[Run]:
    run = Run(JOB, emit=told.append)
    token = current_run.set(run)
    try:
        yield run
    finally:
        current_run.reset(token)
        run.close()


def kept(told: list[Any]) -> list[tuple[str, str, str]]:
    return [(line.level, line.source, line.text) for line in told if isinstance(line, LogLine)]


@captured
def test_prints_and_logs_of_a_body_are_kept() -> None:
    told: list[Any] = []
    with running(told):
        print("out", end="")
        print("put")
        print("trouble", file=sys.stderr)
        logging.getLogger("shop").info("%d rows", 3)
    assert kept(told) == [("INFO", "stdout", "output"), ("INFO", "stderr", "trouble"), ("INFO", "shop", "3 rows")]


@captured
def test_lines_without_a_run_go_where_they_always_went(console: io.StringIO) -> None:
    print("mine")
    assert console.getvalue() == "mine\n"


@captured
def test_kept_lines_do_not_reach_the_console(console: io.StringIO) -> None:
    with running([]):
        print("kept")
    assert console.getvalue() == ""


def test_kept_lines_are_echoed_when_asked(console: io.StringIO) -> None:
    with streams(console):
        capture = Capture.install(echo=True)
        with running([]):
            print("kept")
        capture.uninstall()
    assert console.getvalue().endswith("stdout | kept\n")


@captured
def test_a_logger_that_does_not_propagate_is_kept_once() -> None:
    told: list[Any] = []
    logger = logging.getLogger("aloof")
    logger.propagate = False
    handler = logging.StreamHandler()  # writes to the captured stderr
    logger.addHandler(handler)
    with running(told):
        logger.warning("once")
    logger.removeHandler(handler)
    assert kept(told) == [("WARNING", "aloof", "once")]


@captured
def test_basic_config_in_a_body_still_works_and_doubles_nothing(root_logger: logging.Logger) -> None:
    told: list[Any] = []
    root_logger.handlers[:] = []
    with running(told):
        logging.basicConfig(level=logging.DEBUG)
        logging.debug("fine")
    assert kept(told) == [("DEBUG", "root", "fine")]


@captured
def test_a_logged_exception_is_kept_with_its_traceback() -> None:
    told: list[Any] = []
    with running(told):
        try:
            raise KeyError("x")
        except KeyError:
            logging.exception("lookup")
    assert kept(told)[0][2].startswith("lookup\nTraceback")


@captured
def test_a_log_call_with_wrong_arguments_does_not_fail_the_body(root_logger: logging.Logger) -> None:
    told: list[Any] = []
    root_logger.handlers[:] = [logging.NullHandler()]
    with running(told):
        logging.warning("%d", "three")
    assert "do not fit" in kept(told)[0][2]


def test_a_level_that_the_program_chose_is_left_alone(root_logger: logging.Logger, console: io.StringIO) -> None:
    root_logger.setLevel(logging.ERROR)
    with streams(console):
        capture = Capture.install()
        assert root_logger.level == logging.ERROR
        capture.uninstall()


@captured
def test_two_threads_keep_their_lines_apart() -> None:
    told: dict[int, list[Any]] = {0: [], 1: []}
    meet = threading.Barrier(2)

    def body(number: int) -> None:
        with running(told[number]):
            for _ in range(20):
                meet.wait()
                print(number, end="")
                meet.wait()
                print()

    threads = [threading.Thread(target=body, args=(number,)) for number in told]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {text for _, _, text in kept(told[0])} == {"0"}
    assert {text for _, _, text in kept(told[1])} == {"1"}


@captured
def test_two_async_bodies_keep_their_lines_apart() -> None:
    told: dict[int, list[Any]] = {0: [], 1: []}

    async def body(number: int) -> None:
        with running(told[number]):
            for _ in range(5):
                print(number)
                await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(body(0), body(1))

    asyncio.run(both())
    assert [text for _, _, text in kept(told[0])] == ["0"] * 5


def test_in_process_mode_every_thread_belongs_to_the_job(console: io.StringIO) -> None:
    told: list[Any] = []
    with streams(console):
        capture = Capture.install("process")
        capture.process_run = Run(JOB, emit=told.append)
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start()
        thread.join()
        capture.uninstall()
    assert kept(told) == [("INFO", "stdout", "from a thread")]


def test_installing_twice_is_installing_once_and_uninstalling_restores(console: io.StringIO) -> None:
    factory = logging.getLogRecordFactory()
    with streams(console):
        first = Capture.install()
        assert Capture.install() is first
        first.uninstall()
        assert sys.stdout is console
        assert sys.stderr is console
    assert logging.getLogRecordFactory() is factory


@captured
def test_what_the_report_path_itself_writes_is_not_kept() -> None:
    told: list[Any] = []

    def emit(report: Any) -> None:
        told.append(report)
        logging.warning("the ledger is slow")

    token = current_run.set(Run(JOB, emit=emit))
    print("once")
    current_run.reset(token)
    assert [text for _, _, text in kept(told)] == ["once"]


@captured
def test_loguru_is_kept_also_after_its_sinks_were_removed() -> None:
    told: list[Any] = []
    loguru_logger.remove()
    loguru_logger.add(sys.stderr)  # as FlowerPower's setup_logging does
    rearm_loguru()
    with running(told):
        loguru_logger.warning("from loguru")
    loguru_logger.remove()
    assert kept(told) == [("WARNING", "test_capture", "from loguru")]


@captured
def test_loguru_without_our_sink_is_kept_as_it_was_printed() -> None:
    told: list[Any] = []
    loguru_logger.remove()
    loguru_logger.add(sys.stderr, format="{message}")
    with running(told):
        loguru_logger.warning("printed")
    loguru_logger.remove()
    assert kept(told) == [("INFO", "stderr", "printed")]


@captured
def test_bytes_written_to_stdout_are_kept() -> None:
    told: list[Any] = []
    with running(told):
        sys.stdout.buffer.write(b"caf\xe9\n")
    assert kept(told) == [("INFO", "stdout", "caf\\xe9")]
