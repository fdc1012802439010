"""How long a job waits after an error, and after which errors it is tried again."""

from __future__ import annotations

import msgspec
import pytest

from penstock.core.config import Config, Defaults
from penstock.core.exceptions import InvalidJobError
from penstock.job.models import ErrorInfo
from penstock.job.retries import ANY, RetryPolicy, RetryRule, class_name, parse_retry_on
from penstock.options import JobOptions, intent
from penstock.runners.errors import describe_error


class ShopError(Exception):
    pass


class StockError(ShopError):
    pass


REDIS_TIMEOUT = type("TimeoutError", (Exception,), {"__module__": "redis.exceptions"})


def raised(error: BaseException) -> ErrorInfo:
    try:
        raise error
    except BaseException as caught:
        return describe_error(caught)


def waits(text: object, count: int = 4) -> list[float]:
    policy = RetryPolicy.parse(text)
    return [policy.delay_s(errors, lambda: 1.0) for errors in range(1, count + 1)]


# -- waits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", [30, 30, 30, 30]),
        (30, [30, 30, 30, 30]),
        ("10s..1m", [10, 20, 40, 60]),
        ("10s*n^2..2m", [10, 40, 90, 120]),
        ("10s*n..25s", [10, 20, 25, 25]),
        ("10s * n^2 .. 2m ~10%", [10, 40, 90, 120]),
        ("2s*n^0.5..1h", [2, 2 * 2**0.5, 2 * 3**0.5, 4]),
        ({"base_s": 1, "cap_s": 100, "power": 3}, [1, 8, 27, 64]),
    ],
)
def test_a_backoff_is_written_in_one_line(text, expected):
    assert waits(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (RetryPolicy.fixed("30s"), "30s"),
        (RetryPolicy.exponential("10s", "1m"), "10s..1m"),
        (RetryPolicy.polynomial("10s", "2m", power=2), "10s*n^2..2m"),
    ],
)
def test_what_code_makes_is_what_text_says(made, text):
    assert made == RetryPolicy.parse(text)


def test_the_jitter_is_the_share_of_a_wait_that_is_random():
    policy = RetryPolicy.parse("100s ~20%")
    assert (policy.delay_s(1, lambda: 0.0), policy.delay_s(1, lambda: 1.0)) == (80.0, 100.0)


@pytest.mark.parametrize(
    "text", ["10s*n^2", "10s*m^2..1h", "10m..10s", "fast", "10s..", "10s ~200%", {"jitter": 2}, {"power": -1}, True]
)
def test_what_is_no_backoff_is_refused(text):
    with pytest.raises(ValueError, match="backoff"):
        RetryPolicy.parse(text)


def test_a_large_count_ends_at_the_cap():
    assert RetryPolicy.parse("10s*n^90..1h").delay_s(10**9, lambda: 1.0) == 3600


@pytest.mark.parametrize("text", ["30s", "10s..60s", "10s*n^2..120s"])
def test_a_policy_is_shown_as_it_is_written(text):
    assert str(RetryPolicy.parse(text)) == text


# -- which errors ---------------------------------------------------------------------------------------------------


def policy(retry_on: object = None, discard_on: object = None) -> RetryPolicy:
    options = JobOptions.parse({"retry_on": retry_on, "discard_on": discard_on, "max_attempts": 3})
    return intent(Config(), options, kind="task", name="t", spec=b"{}", isolation="inline").backoff


@pytest.mark.parametrize("given", [ShopError, "ShopError", f"{__name__}.ShopError", (ValueError, ShopError)])
def test_a_class_its_name_and_its_full_name_mean_the_same(given):
    assert policy(retry_on=given).retries(raised(StockError("none")))
    assert not policy(retry_on=given).retries(raised(OSError("disk")))


def test_a_class_is_not_another_of_the_same_name():
    redis = raised(REDIS_TIMEOUT("slow"))
    assert not policy(retry_on=TimeoutError).retries(redis)
    assert policy(retry_on="redis.TimeoutError").retries(redis)
    assert policy(retry_on="TimeoutError").retries(redis)
    assert not policy(retry_on="redis.TimeoutError").retries(raised(TimeoutError("slow")))


