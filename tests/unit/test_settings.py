"""Where settings are found, which one wins, and what is told of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.core.config import Config
from penstock.core.exceptions import ConfigError
from penstock.settings import anchored, load, schema


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    return folder


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def read(folder: Path, env: dict[str, str] | None = None, **more):
    return load(folder, env=env or {}, **more)


# -- finding ----------------------------------------------------------------------------------------------


def test_without_any_file_the_defaults_hold_and_the_start_is_the_root(home):
    settings = read(home)
    assert settings.config == Config()
    assert (settings.root, settings.project_file) == (home, None)
    assert set(settings.origins.values()) == {"default"}


def test_the_nearest_file_above_is_the_projects(home):
    write(home, "penstock.toml", 'namespace = "shop"')
    below = home / "a" / "b"
    below.mkdir(parents=True)
    settings = read(below)
    assert settings.config.namespace == "shop"
    assert settings.root == home


def test_penstock_toml_goes_before_pyproject_in_one_folder(home):
    write(home, "penstock.toml", 'namespace = "own"')
    write(home, "pyproject.toml", '[tool.penstock]\nnamespace = "other"')
    assert read(home).config.namespace == "own"


def test_a_pyproject_without_our_table_is_passed_by(home):
    write(home, "penstock.toml", 'namespace = "shop"')
    write(home, "lib/pyproject.toml", "[tool.ruff]\nline-length = 100  # not of penstock")
    assert read(home / "lib").config.namespace == "shop"


def test_a_pyproject_counts_with_our_table_and_tells_its_lines(home):
    write(home, "pyproject.toml", '[project]\nname = "x"\n\n[tool.penstock.worker]\nconcurrency = 2\n')
    settings = read(home)
    assert settings.config.worker.concurrency == 2
    assert settings.origins["worker.concurrency"] == "pyproject.toml:5"


def test_a_file_that_is_named_is_taken_and_its_folder_is_the_root(home):
    file = write(home, "conf/other.toml", 'namespace = "named"')
    write(home, "penstock.toml", 'namespace = "found"')
    settings = read(home, file=file)
    assert (settings.config.namespace, settings.root) == ("named", home / "conf")


def test_the_environment_may_name_the_file(home):
    write(home, "other.toml", 'namespace = "named"')
    assert read(home, {"PENSTOCK_CONFIG": "other.toml"}).config.namespace == "named"


def test_a_named_file_that_is_not_there_is_an_error(home):
    with pytest.raises(ConfigError, match=r"gone\.toml: cannot be read: No such file"):
        read(home, file=home / "gone.toml")


def test_a_named_pyproject_without_our_table_is_an_error(home):
    with pytest.raises(ConfigError, match=r"no table \[tool.penstock\]"):
        read(home, file=write(home, "pyproject.toml", "tool = 5"))


def test_a_start_that_does_not_exist_is_an_error(home):
    with pytest.raises(ConfigError, match="there is no folder"):
        read(home / "gone")


# -- FlowerPower ------------------------------------------------------------------------------------------


def test_a_flowerpower_folder_is_a_project_by_itself(home):
    write(home, "conf/project.yml", "name: flights\n")
    (home / "pipelines").mkdir()
    settings = read(home / "pipelines")
    assert settings.root == settings.flowerpower_root == home
    assert settings.config.projects == (".",)
    assert settings.resolved().projects == (str(home),)


def test_a_job_queue_block_is_honoured(home):
    write(
        home,
        "conf/project.yml",
        "name: flights\njob_queue:\n  backend: inline://\n  job_defaults:\n    max_retries: 2\n",
    )
    settings = read(home)
    assert settings.config.backend == "inline://"
    assert settings.config.defaults.max_attempts == 3
    assert settings.origins["backend"] == "conf/project.yml job_queue"


def test_queue_yml_of_a_flowerpower_project_goes_before_its_block(home):
    write(home, "conf/project.yml", "name: flights\njob_queue:\n  namespace: block\n")
    write(home, "conf/queue.yml", "namespace: own\n")
    settings = read(home)
    assert (settings.config.namespace, settings.origins["namespace"]) == ("own", "conf/queue.yml")
    assert settings.project_file == home / "conf" / "queue.yml"


def test_penstock_toml_beside_a_flowerpower_project_rules_and_the_project_is_listed(home):
    write(home, "conf/project.yml", "name: flights\njob_queue:\n  namespace: block\n")
    write(home, "penstock.toml", 'namespace = "own"')
    settings = read(home)
    assert (settings.config.namespace, settings.config.projects) == ("own", (".",))
    assert settings.flowerpower_root == home


def test_projects_that_somebody_lists_are_left_alone(home):
    write(home, "conf/project.yml", "name: flights\n")
    write(home, "penstock.toml", 'projects = ["elsewhere"]')
    assert read(home).config.projects == ("elsewhere",)


# -- layers -----------------------------------------------------------------------------------------------


def test_later_layers_win_and_each_value_names_its_own(home, tmp_path):
    write(
        tmp_path,
        "xdg/penstock/config.toml",
        '[worker]\nconcurrency = 1\ngrace = "1s"\nqueues = ["a"]\nmax_jobs_per_child = 9',
    )
    write(home, "penstock.toml", '[worker]\nconcurrency = 2\ngrace = "2s"\nqueues = ["b"]\n')
    env = {
        "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        "PENSTOCK_WORKER__CONCURRENCY": "3",
        "PENSTOCK_WORKER__GRACE": "3s",
    }
    settings = read(home, env, flags={"worker.concurrency": 4, "worker.queues": None})
    worker = settings.config.worker
    assert (worker.concurrency, worker.grace, worker.queues, worker.max_jobs_per_child) == (4, "3s", ("b",), 9)
    told = {key: settings.origins[f"worker.{key}"] for key in ("concurrency", "grace", "queues")}
    assert told == {
        "concurrency": "flag --concurrency",
        "grace": "env PENSTOCK_WORKER__GRACE",
        "queues": "penstock.toml:4",
    }
    assert settings.origins["worker.max_jobs_per_child"].endswith("config.toml:5")


def test_the_users_own_file_is_found_in_the_home_folder(home, tmp_path):
    write(tmp_path, ".config/penstock/config.toml", 'namespace = "mine"')
    settings = read(home, {"HOME": str(tmp_path)})
    assert settings.origins["namespace"] == "~/.config/penstock/config.toml:1"


def test_the_url_flag_is_told_as_people_type_it(home):
    assert read(home, flags={"backend": "inline://"}).origins["backend"] == "flag --url"


def test_an_unknown_flag_is_an_error(home):
    with pytest.raises(
        ConfigError, match=r"flag --concurency: unknown key 'concurency' in \[worker\]; did you mean 'conc"
    ):
        read(home, flags={"worker.concurency": 4})


# -- the environment --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "tasks"),
    [
        ('["shop.tasks"]', ("shop.tasks",)),
        ('["jobs/", "shop.tasks"]', ("jobs/", "shop.tasks")),
        ("jobs/", ("jobs/",)),
        ("[]", ()),
    ],
)
def test_a_list_is_json_or_one_element(home, value, tasks):
    assert read(home, {"PENSTOCK_TASKS": value}).config.tasks == tasks


@pytest.mark.parametrize("value", ["a,b", '["a"', "[1]", "[a, b]"])
def test_a_list_that_cannot_be_read_names_its_variable(home, value):
    with pytest.raises(ConfigError, match=r"^env PENSTOCK_TASKS: tasks"):
        read(home, {"PENSTOCK_TASKS": value})


def test_texts_are_read_as_numbers_and_flags(home):
    env = {
        "PENSTOCK_LEASE__TTL": "90",
        "PENSTOCK_WORKER__CONCURRENCY": "8",
        "PENSTOCK_UNSAFE_NETWORK_FS": "true",
        "PENSTOCK_DEFAULTS__TIMEOUT": "null",
    }
    config = read(home, env).config
    assert (config.worker.concurrency, config.unsafe_network_fs, config.defaults.timeout) == (8, True, None)
    assert float(config.lease.ttl) == 90


def test_a_table_may_be_json_and_the_more_exact_variable_wins(home):
    env = {"PENSTOCK_LEASE": '{"ttl": "20s", "heartbeat": "2s"}', "PENSTOCK_LEASE__HEARTBEAT": "1s"}
    lease = read(home, env).config.lease
    assert (lease.ttl, lease.heartbeat) == ("20s", "1s")


def test_settings_of_an_engine_are_free_and_read_as_json_where_they_are(home):
    env = {
        "PENSTOCK_ENGINES__HUEY__POLL_S": "0.1",
        "PENSTOCK_ENGINES__HUEY__NAME": "x",
        "PENSTOCK_ENGINES__RQ": '{"a": 1}',
    }
    assert read(home, env).config.engines == {"huey": {"poll_s": 0.1, "name": "x"}, "rq": {"a": 1}}


def test_an_unknown_variable_names_the_one_that_was_meant(home):
    with pytest.raises(ConfigError, match=r"env PENSTOCK_LEASE__TLT.*did you mean PENSTOCK_LEASE__TTL"):
        read(home, {"PENSTOCK_LEASE__TLT": "2s"})


@pytest.mark.parametrize("value", ['{"ttl"', "2s", "[1]"])
def test_a_table_that_is_no_json_names_its_variable(home, value):
    with pytest.raises(ConfigError, match=r"^env PENSTOCK_LEASE: "):
        read(home, {"PENSTOCK_LEASE": value})


def test_an_unknown_key_inside_a_json_table_names_its_variable(home):
    with pytest.raises(ConfigError, match=r"^env PENSTOCK_LEASE: unknown key 'tll' in \[lease\]; did you mean 'ttl'"):
        read(home, {"PENSTOCK_LEASE": '{"tll": 1}'})


def test_an_empty_variable_counts_as_not_set(home):
    assert read(home, {"PENSTOCK_TIMEZONE": ""}).origins["timezone"] == "default"


@pytest.mark.parametrize(
    "name",
    [
        "PENSTOCK_FAIL",
        "PENSTOCK_REQUIRE_SERVICES",
        "PENSTOCK_TEST_SERVERS",
        "PENSTOCK_LOG",
        "PENSTOCK_LOG_FILE",
        "PENSTOCK_SERVICE_HOST",
        "PENSTOCK_PORT",
        "PENSTOCK_WEB_PORT_8765_TCP_ADDR",
    ],
)
def test_variables_of_others_are_left_alone(home, name):
    assert read(home, {name: "tcp://10.0.0.1:80"}).config == Config()


def test_a_short_lease_brings_a_short_heartbeat_when_nobody_set_one(home):
    settings = read(home, {"PENSTOCK_LEASE__TTL": "2s"})
    assert settings.config.lease.heartbeat == 0.5
    assert settings.origins["lease.heartbeat"] == "default, a part of lease.ttl"


# -- references -------------------------------------------------------------------------------------------


def test_a_reference_to_a_variable_is_followed_for_use_and_shown_as_written(home):
    write(home, "penstock.toml", 'backend = "env:QUEUE_URL"\nledger = "sqlite:///${NAME}.db"')
    settings = read(home, {"QUEUE_URL": "saq+redis://u:hunter2@h", "NAME": "shop"})
    assert settings.config.backend == "saq+redis://u:hunter2@h"
    assert settings.config.ledger == "sqlite:///shop.db"
    shown = {key: value for key, value, _ in settings.shown()}
    assert (shown["backend"], shown["ledger"]) == ("env:QUEUE_URL", "sqlite:///${NAME}.db")


def test_a_reference_to_a_file_is_read_without_its_line_end(home):
    write(home, "secret", "hunter2\n")
    write(home, "penstock.toml", '[engines.rq]\nurl = "file:secret"')
    settings = read(home)
    assert settings.config.engines["rq"]["url"] == "hunter2"
    assert "hunter2" in settings.secrets


def test_a_file_url_is_no_reference(home):
    write(home, "penstock.toml", 'results = "file:///data/results"')
    assert read(home).config.results == "file:///data/results"


def test_a_number_may_stand_in_a_variable(home):
    write(home, "penstock.toml", '[worker]\nconcurrency = "env:N"')
    assert read(home, {"N": "7"}).config.worker.concurrency == 7


def test_a_missing_variable_is_named_with_the_key_and_its_line(home):
    write(home, "penstock.toml", '\nbackend = "env:QUEUE_URL"')
    told = r"penstock\.toml:2: backend refers to the environment variable QUEUE_URL, which is not set"
    with pytest.raises(ConfigError, match=told):
        read(home)


def test_a_missing_file_is_named_with_the_key_and_its_line(home):
    write(home, "penstock.toml", 'backend = "file:/gone/secret"')
    with pytest.raises(ConfigError, match=r"penstock\.toml:1: backend refers to the file /gone/secret"):
        read(home)


def test_a_reference_that_a_later_layer_overrides_is_never_followed(home):
    write(home, "penstock.toml", 'backend = "env:GONE"')
    assert read(home, flags={"backend": "inline://"}).config.backend == "inline://"


def test_the_inputs_of_a_schedule_are_kept_as_they_are(home):
    write(home, "penstock.toml", '[schedules."sales.nightly"]\ntask = "sales"\ninputs = { region = "${REGION}" }')
    assert read(home).config.schedules == {"sales.nightly": {"task": "sales", "inputs": {"region": "${REGION}"}}}


def test_what_a_reference_led_to_is_not_in_an_error(home):
    write(home, "penstock.toml", '[worker]\nconcurrency = "env:PASSWORD"')
    with pytest.raises(ConfigError) as raised:
        read(home, {"PASSWORD": "hunter2"})
    assert "hunter2" not in str(raised.value)


# -- showing ----------------------------------------------------------------------------------------------


def test_passwords_and_tokens_are_hidden_in_what_is_shown(home):
    write(
        home,
        "penstock.toml",
        'backend = "rq+redis://u:hunter2@h"\n[engines.rq]\npassword = "hunter2"\nconn = {api_key = "hunter2"}',
    )
    settings = read(home, {"PENSTOCK_LEDGER": "postgres://u:hunter2@h/db"})
    assert "hunter2" not in json.dumps(settings.shown())
    assert "hunter2" not in repr(settings)


def test_every_setting_is_shown_with_its_origin(home):
    shown = read(home, {"PENSTOCK_LEASE__TTL": "2s"}).shown()
    assert ("lease.ttl", "2s", "env PENSTOCK_LEASE__TTL") in shown
    assert ("worker.queues", ["default"], "default") in shown


def test_the_schema_of_the_file_is_json(home):
    assert "lease" in json.dumps(schema())


# -- paths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("sqlite:///a.db", "sqlite:////shop/a.db"),
        ("huey+sqlite:///.penstock/q.db?x=1", "huey+sqlite:////shop/.penstock/q.db?x=1"),
        ("sqlite:////abs/a.db", "sqlite:////abs/a.db"),
        ("rq+redis://localhost:6379/0", "rq+redis://localhost:6379/0"),
        ("inline://", "inline://"),
    ],
)
def test_only_the_path_of_a_relative_sqlite_url_moves(url, absolute):
    assert anchored(Config(backend=url), Path("/shop")).backend == absolute


def test_folders_files_and_projects_move_and_modules_stay(home):
    (home / "exists").mkdir()
    config = Config(tasks=("jobs/", "exists", "one.py", "shop.tasks"), projects=("a", "/b"), results="out")
    moved = anchored(config, home)
    assert moved.tasks == (f"{home}/jobs/", f"{home}/exists/", f"{home}/one.py", "shop.tasks")
    assert moved.projects == (f"{home}/a", "/b")
    assert moved.results == f"{home}/out"


def test_a_results_url_stays():
    assert anchored(Config(results="s3://bucket/x"), Path("/shop")).results == "s3://bucket/x"


def test_anchoring_twice_changes_nothing_more(home):
    once = anchored(Config(tasks=("jobs/", "x.py", "m"), projects=("a",)), home)
    assert anchored(once, Path("/elsewhere")) == once


# -- cost -------------------------------------------------------------------------------------------------


def test_importing_settings_loads_no_parser_and_no_zone():
    code = (
        "import sys, penstock.settings; "
        "print([m for m in ('tomllib', 'yaml', 'cronsim', 'zoneinfo', 'rich', 'huey') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
