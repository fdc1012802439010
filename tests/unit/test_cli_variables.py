"""Options as variables: the whole tree of commands, as the parser knows it."""

from __future__ import annotations

import inspect
import json
import os
from functools import cache

import pytest

from penstock.cli.commands import COMMANDS
from penstock.cli.dispatch import build, dispatch
from penstock.cli.variables import LIST
from penstock.core.exceptions import ConfigError
from penstock.settings.environment import from_environment, variable_of
from penstock.settings.keys import known
from penstock.settings.options import EVERYWHERE, OPTIONS, option_variable, option_variables

GROUPS = {command.name.partition(" ")[0] for command in COMMANDS if " " in command.name}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in list(os.environ):
        if name.startswith("PENSTOCK_"):
            monkeypatch.delenv(name)


def words_of(command: str) -> list[str]:
    return [command, LIST] if command in GROUPS else command.split()


PARSER = build()


@cache
def parsed(command: str):
    _, apps, _ = PARSER.parse_commands(words_of(command))
    return [one for one in apps[-1].assemble_argument_collection(parse_docstring=False) if one.parse]


def options_of(command: str):
    """Return the options of a command as the parser knows them."""
    return [
        one for one in parsed(command) if one.field_info.kind is inspect.Parameter.KEYWORD_ONLY and not one.children
    ]


def required_of(command: str) -> list[str]:
    """Return words that a command cannot do without."""
    words = ["word" for one in parsed(command) if one.required and not one.name.startswith("-")]
    return words + [f"{one.name}=word" for one in options_of(command) if one.required]


TREE = [
    pytest.param(command.name, option.name, id=f"{command.name} {option.name}")
    for command in COMMANDS
    for option in options_of(command.name)
]


def test_the_table_of_options_is_what_the_parser_knows():
    found = {command.name: [option.name for option in options_of(command.name)] for command in COMMANDS}
    told = {
        command: [f"--{word.replace('_', '-')}" for word in options.split()] for command, options in OPTIONS.items()
    }
    assert {name: sorted(options) for name, options in told.items()} == {
        name: sorted(options) for name, options in found.items() if options
    }


def test_no_two_options_share_a_variable_and_none_is_that_of_a_setting():
    names = [option_variable(command, option) for command, text in OPTIONS.items() for option in text.split()]
    assert len(names) == len(set(names))
    assert not set(names) & {variable_of(key) for key in known()}
    assert not set(names) & set(EVERYWHERE.values())


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_the_help_of_a_command_names_the_variable_of_each_option_and_of_no_word(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    dispatch([*command.split(), *([LIST] if command in GROUPS else []), "--help"])
    own, _, everywhere = capsys.readouterr().out.partition("Everywhere")
    for option in options_of(command):
        assert f"[env var: {option_variable(command, option.name)}]" in own
    assert own.count("[env var:") == len(options_of(command))
    assert [name for name in EVERYWHERE.values() if f"[env var: {name}]" not in everywhere] == []


@pytest.mark.parametrize(("command", "name"), TREE)
def test_a_variable_says_what_the_flag_says(command, name, monkeypatch):
    option = next(one for one in options_of(command) if one.name == name)
    flag, text = f"{name}=7", "7"
    if option.hint in (bool, bool | None):
        flag, text = name, "yes"
    words = [*words_of(command), *(word for word in required_of(command) if not word.startswith(f"{name}="))]

    def bound(*more: str):
        return PARSER.parse_args([*words, *more], exit_on_error=False, print_error=False)[1]

    said = bound(flag)
    monkeypatch.setenv(option_variable(command, name), text)
    assert bound() == said


def call(command: str, *words: str) -> dict:
    return PARSER.parse_args([command, *words], exit_on_error=False, print_error=False)[1].arguments


@pytest.mark.parametrize(
    ("text", "found"), [("a=1 b=2", ("a=1", "b=2")), ('["a b=1", "c=2"]', ("a b=1", "c=2")), ("a=1", ("a=1",))]
)
def test_a_list_is_words_or_json(text, found, monkeypatch):
    monkeypatch.setenv("PENSTOCK_WORKER_AT_MOST", text)
    assert call("worker")["at_most"] == found


@pytest.mark.parametrize(("text", "found"), [("no", False), ("0", False), ("off", False), ("TRUE", True), ("on", True)])
def test_a_switch_may_be_off(text, found, monkeypatch):
    monkeypatch.setenv("PENSTOCK_WORKER_SCHEDULER", text)
    assert call("worker")["scheduler"] is found


def test_a_flag_wins(monkeypatch):
    monkeypatch.setenv("PENSTOCK_WORKER_SCHEDULER", "true")
    monkeypatch.setenv("PENSTOCK_WORKER_TASKS", "a b")
    found = call("worker", "--no-scheduler", "--tasks", "c")
    assert (found["scheduler"], found["tasks"]) == (False, ("c",))


def test_an_empty_one_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("PENSTOCK_WORKER_CONCURRENCY", "")
    assert "concurrency" not in call("worker")


def test_what_kubernetes_writes_of_a_service_is_no_option(monkeypatch):
    monkeypatch.setenv("PENSTOCK_WORKER_HEALTH_PORT", "tcp://10.0.0.1:80")
    assert "health_port" not in call("worker")


# -- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PENSTOCK_WORKER_BURST", "maybe"),
        ("PENSTOCK_WORKER_CONCURRENCY", "many"),
        ("PENSTOCK_WORKER_CONCURRENCY", "0"),
        ("PENSTOCK_WORKER_CONCURRENCY", "1.5"),
        ("PENSTOCK_WORKER_GRACE", "soon"),
        ("PENSTOCK_WORKER_AT_MOST", "poll"),
        ("PENSTOCK_WORKER_AT_MOST", '["poll=1"'),
        ("PENSTOCK_VERBOSE", "loud"),
        ("PENSTOCK_JSON", "perhaps"),
    ],
)
def test_a_wrong_value_is_told_with_its_variable(name, text, monkeypatch, capsys):
    monkeypatch.setenv(name, text)
    monkeypatch.setenv("PENSTOCK_WORKER_PROCESSES", "2")  # of which nothing is told
    assert dispatch(["worker", "--url", "inline://", "--ledger", "memory://"]) == 2
    told = capsys.readouterr().err
    assert name in told
    assert "PENSTOCK_WORKER_PROCESSES" not in told


