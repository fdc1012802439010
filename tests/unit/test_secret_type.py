"""`Secret`: a text that a task is given, and that nobody else sees."""

from __future__ import annotations

import copy
import json
import pickle

import msgspec
import pytest

from penstock import JobQueue, Secret, task
from penstock.core import secrets
from penstock.core.config import Config
from penstock.core.exceptions import ArgumentsError, PayloadError
from penstock.core.secrets import mask_data, mask_known
from penstock.job.models import shown_spec


@pytest.fixture(autouse=True)
def nothing_learnt(monkeypatch):
    monkeypatch.setattr(secrets, "_known", frozenset())
    monkeypatch.setattr(secrets, "_known_pattern", None)
    monkeypatch.setattr(secrets, "_learnt", {})


@pytest.fixture
def queue(tmp_path):
    config = Config(ledger="memory://", results=str(tmp_path))
    with JobQueue("inline://", config=config, root=tmp_path) as queue:
        yield queue


def test_it_shows_itself_to_nobody_who_does_not_ask():
    secret = Secret("hunter")
    assert (str(secret), repr(secret), f"{secret}", f"{[secret]}") == (*["**********"] * 3, "[**********]")
    assert secret.reveal() == "hunter"
    assert not hasattr(secret, "__dict__")


def test_two_of_one_text_are_equal_and_a_text_is_not():
    assert {Secret("hunter2"), Secret("hunter2")} == {Secret("hunter2")}
    assert Secret("hunter2") != "hunter2"


@pytest.mark.parametrize("write", [pickle.dumps, json.dumps, msgspec.json.encode], ids=["pickle", "json", "msgspec"])
def test_nothing_writes_it_in_the_clear(write):
    with pytest.raises(TypeError) as caught:
        write(Secret("hunter2"))
    assert "hunter2" not in str(caught.value)


def test_a_copy_of_it_is_itself():
    secret = Secret("hunter2")
    assert copy.deepcopy([copy.copy(secret)])[0] is secret


def test_it_is_made_of_a_text_only():
    with pytest.raises(TypeError, match="not of a int") as caught:
        Secret(123456)  # type: ignore[arg-type]
    assert "123456" not in str(caught.value)


def test_what_it_holds_is_hidden_from_then_on_a_plain_word_too():
    Secret("hunter")
    assert mask_known("the hunter of http://hunter/") == "the *** of http://***/"


def test_only_the_newest_are_kept_in_mind():
    for number in range(1000):
        Secret(f"secret-{number:04}")
    assert mask_known("secret-0999 secret-0000") == "*** secret-0000"
    assert len(secrets.remembered()) == 128


# -- as an argument ---------------------------------------------------------------------------------------------------


def test_a_body_gets_it_as_it_was(queue):
    got = []

    @task
    def login(user: str, password: Secret, spare: Secret | None = None, *more: Secret, **named: Secret):
        got.append([password, spare, *more, named])

    queue.enqueue(login, "ada", Secret("a-text"), Secret("b-text"), Secret("c-text"), d=Secret("d-text")).wait(5)
    queue.enqueue(login, user="ada", password=Secret("a-text"), spare=None).wait(5)
    queue.enqueue(login, "ada", Secret("a-text")).wait(5)
    assert [[v.reveal() for v in got[0][:3]], got[0][3]["d"].reveal()] == [["a-text", "b-text", "c-text"], "d-text"]
    assert got[1:] == [[Secret("a-text"), None, {}], [Secret("a-text"), None, {}]]


def test_a_text_becomes_one_where_the_parameter_is_a_secret(queue):
    got = []

    @task
    def login(vault: Secret):
        got.append(vault)

    job = queue.enqueue(login, "hunter2").wait(5)
    assert got == [Secret("hunter2")]
    assert shown_spec(job.spec) == {"args": ["***"]}


def test_no_view_of_a_job_holds_it(queue):
    @task(max_attempts=1)
    def login(vault: Secret):
        print("opening", vault.reveal())
        raise ValueError(f"{vault.reveal()} or {vault}")

    call = login.call(Secret("hunter"))
    with queue.captured():
        handle = queue.enqueue(call)
        job = handle.wait(5)
    told = repr(call) + repr(job) + repr(shown_spec(job.spec)) + repr(handle.logs())
    assert "hunter" not in told
    assert b"hunter" in job.spec  # it is there for the worker
    assert job.error.message == "*** or **********"
    assert [line.text for line in handle.logs()] == ["opening ***"]


def test_data_that_holds_one_is_shown_as_hidden_whatever_its_name():
    assert mask_data({"vault": {"$secret": "hunter"}, "n": 1}) == {"vault": "***", "n": 1}


@pytest.mark.parametrize("value", [7, ["x"], {"$secret": "hunter2"}, None], ids=str)
def test_what_is_neither_a_text_nor_a_secret_is_refused_and_not_quoted(queue, value):
    @task
    def login(vault: Secret):
        raise NotImplementedError

    with pytest.raises(ArgumentsError, match=r"parameter 'vault': Expected a `Secret` or `str`") as caught:
        queue.enqueue(login, value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", [Secret("hunter2"), [Secret("hunter2")], {"a": {"b": Secret("hunter2")}}], ids=str)
def test_elsewhere_it_is_refused_with_what_to_do(queue, value):
    @task
    def login(anything):
        raise NotImplementedError

    with pytest.raises(PayloadError, match=r"is a Secret, which only a task's parameter takes that is annotated"):
        queue.enqueue(login, value)


def test_a_command_refuses_it_too_and_does_not_quote_it(queue):
    with pytest.raises(ArgumentsError, match=r"env\['PGPASSWORD'\] of the command is \*{10}, not a str"):
        queue.enqueue_command(["psql"], env={"PGPASSWORD": Secret("hunter2")})


def test_as_a_result_it_is_not_kept(queue):
    @task
    def login(vault: Secret):
        return vault

    job = queue.enqueue(login, "hunter2")
    assert job.wait(5).state == "succeeded"
    assert b"hunter2" not in (job.job.result or b"")


def test_a_job_that_is_submitted_again_with_another_input_keeps_it(queue):
    got = []

    @task(max_attempts=1)
    def login(user: str, vault: Secret, spare: Secret | None = None):
        got.append((user, vault, spare))
        if user == "nobody":
            raise ValueError(user)

    failed = queue.enqueue(login, "nobody", Secret("hunter2"), spare=Secret("spare-key"))
    queue.requeue(failed.id, inputs={"user": "ada", "spare": "other-key"}).wait(5)
    assert got[-1] == ("ada", Secret("hunter2"), Secret("other-key"))


def test_jobs_with_one_secret_are_alike(queue):
    @task(queue="nobody-listens")
    def login(vault: Secret):
        raise NotImplementedError

    first = queue.enqueue(login, "hunter2", unique=True, delay="1h")
    same = queue.enqueue(login, Secret("hunter2"), unique=True, delay="1h")
    other = queue.enqueue(login, Secret("hunter3"), unique=True, delay="1h")
    assert (same.id, same.outcome) == (first.id, "kept")
    assert other.id != first.id


def test_the_command_line_passes_a_word_on_as_it_is():
    from penstock.cli.arguments import for_task

    @task
    def login(vault: Secret, spare: Secret | None = None):
        raise NotImplementedError

    assert for_task(login, ["vault=123456", "spare=true"], None) == ([], {"vault": "123456", "spare": "true"})
