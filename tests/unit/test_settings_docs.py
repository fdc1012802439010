"""What dev_docs/configuration.md says is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import msgspec
import pytest

from penstock.core.config import Config
from penstock.core.exceptions import ConfigError
from penstock.settings import load
from penstock.settings.keys import known

DOC = Path(__file__).parents[2] / "dev_docs" / "configuration.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", DOC.read_text(), re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def test_every_block_is_of_a_kind_that_is_tried():
    assert {kind for kind, _ in BLOCKS} == {"toml", "yaml", "sh", "python", "text"}


@pytest.mark.parametrize("text", [*blocks("toml"), *blocks("yaml")])
def test_each_file_loads(text, tmp_path):
    file = tmp_path / re.search(r"# (\S+)", text)[1]
    file.parent.mkdir(exist_ok=True)
    secret = tmp_path / "queue_token"
    secret.write_text("hunter2\n")
    file.write_text(text.replace("/run/secrets/queue_token", str(secret)))
    settings = load(tmp_path, env={"QUEUE_URL": "inline://", "STATE_FOLDER": "state"})
    assert settings.config != Config()


def test_the_variables_load(tmp_path):
    env = dict(word.split("=", 1) for lines in blocks("sh") for word in shlex.split(lines, comments=True))
    config = load(tmp_path, env=env).config
    assert config.tasks == ("jobs/", "shop.tasks")
    assert config.projects == ("examples/flights",)
    assert (config.defaults.max_attempts, config.defaults.timeout) == (3, None)
    assert config.engines == {"huey": {"poll_s": 0.1}}


def test_the_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for text in blocks("python"):
        exec(compile(text, str(DOC), "exec"), {})
    assert "worker.concurrency = 2  # flag --concurrency" in capsys.readouterr().out


def test_the_table_holds_every_key_with_its_default():
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (\S+) \|", DOC.read_text(), re.MULTILINE))
    values = msgspec.to_builtins(Config())

    def default(key: str) -> str:
        table, _, leaf = key.rpartition(".")
        value = (values[table] if table else values)[leaf]
        return "none" if value is None else f"`{msgspec.json.encode(value).decode()}`"

    assert rows == {key: default(key) for key in known()}


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("\n" * 5 + "[defaults]\nretires = 3", {}),
        ('[worker]\nconcurrency = "four"', {}),
        ('[lease]\nttl = "10s"\nheartbeat = "20s"', {}),
        ("", {"PENSTOCK_LEASE__TLT": "2s"}),
    ],
)
def test_the_errors_are_word_for_word(text, env, tmp_path):
    (tmp_path / "penstock.toml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, env=env)
    assert str(raised.value) in blocks("text")[0].splitlines()