@pytest.mark.parametrize(
    "words", [["enqueue", "x", "--max-crashes", "1.5"], ["jobs", "--limit=2.5"], ["worker", "-c", "1.5"]]
)
def test_a_fraction_is_not_rounded(words, capsys):
    assert dispatch(words) == 2
    assert "takes a whole number, not" in capsys.readouterr().err


def test_an_error_is_json_where_the_variable_asks_for_it(monkeypatch, capsys):
    monkeypatch.setenv("PENSTOCK_JSON", "1")
    monkeypatch.setenv("PENSTOCK_WORKER_GRACE", "soon")
    assert dispatch(["worker"]) == 2
    assert "PENSTOCK_WORKER_GRACE" in json.loads(capsys.readouterr().err)["error"]["message"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PENSTOCK_WATCH_ONEC", "PENSTOCK_WATCH_ONCE"),
        ("PENSTOCK_WORKER_BURTS", "PENSTOCK_WORKER_BURST"),
        ("PENSTOCK_WORKER_CONCURENCY", "PENSTOCK_WORKER__CONCURRENCY"),
        ("PENSTOCK_WORKER_HEALTH_PATIENCE", "PENSTOCK_WORKER__HEALTH_PATIENCE"),
        ("PENSTOCK_SCHEDULER_INTERVAL", "PENSTOCK_SCHEDULER__INTERVAL"),
    ],
)
def test_a_variable_that_is_neither_option_nor_setting_is_refused(name, meant):
    with pytest.raises(ConfigError, match=rf"^env {name}: .*did you mean {meant}\?$"):
        from_environment({name: "1"})


def test_settings_leave_the_variables_of_options_alone():
    everywhere = {"PENSTOCK_PROJECT", "PENSTOCK_JSON", "PENSTOCK_VERBOSE", "PENSTOCK_QUIET", "PENSTOCK_NO_COLOR"}
    assert from_environment(dict.fromkeys([*option_variables(), *everywhere], "x")) == {}


# -- what is inherited ------------------------------------------------------------------------------------------------


def test_a_job_does_not_inherit_how_its_worker_was_called(monkeypatch, tmp_path, capsys):
    (tmp_path / "looks.py").write_text(
        "import os\n\nfrom penstock import task\n\n\n@task(isolation='inline')\ndef here() -> str:\n"
        "    return ' '.join(sorted(name for name in os.environ if name.startswith('PENSTOCK_')))\n\n\n"
        "@task\ndef apart() -> str:\n"
        "    return ' '.join(sorted(name for name in os.environ if name.startswith('PENSTOCK_')))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_BACKEND", "huey+sqlite:///queue.db")
    monkeypatch.setenv("PENSTOCK_LEDGER", "sqlite:///ledger.db")
    monkeypatch.setenv("PENSTOCK_TASKS", "looks.py")
    for name in ("here", "apart"):
        assert dispatch(["enqueue", name]) == 0
    monkeypatch.setenv("PENSTOCK_WORKER_BURST", "true")
    monkeypatch.setenv("PENSTOCK_WORKER_MAX_JOBS", "9")
    assert dispatch(["worker", "--max-jobs", "2"]) == 0
    for name in ("here", "apart"):
        capsys.readouterr()
        assert dispatch(["result", name]) == 0
        assert capsys.readouterr().out.split() == ["PENSTOCK_BACKEND", "PENSTOCK_LEDGER", "PENSTOCK_TASKS"]
    assert os.environ["PENSTOCK_WORKER_BURST"] == "true"  # only for as long as the command ran
