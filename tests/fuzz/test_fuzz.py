"""Whatever bytes, payloads and files of settings come: a refusal in our words, soon, and nothing is executed.

A few hundred examples each in `make test`; `make fuzz` tries 10,000.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock import JobQueue, PenstockError, calls, task
from penstock.core.config import Config
from penstock.core.exceptions import ConfigError, InvalidJobError
from penstock.job.models import Intent, Message, new_job_id
from penstock.settings import load
from penstock.settings.keys import known
from penstock.sources.flowerpower import read_yaml

EXAMPLES = int(os.environ.get("PENSTOCK_TEST_FUZZ", "60"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 1000,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
PATIENCE_S = 2.0
"""For one example on a busy machine. The bar, 50 ms, is measured over many by bar 17."""

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=30)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
anything = st.recursive(
    scalars | st.binary(max_size=30) | st.just(print) | st.just(os) | st.builds(object) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(scalars, inner, max_size=4) | st.tuples(inner),
)
names = st.sampled_from(["os.system", "subprocess:run", "../../x", "a\0b", "", "body", "penstock.client.os.system"])
ids = st.sampled_from(["../../x", "a\0b", "", "..", "a/b", "x" * 200, "a"]) | st.text(max_size=20)


@pytest.fixture(scope="module")
def queue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    before = Path.cwd()
    os.chdir(folder)
    with JobQueue("inline://", config=Config(ledger="memory://", results=str(folder)), root=folder) as opened:
        yield opened
    os.chdir(before)


@pytest.fixture(autouse=True)
def body():
    ran: list[Any] = []

    @task(name="body", max_attempts=1)
    def body(data: Any = None, *rest: Any, **more: Any) -> Any:
        ran.append((data, rest, more))
        return data

    return ran


refusals: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def told(request):
    """Say at the end how often what was refused."""
    yield
    if EXAMPLES >= 1000:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{refusals.total():,} refusals: {dict(refusals.most_common())}")


def explained(error: Exception, kind: type[Exception] = Exception) -> None:
    """A refusal is one of ours, and says something."""
    assert isinstance(error, kind)
    assert str(error)
    refusals[type(error).__name__] += 1


def soon(begun: float) -> bool:
    return time.monotonic() - begun < PATIENCE_S


@FUZZ
@given(st.binary(max_size=200) | plain.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b"x" * 1_000_000)
def test_any_bytes_are_a_message_or_are_refused(data):
    begun = time.monotonic()
    try:
        read = msgspec.json.decode(data, type=Message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        explained(error)
    else:
        assert read.job_ids
    assert soon(begun)


@FUZZ
@given(st.lists(ids, min_size=1, max_size=3), names)
def test_a_message_about_no_job_runs_nothing_and_is_counted(queue, job_ids, name):
    refused = queue.execution.counts["refused"]
    assert queue.execution.run(Message(id="a_1", job_ids=tuple(job_ids), name=name)) is None
    assert queue.execution.counts["refused"] == refused + len(job_ids)
    refusals["message about no job"] += len(job_ids)


@FUZZ
@given(anything)
def test_any_payload_is_taken_or_refused_before_anything_is_written(queue, value):
    begun, before = time.monotonic(), queue.counts()
    try:
        queue.enqueue("body", value)
    except InvalidJobError as error:
        explained(error)
        assert queue.counts() == before
    assert soon(begun)


@FUZZ
@given(
    st.sampled_from(["task", "pipeline", "command", "no such kind", ""]),
    names,
    st.binary(max_size=100) | plain.map(lambda value: json.dumps(value).encode()),
)
@example("task", "body", b'{"args":' + b"[" * 100_000)
@example("command", "sh", b'{"argv":["touch"],"cwd":"\\u0000"}')
@example("pipeline", "os", b'{"target":{"type":"hamilton","modules":["os"]},"final_vars":["system"]}')
def test_any_row_that_somebody_wrote_ends_in_an_error_or_waits_and_executes_nothing(queue, body, kind, name, spec):
    begun = time.monotonic()
    intent = Intent(id=new_job_id(), kind=kind, name=name, spec=spec, isolation="inline")
    queue.ledger.insert([intent], grace_s=60)
    queue.execution.run(Message(id=f"{intent.id}_1", job_ids=(intent.id,)))
    job = queue.ledger.get(intent.id)
    assert job.state in ("failed", "succeeded", "queued"), job
    if job.state == "failed":
        assert job.error is not None
        refusals[job.error.type] += 1
    if job.state == "succeeded":
        assert kind == "task"
        assert name == "body"
    assert not Path("executed").exists()
    assert soon(begun)


@FUZZ
@given(st.dictionaries(st.sampled_from(["at", "delay", "key", "queue", "priority", "timeout", "max_attempts", "tags",
                                        "metadata", "job_id", "backoff", "isolation"]), plain, max_size=4))  # fmt: skip
def test_any_options_are_taken_or_refused(queue, options):
    call = queue.command(["true"])
    try:
        calls.intent_of(queue.config, calls.call_of(queue, call, (), options))
    except InvalidJobError as error:
        explained(error)


toml_values = (
    st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=20).map(json.dumps)
    | st.integers(-(2**70), 2**70).map(str)
    | st.sampled_from(
        ["true", "[]", "[1]", "{a = 1}", "1.5", "nan", '"env:NO"', '"file:/nowhere"', '"10s"', "2026-01-01"]
    )
)
toml_lines = st.tuples(st.sampled_from(sorted(known())) | st.text(max_size=8), toml_values).map(
    lambda pair: " = ".join(pair)
)


@FUZZ
@given(st.text(max_size=100) | st.lists(toml_lines, max_size=5).map("\n".join))
def test_any_file_of_settings_is_read_or_refused(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    file = folder / "fuzzed.toml"
    file.write_text(text, encoding="utf-8", errors="replace")
    begun = time.monotonic()
    try:
        load(folder, file=file, env={})
    except ConfigError as error:
        explained(error)
    assert soon(begun)


@FUZZ
@given(st.text(alphabet="ab:-[]{}&*!|>\"'\n #%,?0", max_size=60) | plain.map(json.dumps))
def test_any_yaml_is_read_or_refused(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / f"{time.monotonic_ns()}.yml"
    file.write_text(text, encoding="utf-8", errors="replace")
    try:
        assert isinstance(read_yaml(file), dict)
    except ConfigError as error:
        explained(error)
    file.unlink()


job_texts = st.text(max_size=12) | st.sampled_from(
    ["* * * * *", "@daily", "every 1s", "R3/2099-01-01T00:00Z/PT1H", "touch executed", "../../x", "a\0b", "body", "nan"]
)
job_tasks = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["execute_command", "task", "pipeline", "os.system", "subprocess:run"]) | job_texts,
        "command": job_texts | st.lists(job_texts, max_size=3) | plain,
        "name": job_texts, "args": plain, "inputs": plain, "env": plain, "cwd": job_texts, "on_exit": plain,
    },
)  # fmt: skip
job_files = st.fixed_dictionaries(
    {},
    optional={
        "job_id": job_texts | plain, "schedule": job_texts | plain, "task": job_tasks | plain, "timezone": job_texts,
        "max_attempts": plain, "tags": plain, "metadata": plain, "timeout": job_texts, "overlap": job_texts,
        "limits": plain, "start": job_texts, "no such key": plain,
    },
)  # fmt: skip
GOOD = {"job_id": "a", "schedule": "* * * * *", "task": {"type": "execute_command", "command": "echo hi"}}
nearly_good = st.dictionaries(
    st.sampled_from(["description", "timezone", "max_attempts", "tags", "metadata", "timeout", "overlap", "limits"]),
    plain | job_texts, max_size=1,
).map(lambda changed: GOOD | changed)  # fmt: skip


@pytest.fixture(scope="module")
def folder_of_jobs(tmp_path_factory):
    root = tmp_path_factory.mktemp("jobs")
    (root / "jobs.d").mkdir()
    config = Config(ledger="memory://", results=str(root), jobs_dir="jobs.d")
    with JobQueue("inline://", config=config, root=root) as opened:
        yield opened


@FUZZ
@given(
    (job_files | nearly_good).map(lambda data: json.dumps(data).encode())
    | st.binary(max_size=100)
    | st.lists(toml_lines, max_size=5).map(lambda lines: "\n".join(lines).encode()),
    st.sampled_from(["json", "toml"]),
)
@example(b"[" * 100_000, "json")
@example(b'{"job_id": "a", "job_id": "b"}', "json")
def test_any_job_file_becomes_a_schedule_or_an_error_that_is_told(folder_of_jobs, data, suffix):
    file = folder_of_jobs.root / "jobs.d" / f"fuzzed.{suffix}"
    file.write_bytes(data)
    begun = time.monotonic()
    folder_of_jobs.job_files.look()
    told = [record for record in folder_of_jobs.ledger.records.all("scan_error") if record.name == str(file)]
    made = [schedule for schedule in folder_of_jobs.schedules.list() if schedule.plan.where == str(file)]
    assert told or made  # of a file that was right before, both: its schedule stays
    refusals["job file"] += len(told)
    assert soon(begun)
    assert not list(folder_of_jobs.root.rglob("executed"))
    file.unlink()


VARIABLES = (
    "PENSTOCK_LEASE__TTL", "PENSTOCK_TASKS", "PENSTOCK_LIMITS__MAX_QUEUED", "PENSTOCK_X", "PENSTOCK_ENGINES__RQ__A",
    "PENSTOCK_SECURITY",
)  # fmt: skip


@FUZZ
@given(st.dictionaries(st.sampled_from(VARIABLES), st.text(max_size=20)))
def test_any_environment_is_read_or_refused(tmp_path_factory, env):
    try:
        load(tmp_path_factory.getbasetemp(), env=env)
    except PenstockError as error:
        explained(error, ConfigError)
