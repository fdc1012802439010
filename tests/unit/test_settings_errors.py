"""A wrong setting is told with its file and line, and with what would be right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from penstock.core.exceptions import ConfigError
from penstock.settings import load
from penstock.settings.keys import is_duration, known


def told(folder: Path, text: str, name: str = "penstock.toml", env: dict[str, str] | None = None) -> str:
    (folder / name).write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(folder, env=env or {})
    return str(raised.value)


# -- unknown keys -----------------------------------------------------------------------------------------


def test_an_unknown_key_tells_its_line_its_table_and_what_was_meant(tmp_path):
    text = '# penstock\nbackend = "inline://"\n\n[defaults]\n\n\nretires = 3\n'
    assert told(tmp_path, text) == "penstock.toml:7: unknown key 'retires' in [defaults]; did you mean 'max_attempts'?"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[defaults]\nmax_retries = 1", "did you mean 'max_attempts'?"),
        ("[defaults]\ntimeuot = 1", "did you mean 'timeout'?"),
        ("[defaults]\nretry_delay = 1", "did you mean 'backoff'?"),
        ("retries = 1", "did you mean 'max_attempts' in [defaults]?"),
        ('url = "x"', "did you mean 'backend'?"),
        ('broker = "x"', "did you mean 'backend'?"),
        ('cron = "x"', "did you mean [schedules]?"),
        ("concurrency = 1", "did you mean 'concurrency' in [worker]?"),
        ("num_workers = 1", "did you mean 'concurrency' in [worker]?"),
        ("tz = 1", "did you mean 'timezone'?"),
        ("time-zone = 1", "did you mean 'timezone'?"),
        ("[job_defaults]\na = 1", "unknown table [job_defaults]; did you mean [defaults]?"),
        ("[workers]\na = 1", "did you mean"),
        ('[worker]\nbackend = "x"', "did you mean 'backend' at the top of the file?"),
        ("[lease]\nconcurrency = 1", "did you mean 'concurrency' in [worker]?"),
        ("[history]\nkeep = 1", "did you mean 'keep_succeeded'?"),
    ],
)
def test_a_word_that_is_near_or_of_another_tool_finds_its_key(tmp_path, text, meant):
    assert meant in told(tmp_path, text)


def test_a_word_that_is_near_to_nothing_lists_what_there_is(tmp_path):
    assert told(tmp_path, "[lease]\nxyzzy = 1").startswith(
        "penstock.toml:2: unknown key 'xyzzy' in [lease]; there are: ttl, heartbeat,"
    )


def test_an_unknown_key_of_a_pyproject_names_the_whole_table(tmp_path):
    text = "[tool.penstock.lease]\ntll = 1"
    assert told(tmp_path, text, "pyproject.toml") == (
        "pyproject.toml:2: unknown key 'tll' in [tool.penstock.lease]; did you mean 'ttl'?"
    )


def test_a_key_in_a_broken_pyproject_is_not_passed_by(tmp_path):
    assert told(tmp_path, "[tool.penstock]\nbackend = \n", "pyproject.toml").startswith("pyproject.toml:2:11: not TOML")


# -- lines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n\nlease.tll = 1", 3),
        ("[lease]\n'tll' = 1", 2),
        ("lease = { ttl = 1, tll = 2 }", 1),
        ('[lease]\ntll = 1\n[engines.x]\ny = """\n[lease]\ntll = 1\n"""', 2),
        ('tasks = [\n  "tll = 1",\n]\n[ lease ]  # here\n\n\ntll = 1', 7),
        ("[engines.huey]\ntll = 1\n[lease]\ntll=1", 4),
    ],
)
def test_the_line_is_that_of_the_key_however_the_file_is_written(tmp_path, text, line):
    assert told(tmp_path, text).startswith(f"penstock.toml:{line}: unknown key 'tll'")


def test_broken_toml_tells_line_and_column(tmp_path):
    assert told(tmp_path, 'a = 1\nbackend "x"\n').startswith("penstock.toml:2:9: not TOML: ")


def test_a_file_that_ends_too_early_tells_its_last_line(tmp_path):
    assert re.match(r"penstock\.toml:\d+(:\d+)?: not TOML: ", told(tmp_path, '\ntasks = ["a",\n'))


def test_a_file_that_is_no_text_is_told(tmp_path):
    (tmp_path / "penstock.toml").write_bytes(b'namespace = "\xff"')
    with pytest.raises(ConfigError, match=r"penstock\.toml: not UTF-8 at byte 13"):
        load(tmp_path, env={})


# -- types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[worker]\nconcurrency = "four"', 2, "worker.concurrency = 'four': expected int, got str"),
        ("[worker]\nconcurrency = true", 2, "expected int, got bool"),
        ("[lease]\n\nttl = true", 3, "got bool"),
        ("backend = 5", 1, "backend = 5: expected str, got int"),
        ('tasks = "jobs/"', 1, 'expected array, got str; write tasks = ["jobs/"]'),
        ("tasks = [1]", 1, "expected str, got int"),
        ('durability = "safe"', 1, "invalid enum value 'safe'"),
        ("worker = 4", 1, "'worker' is a table; write [worker]"),
        ('[engines]\nhuey = "x"', 2, "'huey' is a table; write [engines.huey]"),
        ("[worker.concurrency]\na = 1", 1, "expected int, got object"),
    ],
)
def test_a_value_of_the_wrong_type_tells_its_line_and_the_right_type(tmp_path, text, line, problem):
    message = told(tmp_path, text)
    assert message.startswith(f"penstock.toml:{line}: ")
    assert problem in message


# -- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "text", "problem"),
    [
        ("lease", 'ttl = "soon"', "lease.ttl: 'soon' is not a duration; write 90, '90s'"),
        ("lease", 'ttl = "0s"', "lease.ttl: must be longer than 0"),
        ("lease", 'heartbeat = "-1s"', "lease.heartbeat: must be longer than 0"),
        ("lease", 'heartbeat = "60s"', "lease.heartbeat (60s) must be shorter than lease.ttl (60s)"),
        ("lease", 'ttl = "20s"\nheartbeat = "20s"', "lease.heartbeat (20s) must be shorter than lease.ttl (20s)"),
        ("lease", 'fence_margin = "2m"', "lease.fence_margin (2m) must be shorter than lease.ttl (60s)"),
        (
            "lease",
            'fence_margin = "50s"',
            "lease.heartbeat (15s) must be shorter than lease.ttl less lease.fence_margin",
        ),
        ("lease", 'on_lost = "panic"', "invalid enum value 'panic'"),
        ("sweep", 'interval = "PT"', "sweep.interval: 'PT' is not a duration"),
        ("sweep", "batch = 0", "sweep.batch: must be at least 1"),
        ("sweep", 'max_publish_grace = "1s"', "must not be shorter than sweep.publish_grace (30s)"),
        ("worker", "concurrency = 0", "worker.concurrency: must be at least 1, not 0"),
        ("worker", "max_jobs_per_child = 0", "must be at least 1"),
        ("worker", "queues = []", "must name at least one queue"),
        ("worker", 'queues = ["a b"]', "'a b' is not a queue's name"),
        ("defaults", "priority = 10", "defaults.priority: must be from 0 to 9, not 10"),
        ("defaults", "priority = -1", "must be from 0 to 9"),
        ("defaults", "max_attempts = 0", "defaults.max_attempts: must be at least 1"),
        ("defaults", "max_crashes = 0", "must be at least 1"),
        ("defaults", 'backoff = "10m..10s"', "the waits must be positive and grow"),
        ("defaults", 'backoff = "often"', "is not a backoff; write '10s..10m' (doubling)"),
        ("defaults", 'timeout = "0s"', "defaults.timeout: must be longer than 0"),
        ("defaults", 'queue = ""', "is not a queue's name"),
        ("history", 'keep_failed = "-1d"', "must be longer than or equal to 0"),
    ],
)
def test_a_value_that_makes_no_sense_tells_its_line(tmp_path, table, text, problem):
    message = told(tmp_path, f"[{table}]\n{text}\n")
    assert re.match(r"penstock\.toml:[23]: |default: ", message)
    assert problem in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('backend = "redis"', "backend: 'redis' is not a URL; write one such as"),
        ('backend = "huey+sqlite://q.db"', "names no file; write huey+sqlite:///relative.db"),
        ('ledger = "a.db"', "ledger: 'a.db' is not a URL; write one such as 'sqlite:///.penstock/ledger.db'"),
        ('ledger = "sqlite:///"', "names no file"),
        ('results = " "', "must name a folder or a URL"),
        ('namespace = "a b"', "is not a name"),
        ('timezone = "Europe/Berln"', "Did you mean 'Europe/Berlin'?"),
        ('tasks = [""]', "holds an empty text"),
        ("result_inline_max_bytes = -1", "must be at least 0"),
    ],
)
def test_a_value_at_the_top_that_makes_no_sense_tells_its_line(tmp_path, text, problem):
    message = told(tmp_path, f"\n{text}")
    assert message.startswith("penstock.toml:2: ")
    assert problem in message


def test_of_two_values_that_do_not_fit_the_one_that_somebody_set_is_blamed(tmp_path):
    message = told(tmp_path, '[lease]\nheartbeat = "20s"\n', env={"PENSTOCK_LEASE__TTL": "10s"})
    assert message.startswith("penstock.toml:2: lease.heartbeat (20s) must be shorter than lease.ttl (10s)")


def test_a_wrong_value_of_a_variable_names_the_variable(tmp_path):
    with pytest.raises(ConfigError, match=r"^env PENSTOCK_LEASE__TTL: lease\.ttl: 'soon' is not a duration"):
        load(tmp_path, env={"PENSTOCK_LEASE__TTL": "soon"})


def test_a_password_is_not_in_an_error(tmp_path):
    assert "hunter2" not in told(tmp_path, 'ledger = "1redis://u:hunter2@h"')


def test_every_setting_that_takes_a_text_or_a_number_is_checked_as_a_duration():
    durations = {key for key in known() if is_duration(key)}
    assert durations == {key for key, kind in known().items() if float in get_args(kind)}
    assert {"lease.ttl", "defaults.timeout", "history.keep_failed", "worker.grace"} <= durations
