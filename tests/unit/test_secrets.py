from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.secrets import is_secret_name, mask_data, mask_text, mask_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://ada:hunter2@host:6379/0", "redis://ada:***@host:6379/0"),
        ("saq+redis://:hunter2@host/0", "saq+redis://:***@host/0"),
        ("https://ghp_token@host/x", "https://***@host/x"),
        ("postgres://u:p@ss:w@host/db", "postgres://u:***@host/db"),
        ("postgres://u:pa/ss?w#x@host/db", "postgres://u:***@host/db"),
        ("s3://bucket/x?secret=abc&region=eu", "s3://bucket/x?secret=***&region=eu"),
        ("https://h/?X-Amz-Signature=abc;token=d", "https://h/?X-Amz-Signature=***;token=***"),
        ("amqp://h/?ssl=true&api_key=1234#x", "amqp://h/?ssl=true&api_key=***#x"),
    ],
)
def test_the_password_of_a_url_is_hidden(url, shown):
    assert mask_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "huey+sqlite:///.penstock/queue.db",
        "sqlite:////abs/a@b.db",
        "http://host:80/@ada",
        "memory://",
        "",
        "no url: ada@example.org?token=1",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(url):
    assert mask_url(url) == url


def test_each_url_within_a_text_is_masked():
    told = "redis://a:secret1@h refused, postgres://b:secret2@h too"
    assert mask_url(told) == "redis://a:***@h refused, postgres://b:***@h too"


def test_masking_twice_changes_nothing_more():
    once = mask_url("redis://u:p@h/@x?token=1")
    assert mask_url(once) == once


@given(st.text(alphabet="abcXYZ09-_.~!$&()*+,;=:@/?#%", min_size=1, max_size=30))
def test_no_password_survives_whatever_its_characters(password):
    shown = mask_url(f"redis://ada:SECRET{password}SECRET@host/0")
    assert "SECRET" not in shown


def test_known_secrets_are_hidden_in_running_text():
    assert mask_text("login with hunter2 failed for hunter2x", ["hunter2", "hunter2x"]) == (
        "login with *** failed for ***"
    )


def test_a_secret_of_a_few_characters_is_left_in_running_text():
    assert mask_text("attempt 1 of 12", ["1"]) == "attempt 1 of 12"


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PASSWD",
        "db_password",
        "api_key",
        "apiKey",
        "key",
        "secret_access_key",
        "Authorization",
        "accessToken",
    ],
)
def test_a_name_like_that_holds_a_secret(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["monkey", "keyspace", "queue", "user", "author", "keep_failed", "design", "spin"])
def test_a_name_that_only_contains_such_letters_does_not(name):
    assert not is_secret_name(name)


def test_nested_data_is_masked_by_its_names_and_keeps_its_shape():
    data = {"huey": {"password": "x", "port": 1, "urls": ["redis://u:p@h"], "tokens": {"a": 1}}}
    assert mask_data(data) == {"huey": {"password": "***", "port": 1, "urls": ["redis://u:***@h"], "tokens": "***"}}


def test_the_data_itself_is_not_changed():
    data = {"password": "x"}
    mask_data(data)
    assert data == {"password": "x"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("token: gh9_a8s7d6f5", "token: ***"),
        ("unexpected token: ]", "unexpected token: ]"),
        ("token: expired", "token: expired"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabcd\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----",
        ),
    ],
)
def test_tokens_and_private_keys_are_hidden_in_running_text(text, shown):
    assert mask_text(text) == shown
