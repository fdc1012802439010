"""What a body wrote steers nobody's terminal, and is no markup of ours: on each screen, in a pipe, in JSON."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from cli_shell import Shell, process_as_before  # noqa: F401 - a fixture

from penstock.cli.session import Session
from penstock.core.visible import visible, visible_json

EVIL = "\x1b]0;window\x07\x1b[2J\x9b31m\x7f\u202eback\u2066\x08[/red]"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TASK_FILE = f"""
import logging
from penstock import Run, task
EVIL = {EVIL!r}

class Bad(Exception):
    pass

Bad.__name__ = Bad.__qualname__ = "Bad" + EVIL

@task(name="odd[/red]name", max_attempts=1)
def odd(fails: bool, run: Run) -> dict:
    print("line", EVIL)
    run.message = "message " + EVIL
    logging.getLogger("logger" + EVIL).warning("warned %s", EVIL)
    if fails:
        raise Bad(EVIL)
    return {{"[/x]" + EVIL: [EVIL]}}

@task
def table() -> dict:
    import pandas
    return {{"[/x]" + EVIL: pandas.DataFrame({{"[/c]": [EVIL]}}), "text": EVIL}}
"""


@pytest.fixture
def penstock(tmp_path: Path, monkeypatch, capfd) -> Shell:
    (tmp_path / "tasks.py").write_text(TASK_FILE)
    (tmp_path / "penstock.toml").write_text('backend = "inline://"\ntasks = ["tasks.py"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    return Shell(capfd)


@pytest.fixture(params=["pipe", "terminal"])
def seen(request, monkeypatch):
    if request.param == "terminal":
        monkeypatch.setattr(Session, "pretty", property(lambda session: not session.json))


COMMANDS = [["status"], ["logs"], ["result"], ["explain"], ["watch", "--once"]]
ABOUT_ALL = [["jobs"], ["status"], ["dead-letters"], ["snapshot"], ["top", "--once"], ["tasks"], ["audit"], ["rules"]]


def test_no_screen_lets_through_what_steers_a_terminal(penstock, seen):
    ids = [
        penstock.json("enqueue", "odd[/red]name", f"fails={fails}", "--tag", f"tag{EVIL}")[0]["id"]
        for fails in ("true", "false")
    ]
    penstock("strike", "odd[/red]name", "--why", f"why {EVIL}")
    ids.append(penstock.json("enqueue", "odd[/red]name", "fails=true")[0]["id"])
    for words in [*ABOUT_ALL, *([*command, job_id] for command in COMMANDS for job_id in ids)]:
        for more in ([], ["--json"]):
            code = penstock(*words, *more)
            shown = penstock.out + penstock.err
            assert code in (0, 1, 124), shown
            assert "MarkupError" not in shown, words
            assert STEERING.findall(shown) == [], (words, more)


def test_the_worker_tells_of_a_line_and_steers_nothing(penstock, process_as_before):  # noqa: F811
    assert penstock("-v", "enqueue", "odd[/red]name", "fails=false") == 0
    logging.getLogger("driver").warning("lost %s", EVIL)
    assert "\x1b" not in penstock.err


def test_parts_of_a_result_may_have_any_name(penstock, monkeypatch):
    pytest.importorskip("pandas")
    monkeypatch.setattr(Session, "pretty", property(lambda session: not session.json))
    (job,) = penstock.json("enqueue", "table")
    assert penstock("result", job["id"]) == 0, penstock.err
    assert "[/x]␛" in penstock.out
    assert STEERING.findall(penstock.out) == []


def test_json_says_what_was_written(penstock):
    (job,) = penstock.json("enqueue", "odd[/red]name", "fails=true")
    (found,) = penstock.json("status", job["id"])
    assert found["error"]["message"] == EVIL


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\tand\ntwo lines", "plain\tand\ntwo lines"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[2J", "␛[2J"),
        ("a\r\nb\rc", "a\nb␍c"),
        ("\x00\x9b", "␀\ufffd"),
        ("Grüße, שלום, 漢字", "Grüße, שלום, 漢字"),
    ],
)
def test_colours_go_and_what_steers_is_a_sign(text, shown):
    assert visible(text) == shown


def test_a_document_stays_the_same_document():
    told = {EVIL: [EVIL, "ä"]}
    written = visible_json(json.dumps(told, ensure_ascii=False))
    assert STEERING.findall(written) == []
    assert json.loads(written) == told
