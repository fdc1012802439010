"""A worker within a Starlette or FastAPI app: it starts and ends with the app."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from penstock import JobQueue, task
from penstock.core.exceptions import LedgerUnavailableError
from penstock.testing.harness import wait_until

starlette = pytest.importorskip("starlette", reason="starlette is not installed: pip install starlette httpx2")
pytest.importorskip("httpx2", reason="what starlette's TestClient needs is not installed: pip install httpx2")

from starlette.applications import Starlette  # noqa: E402
from starlette.responses import JSONResponse  # noqa: E402
from starlette.routing import Route  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from penstock.asgi import lifespan  # noqa: E402


@pytest.fixture
def queue(tmp_path):
    with JobQueue(f"huey+sqlite:///{tmp_path}/queue.db", ledger=f"sqlite:///{tmp_path}/l.db", root=tmp_path) as queue:
        yield queue


@pytest.fixture
def double():
    @task(name="double")
    def double(number: int) -> int:
        return 2 * number

    return double


def app_of(lifespan_, *routes):
    return Starlette(lifespan=lifespan_, routes=list(routes))


def test_a_handler_enqueues_and_the_apps_own_worker_runs_the_job(queue, double):
    async def handle(request):
        job = await request.state.queue.aenqueue(double, 21)
        return JSONResponse(await job.aresult(20))

    with TestClient(app_of(lifespan(queue), Route("/", handle))) as client:
        assert client.get("/").json() == 42


def test_a_schedule_fires_while_the_app_runs(queue, double):
    queue.schedule(double, at=queue.now(), inputs={"number": 1})
    with TestClient(app_of(lifespan(queue))):
        wait_until(lambda: [job.state for job in queue.jobs()] == ["succeeded"])


def test_no_worker_is_left_when_the_app_has_ended(queue, double):
    with TestClient(app_of(lifespan(queue))):
        assert [worker.id for worker in queue.workers()] == [queue.owner]
    assert queue.workers() == []
    job = queue.enqueue(double, 1)
    with TestClient(app_of(lifespan(queue))):  # and the next one takes up what came meanwhile
        assert job.result(20) == 2


def test_a_lifespan_inside_begins_after_the_worker_and_ends_before_it(queue):
    seen = []

    @asynccontextmanager
    async def mine(app):
        seen.append(len(queue.workers()))
        yield {"colour": "blue"}
        seen.append(len(queue.workers()))

    async def handle(request):
        return JSONResponse([request.state.colour, request.state.queue is queue])

    with TestClient(app_of(lifespan(queue, inside=mine), Route("/", handle))) as client:
        assert client.get("/").json() == ["blue", True]
    assert seen == [1, 1]


def test_an_app_whose_ledger_cannot_be_opened_does_not_start(tmp_path):
    (tmp_path / "file").write_text("")
    broken = JobQueue("inline://", ledger=f"sqlite:///{tmp_path}/file/l.db", root=tmp_path)
    with pytest.raises(LedgerUnavailableError), TestClient(app_of(lifespan(broken))):
        pass


def test_without_a_queue_the_configuration_around_the_app_names_it(tmp_path, monkeypatch):
    (tmp_path / "penstock.toml").write_text('backend = "inline://"\nledger = "sqlite:///mine.db"\n')
    monkeypatch.chdir(tmp_path)
    with TestClient(app_of(lifespan())):
        assert (tmp_path / "mine.db").exists()


def test_a_fastapi_app_takes_the_same_lifespan(queue, double):
    fastapi = pytest.importorskip("fastapi", reason="fastapi is not installed: pip install fastapi")
    app = fastapi.FastAPI(lifespan=lifespan(queue))

    @app.get("/{number}")
    async def handle(number: int):
        return await (await queue.aenqueue(double, number)).aresult(20)

    with TestClient(app) as client:
        assert client.get("/4").json() == 8
