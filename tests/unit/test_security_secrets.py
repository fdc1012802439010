"""Planted secrets: wherever people look, and in what is kept of a run, none of them is found."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import JobQueue, task
from penstock.cli.failures import tell
from penstock.cli.main import main
from penstock.core import secrets
from penstock.core.config import Config, SecurityConfig
from penstock.core.exceptions import BackendError, LedgerError
from penstock.core.secrets import mask_data, mask_known, mask_text, remember, secrets_in
from penstock.job.models import Intent
from penstock.job.steering import Strike
from penstock.settings.environment import remember_environment
from penstock.sources.decorators import TASKS


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(secrets, "_known", frozenset())
    monkeypatch.setattr(secrets, "_known_pattern", None)
    monkeypatch.setattr(secrets, "_learnt", {})


SPOKEN = [
    ("password=hunter2 ok", "password=*** ok"),
    ('assert token == "hunter2"', 'assert token == "***"'),
    ("DB_PASSWORD = hunter2", "DB_PASSWORD = ***"),
    ("{'password': 'hunter2', 'n': 1}", "{'password': '***', 'n': 1}"),
    ('{"token": "abc.def", "a": "b"}', '{"token": "***", "a": "b"}'),
    ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
    ("User(name='a', api_key='k', x=1)", "User(name='a', api_key='***', x=1)"),
    ("password: hunter2", "password: ***"),
    ("psql --password=hunter2 -h db", "psql --password=*** -h db"),
    ("cannot connect to postgres://u:hunter2@db/x", "cannot connect to postgres://u:***@db/x"),
]
PLAIN = [
    "KeyError: 'name'", "unexpected token: ]", "f(password: str, token: int)", "passwords are good", "key='a' in d",
    "Basic economics", "the keyspace is full", "3 tokens left", "monkey=banana",
]  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), SPOKEN)
def test_in_running_text_what_is_said_to_be_secret_is_hidden(text, shown):
    assert mask_text(text) == shown
    assert mask_text(shown) == shown


@pytest.mark.parametrize("text", PLAIN)
def test_running_text_that_tells_no_secret_stays_as_it_is(text):
    assert mask_text(text) == text


def test_what_a_process_remembers_is_hidden_wherever_it_turns_up():
    remember(["swordfish"])
    assert mask_known("a swordfish, 2 swordfishes") == "a ***, 2 ***es"


@pytest.mark.parametrize("word", ["abc", "true", "None", "12345", "    "])
def test_words_that_would_turn_up_everywhere_are_not_remembered(word):
    remember([word])
    assert mask_known(f"x {word} y") == f"x {word} y"


def test_a_password_that_is_the_users_name_hides_nothing():
    assert list(secrets_in("amqp://guest:guest@host")) == []


def test_the_word_after_a_secret_flag_of_a_command_is_hidden():
    shown = mask_data(["psql", "--password", "hunter2", "--host", "db", "--token=abc"])
    assert shown == ["psql", "--password", "***", "--host", "db", "--token=***"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(max_size=300))
def test_any_text_can_be_masked_and_masking_twice_changes_nothing(text):
    once = mask_text(text)
    assert mask_text(once) == once


@pytest.mark.parametrize(
    "text", ["token-" * 6000, "a://" * 8000, "secret" * 5000, "'" * 30_000 + "key", "password=" * 4000]
)
def test_no_text_keeps_the_masking_busy(text):
    begun = time.process_time()
    mask_text(text)
    assert time.process_time() - begun < 3


# -- what is shown ------------------------------------------------------------------------------------------------


def test_an_error_of_ours_hides_what_a_driver_quotes():
    remember(["hunter2x"])
    for error in (BackendError("no answer from redis://:pw1234@h"), LedgerError("login failed: hunter2x")):
        assert "pw1234" not in str(error) + repr(error)
        assert "hunter2x" not in str(error) + repr(error)


def test_the_command_line_hides_it_in_the_message_and_in_the_traceback_of_the_cause():
    def fail():
        try:
            raise OSError("connection to postgres://ada:hunter2@db refused")
        except OSError as error:
            raise BackendError("engine trouble") from error

    for as_json in (False, True):
        out = io.StringIO()
        try:
            fail()
        except BackendError as error:
            tell(error, as_json=as_json, verbose=True, to=out)
        assert "hunter2" not in out.getvalue()


def test_a_job_and_a_configuration_hide_it_in_their_repr():
    job = Intent(
        id="a", kind="task", name="t", spec=b'{"kwargs":{"password":"hunter2","n":1}}', metadata={"token": "t0ken"}
    )
    config = Config(
        backend="rq+redis://:hunter2@h/0",
        engines={"saq": {"password": "t0ken"}},
        security=SecurityConfig(signing_keys=("hunter2" * 3,)),
    )
    assert "'n': 1" in repr(job)
    for text in (repr(job), repr(config), repr(config.security)):
        assert "hunter2" not in text
        assert "t0ken" not in text


# -- a whole run ---------------------------------------------------------------------------------------------------

PLANTED = {
    "PW-of-the-ledger": "in its URL",
    "PW-of-the-engine": "in its URL",
    "PW-of-an-engine-setting": "[engines.saq]",
    "KEY-for-signing-0123": "security.signing_keys",
    "KEY-by-reference-0123": "a reference to the environment",
    "PW-in-the-environment": "DB_PASSWORD",
    "PW-in-a-url-of-the-environment": "DATABASE_URL",
    "INPUT-password": "an input",
    "INPUT-token": "an input",
    "INPUT-secret": "an input",
    "INPUT-api-key": "an input",
    "INPUT-authorization": "a nested input",
    "INPUT-by-position": "a parameter named so",
    "SECRET-by-its-type": "a parameter annotated Secret",
    "FLAG-of-a-command": "argv",
    "ENV-of-a-command": "env",
    "META-token": "metadata",
    "LOG-assigned": "a log line",
    "LOG-bearer": "a log line",
    "DSN-of-a-driver": "the message of an exception",
    "DSN-of-the-cause": "the cause of an exception",
}

LEAKS = '''
import logging, os
from penstock import Run, Secret, task

@task(name="leak", max_attempts=1)
def leak(credential_name: str, passphrase: str, run: Run, vault: Secret, **inputs):
    print("by its type:", vault, repr(vault), vault.reveal())
    logging.getLogger("driver").warning("opened %s with %r and %s", vault.reveal(), vault, [vault])
    run.message = f"vault {vault.reveal()}"
    print("by position:", passphrase)
    print("inputs", inputs)
    for value in (*inputs.values(), passphrase):
        print("value", value["authorization"] if isinstance(value, dict) else value)
    logging.getLogger("driver").warning("env %s %s", os.environ["DB_PASSWORD"], os.environ["DATABASE_URL"])
    logging.getLogger("driver").warning("config %s %s", os.environ["SIGNING"], os.environ["PENSTOCK_LEDGER_COPY"])
    run.log("api_token=LOG-assigned")
    run.message = "Authorization: Bearer LOG-bearer"
    print("Authorization: Bearer LOG-bearer")
    try:
        raise OSError("no route to amqp://ada:DSN-of-the-cause@host")
    except OSError as error:
        told = f"{inputs['password']} {vault.reveal()}"
        raise RuntimeError(f"connect postgres://ada:DSN-of-a-driver@db/x failed, {told}") from error
'''  # fmt: skip


@pytest.fixture
def project(tmp_path):
    (tmp_path / "leaks.py").write_text(LEAKS)
    (tmp_path / "penstock.toml").write_text(
        f'backend = "huey+sqlite:///{tmp_path}/q.db"\nledger = "sqlite:///{tmp_path}/l.db"\ntasks = ["leaks.py"]\n'
        '[security]\nsigning_keys = ["KEY-for-signing-0123", "env:SIGNING"]\n'
        '[engines.saq]\npassword = "PW-of-an-engine-setting"\nurl = "redis://:PW-of-the-engine@h"\n'
    )
    (tmp_path / "penstock.toml").chmod(0o600)
    return tmp_path


def environment():
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "COV_"))},
        "SIGNING": "KEY-by-reference-0123",
        "DB_PASSWORD": "PW-in-the-environment",
        "DATABASE_URL": "postgres://ada:PW-in-a-url-of-the-environment@db",
        "PENSTOCK_LEDGER_COPY": "",
    }


def penstock(folder: Path, *arguments: str, code: int | None = None, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "penstock", *arguments], cwd=folder, env={**environment(), **env}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    if code is not None:
        assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


SUBMIT = """
from penstock import JobQueue, Secret
with JobQueue.from_config() as queue:
    for isolation in ("inline", "process"):
        job = queue.enqueue(
            "leak", "ada", "INPUT-by-position", isolation=isolation, metadata={"token": "META-token"},
            vault=Secret("SECRET-by-its-type"),
            password="INPUT-password", token="INPUT-token", client_secret="INPUT-secret", api_key="INPUT-api-key",
            headers={"authorization": "INPUT-authorization"},
        )
        print(job.id, repr(job.job), Secret("SECRET-by-its-type"))
    command = queue.enqueue_command(["sh", "-c", "echo $0 $1 $PGPASSWORD; exit 3", "--password", "FLAG-of-a-command"],
                                    env={"PGPASSWORD": "ENV-of-a-command"})
    print(command.id, repr(command.job))