def test_a_discarded_class_is_not_tried_again_and_others_are():
    rules = policy(discard_on=[ShopError])
    assert not rules.retries(raised(StockError("none")))
    assert rules.retries(raised(ValueError("no")))


def test_the_nearest_class_decides():
    rules = policy(retry_on=[OSError], discard_on=[FileNotFoundError])
    assert rules.retries(raised(OSError("disk")))
    assert not rules.retries(raised(FileNotFoundError("gone")))
    rules = policy(retry_on=[FileNotFoundError], discard_on=[OSError])
    assert rules.retries(raised(FileNotFoundError("gone")))
    assert not rules.retries(raised(PermissionError("no")))


def test_a_class_may_have_tries_and_waits_of_its_own():
    rules = policy(retry_on={ConnectionError: 5, "requests.Timeout": {"max_attempts": 3, "backoff": "30s"}})
    assert rules.rules == (
        RetryRule("builtins.ConnectionError", 5),
        RetryRule("requests.Timeout", 3, RetryPolicy.parse("30s")),
    )
    assert rules.rule_for(raised(ValueError("no"))) is None


def test_a_rule_counts_its_own_errors_alone():
    rules = policy(retry_on={ConnectionError: 5, Exception: None})
    earlier = [raised(error) for error in (ConnectionError(), ValueError(), ConnectionResetError(), KeyError())]
    own, other = rules.rules[0], ANY
    assert (rules.spent(own, earlier), rules.spent(other, earlier)) == (3, 3)


def test_a_policy_with_rules_survives_the_ledger():
    rules = policy(retry_on={ConnectionError: {"max_attempts": 5, "backoff": "1s*n^2..9s"}}, discard_on=KeyError)
    assert msgspec.json.decode(msgspec.json.encode(rules), type=RetryPolicy) == rules


def test_a_class_of_a_script_goes_by_its_name_alone():
    assert class_name(type("Odd", (Exception,), {"__module__": "__main__"})) == "Odd"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (5, "neither an exception class"),
        (int, "int is no exception class"),
        (["not a name"], "neither an exception class"),
        ({ValueError: 0}, "from 1 to 1000"),
        ({ValueError: {"tries": 3}}, "unknown key 'tries'"),
        ({ValueError: "soon"}, "is not a backoff"),
        (["ValueError=3,4"], "write NAME=TRIES"),
    ],
)
def test_a_wrong_rule_is_refused_by_name(given, told):
    with pytest.raises(InvalidJobError, match=f"retry_on: .*{told}"):
        JobOptions.parse({"retry_on": given})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("KeyError", RetryRule("KeyError")),
        ("KeyError=3", RetryRule("KeyError", 3)),
        ("a.B=30s", RetryRule("a.B", None, RetryPolicy.parse("30s"))),
        ("a.B=3,1s..9s", RetryRule("a.B", 3, RetryPolicy.parse("1s..9s"))),
    ],
)
def test_a_rule_is_written_in_one_word(text, rule):
    assert parse_retry_on([text]) == (rule,)


def test_a_rule_without_a_count_needs_more_than_one_try():
    options = JobOptions.parse({"retry_on": ConnectionError})
    with pytest.raises(InvalidJobError, match="a job has one try; say how many: max_attempts=3"):
        intent(Config(), options, kind="task", name="t", spec=b"{}", isolation="inline")


def test_the_project_s_rules_hold_where_a_job_has_none():
    config = Config(defaults=Defaults(retry_on={"ConnectionError": 5}, discard_on=("KeyError",)))

    def made(**options: object) -> RetryPolicy:
        given = JobOptions.parse({"max_attempts": 2, **options})
        return intent(config, given, kind="task", name="t", spec=b"{}", isolation="inline").backoff

    assert made().rules == (RetryRule("ConnectionError", 5),)
    assert made(retry_on=[OSError]).rules == ()
    assert made(retry_on=()).retries(raised(ValueError("no")))
    assert not made(retry_on=()).retries(raised(KeyError("no")))
    assert made(backoff={"retry_on": ["KeyError"]}).retries(raised(KeyError("no")))