"""


def found_in(text: str) -> list[str]:
    return [secret for secret in PLANTED if secret in text]


@pytest.fixture
def ask(project, monkeypatch, capfd):
    """Call the command in this process, as `penstock` would in a new one; return all that it wrote."""
    for name in os.environ:
        if name.startswith("PENSTOCK_"):
            monkeypatch.delenv(name)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project)
    handlers, level, path = list(logging.root.handlers), logging.root.level, list(sys.path)

    def called(*arguments: str, **env: str) -> str:
        with pytest.MonkeyPatch.context() as more, warnings.catch_warnings():
            for name, value in env.items():
                more.setenv(name, value)
            warnings.simplefilter("default")
            remember_environment.cache_clear()
            TASKS.discard("leak")
            logging.root.handlers[:] = []
            main(list(arguments))
        out, err = capfd.readouterr()
        return out + err

    yield called
    remember_environment.cache_clear()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.getLogger("penstock").setLevel(logging.NOTSET)
    sys.path[:] = path


@pytest.mark.slow
def test_of_the_planted_secrets_none_is_found_where_people_look(project, ask):
    env = {"PENSTOCK_ENGINES__RQ__PASSWORD": "PW-of-the-ledger"}
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT], cwd=project, env=environment(), capture_output=True, text=True, check=True
    )
    ids = [line.partition(" ")[0] for line in done.stdout.splitlines()]
    shown = {"repr": done.stdout, "worker": penstock(project, "-v", "worker", "--burst", **env)}
    for job_id in ids:
        for command in (["status", job_id], ["status", job_id, "--json"], ["logs", job_id], ["logs", job_id, "--json"]):
            shown[" ".join(command)] = ask(*command)
    for command in (["jobs"], ["jobs", "--json"], ["config", "show"], ["config", "show", "--json"], ["workers"]):
        shown[" ".join(command)] = ask(*command, **env)
    url = "rq+redis://:PW-of-the-engine@127.0.0.1:1/0"
    shown["doctor"] = ask("-vv", "doctor", PENSTOCK_BACKEND=url)
    ledger = "postgres://ada:PW-of-the-ledger@127.0.0.1:1/x"
    shown["no ledger"] = ask("-vv", "jobs", PENSTOCK_LEDGER=ledger)
    assert {where: found for where, text in shown.items() if (found := found_in(text))} == {}
    assert "by position: ***" in shown[f"logs {ids[0]}"]  # the run did tell what is hidden
    assert "by its type: ********** ********** ***\n" in shown[f"logs {ids[0]}"]
    assert "leak" in shown["jobs"]
    assert "127.0.0.1" in shown["no ledger"]
    assert "127.0.0.1" in shown["doctor"]


@pytest.mark.slow
def test_the_ledger_keeps_no_secret_but_the_input_that_the_job_needs(project):
    subprocess.run([sys.executable, "-c", SUBMIT], cwd=project, env=environment(), capture_output=True, check=True)
    penstock(project, "worker", "--burst")
    import sqlite3

    with sqlite3.connect(project / "l.db") as connection:
        (failed,) = connection.execute("SELECT count(*) FROM jobs WHERE state = 'failed'").fetchone()
        connection.execute("UPDATE jobs SET spec = x''")
        connection.execute("UPDATE jobs SET metadata = NULL")
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert failed == 3
    assert found_in(dump) == []


def test_a_log_line_of_an_async_body_hides_the_jobs_own_secrets(tmp_path):
    @task(max_attempts=1)
    async def talk(token: str):
        print("the token is", token)
        logging.getLogger("x").warning("again %s", token)
        raise ValueError(token)

    config = Config(ledger="memory://", results=str(tmp_path))
    with JobQueue("inline://", config=config, root=tmp_path) as queue, queue.captured():
        job = queue.enqueue(talk, "swordfish").wait(5)
        told = json.dumps([line.text for line in queue.ledger.logs(job.id)]) + repr(job.error)
    assert "the token is ***" in told
    assert "swordfish" not in told


def test_a_strike_by_a_secret_argument_hides_it_and_its_reason():
    one = Strike.of("pay", "api_key", "==", "STRIKE-value-1", why="token=STRIKE-why")
    other = Strike.of("pay", "api_key", "==", "STRIKE-value-2")
    assert "STRIKE" not in f"{one} {one.held} {one.why}"
    assert one.held != other.held  # by it jobs are found again
    assert str(Strike.of("pay", "amount", ">", 3)) == "pay, amount > 3"


def test_the_word_after_a_secret_flag_in_running_text_is_hidden():
    assert mask_text("curl --token hunter2 -H x --api-key 'a b' ok") == "curl --token *** -H x --api-key '***' ok"
    assert mask_text("--password-file --quiet") == "--password-file --quiet"


def test_a_logged_line_of_a_body_hides_its_jobs_secrets_in_the_workers_own_log(project):
    code = (
        "from penstock import JobQueue\n"
        "with JobQueue.from_config() as q: q.enqueue('tell', api_key='INPUT-of-the-job', tags=['password=IN-a-tag'])"
    )
    (project / "leaks.py").write_text(
        "import logging\nfrom penstock import task\n\n@task(name='tell')\ndef tell(api_key):\n"
        "    logging.getLogger('driver').warning('with %s', api_key)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, env=environment(), check=True)
    said = penstock(project, "worker", "--burst", code=0)
    assert "driver: with ***" in said
    assert "INPUT-of-the-job" not in said
    for words in (["jobs", "--json"], ["status", "tell"], ["status", "tell", "--json"]):
        assert "IN-a-tag" not in penstock(project, *words, code=0)
