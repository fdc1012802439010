"""With signing keys a worker runs only what somebody with a key has submitted; without, nothing changes."""

from __future__ import annotations

import uuid

import msgspec
import pytest

from penstock import JobQueue, task
from penstock.core.config import Config, LimitsConfig, SecurityConfig
from penstock.core.exceptions import ConfigError, InvalidJobError
from penstock.job.lifecycle import Reason, State
from penstock.job.models import Intent, new_job_id
from penstock.ledger import open_ledger
from penstock.settings import load
from penstock.signing import FIELD, Signer, key_id

OLD, NEW, OTHER = "old-key-0123456789", "new-key-0123456789", "other-key-0123456789"


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def ledger(request, tmp_path):
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/ledger.db"}
    url = urls.get(request.param) or request.getfixturevalue(f"{request.param}_url")
    opened = open_ledger(url, namespace=f"t{uuid.uuid4().hex[:12]}")
    yield opened
    opened.close()


@pytest.fixture
def here(tmp_path):
    opened = open_ledger("memory://")
    yield opened
    opened.close()


@pytest.fixture
def ran():
    calls = []

    @task
    def pay(amount: int):
        calls.append(amount)

    @task
    def refund(amount: int):
        calls.append(-amount)

    @task
    def any_data(data):
        calls.append(data)

    return calls


def opened(ledger, *keys, namespace="penstock", **limits):
    config = Config(
        ledger="memory://",
        namespace=namespace,
        security=SecurityConfig(signing_keys=keys),
        limits=LimitsConfig(**limits),
    )
    return JobQueue("inline://", ledger=ledger, config=config)


def forged(**fields):
    return Intent(**{"id": new_job_id(), "kind": "task", "name": "pay", "spec": b'{"kwargs":{"amount":1}}', **fields})


def run(ledger, intent, *keys, **more):
    """Have a worker with these keys meet a row that somebody wrote into the ledger; return the job."""
    ledger.insert([intent], grace_s=0)
    with opened(ledger, *keys, **more) as queue:
        queue.sweeper.publish_due()
        return ledger.get(intent.id)


def signed_by(intent, key, namespace="penstock"):
    return Signer([key], namespace).signed(intent)


def test_a_signed_job_runs(ledger, ran):
    with opened(ledger, NEW) as queue:
        assert queue.enqueue("pay", 1).wait(5).state is State.SUCCEEDED
    assert ran == [1]


def test_an_unsigned_job_fails_and_says_why(ledger, ran):
    job = run(ledger, forged(), NEW)
    assert (job.state, job.reason, ran) == (State.FAILED, Reason.INVALID, [])
    assert "not signed" in job.error.message


@pytest.mark.parametrize(
    "change",
    [{"id": "another"}, {"name": "refund"}, {"kind": "command"}, {"spec": b'{"kwargs":{"amount":9}}'}],
    ids=lambda change: next(iter(change)),
)
def test_a_signature_does_not_fit_a_job_that_was_changed(here, ran, change):
    job = run(here, msgspec.structs.replace(signed_by(forged(), NEW), **change), NEW)
    assert (job.state, job.reason, ran) == (State.FAILED, Reason.INVALID, [])
    assert "does not fit" in job.error.message


@pytest.mark.parametrize(
    "change",
    [
        {"isolation": "process"},
        {"timeout_s": None},
        {"timeout_s": 9e9},
        {"metadata": {}},
        {"metadata": {"penstock.limits": '{"memory_bytes":9000000000000}', "shop": "3"}},
        {"metadata": {"penstock.limits": '{"memory_bytes":90000000}', "shop": "4"}},
        {"metadata": {"penstock.limits": '{"memory_bytes":90000000}', "shop": "3", "penstock.fire_at": "2026-01-01"}},
    ],
    ids=["isolation", "no timeout", "timeout", "no metadata", "limits", "the user's own", "an entry more"],
)
def test_a_signature_does_not_fit_a_job_that_would_run_in_another_way(here, ran, change):
    intent = signed_by(
        forged(timeout_s=60, metadata={"penstock.limits": '{"memory_bytes":90000000}', "shop": "3"}), NEW
    )
    signature = {FIELD: intent.metadata[FIELD]}
    if "metadata" in change:
        change = {"metadata": change["metadata"] | signature}
    job = run(here, msgspec.structs.replace(intent, **change), NEW)
    assert (job.state, job.reason, ran) == (State.FAILED, Reason.INVALID, [])
    assert "does not fit" in job.error.message


@pytest.mark.parametrize(
    "change",
    [{"queue": "other"}, {"priority": 9}, {"max_attempts": 99}, {"tags": ("x",)}, {"key": "x"}, {"parent_id": "x"}],
    ids=lambda change: next(iter(change)),
)
def test_where_and_how_often_a_job_runs_is_not_signed(here, ran, change):
    assert run(here, msgspec.structs.replace(signed_by(forged(), NEW), **change), NEW).state is State.SUCCEEDED
    assert ran == [1]


def test_a_job_with_a_timeout_and_metadata_fits_its_signature_on_each_ledger(ledger, ran):
    with opened(ledger, NEW) as queue:
        job = queue.enqueue("pay", 1, timeout=90, metadata={"b": "ä\x7f", "a": "1"})
        row = job.wait(5)
    assert (row.state, ran) == (State.SUCCEEDED, [1]), row.error


def test_a_signature_of_the_older_kind_which_left_the_limits_out_is_refused(here, ran):
    job = run(here, forged(metadata={FIELD: f"1.{key_id(NEW)}.{'0' * 64}"}), NEW)
    assert (job.state, job.reason, ran) == (State.FAILED, Reason.INVALID, [])
    assert "older penstock" in job.error.message


def test_a_signature_of_a_newer_kind_is_left_to_a_worker_that_knows_it(here, ran):
    job = run(here, forged(metadata={FIELD: f"3.{key_id(NEW)}.{'0' * 64}"}), NEW)
    assert (job.state, ran) == (State.QUEUED, [])
    assert "newer penstock" in job.note


def test_a_signature_is_worth_nothing_in_another_namespace(here, ran):
    job = run(here, signed_by(forged(), NEW, namespace="staging"), NEW)
    assert (job.state, ran) == (State.FAILED, [])


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "2",
        "2..",
        "3.x.y",
        f"2.{key_id(NEW)}.",
        f"2.{key_id(NEW)}.\u20ac",
        f"x.{key_id(NEW)}.",
        "9" * 9999,
        "." * 9999,
    ],
)
def test_what_only_looks_like_a_signature_is_none(here, ran, signature):
    run(here, forged(metadata={FIELD: signature}), NEW)
    assert ran == []


def test_a_job_signed_with_a_key_that_a_worker_lacks_is_kept_for_others(ledger, ran):
    intent = signed_by(forged(), OTHER)
    job = run(ledger, intent, NEW)
    assert (job.state, ran) == (State.QUEUED, [])
    assert key_id(OTHER) in job.note


def test_while_keys_change_jobs_of_the_old_one_still_run_and_new_ones_are_signed_by_the_first(here, ran):
    run(here, signed_by(forged(), OLD), NEW, OLD)
    with opened(here, NEW, OLD) as queue:
        job = queue.enqueue("pay", 2).wait(5)
    assert ran == [1, 2]
    assert job.metadata[FIELD].startswith(f"2.{key_id(NEW)}.")


def test_each_refusal_is_counted_by_its_kind(here, ran):
    intents = [forged(), signed_by(forged(), OTHER), msgspec.structs.replace(signed_by(forged(), NEW), name="refund")]
    here.insert(intents, grace_s=0)
    with opened(here, NEW) as queue:
        queue.sweeper.publish_due()
        counts = queue.execution.counts
    assert [counts[kind] for kind in ("unsigned", "unknown_key", "forged")] == [1, 1, 1]


def test_a_failed_forgery_cannot_be_had_signed_by_a_retry(here, ran):
    job = run(here, forged(), NEW)
    with opened(here, NEW) as queue, pytest.raises(InvalidJobError, match="not signed"):
        queue.job(job.id).retry()


def test_a_signed_job_that_is_retried_is_signed_anew(here, ran):
    with opened(here, NEW) as queue:
        first = queue.enqueue("pay", 1)
        again = first.retry()
        assert again.wait(5).state is State.SUCCEEDED
    assert again.job.metadata[FIELD] != first.job.metadata[FIELD]


def test_nobody_can_put_a_signature_into_the_metadata(here, ran):
    with opened(here) as queue, pytest.raises(InvalidJobError, match="penstock"):
        queue.enqueue("pay", 1, metadata={FIELD: "1.2.3"})


def test_without_keys_nothing_is_signed_and_signatures_are_not_looked_at(here, ran):
    with opened(here) as queue:
        assert FIELD not in queue.enqueue("pay", 1).wait(5).metadata
    run(here, forged(metadata={FIELD: "nonsense"}))
    assert ran == [1, 1]


# -- the keys -----------------------------------------------------------------------------------------------------


def test_keys_come_from_the_environment_and_from_files(tmp_path):
    (tmp_path / "key").write_text(f"{OLD}\n")
    (tmp_path / "penstock.toml").write_text('[security]\nsigning_keys = ["env:PAY_KEY", "file:key"]\n')
    found = load(tmp_path, env={"PAY_KEY": NEW, "HOME": str(tmp_path)})
    assert found.config.security.signing_keys == (NEW, OLD)


def test_keys_are_never_shown(tmp_path):
    (tmp_path / "penstock.toml").write_text(f'[security]\nsigning_keys = ["{NEW}"]\n')
    found = load(tmp_path, env={"HOME": str(tmp_path)})
    assert NEW not in repr(found.shown())
    assert NEW not in repr(found.config)


def test_a_key_that_is_too_short_is_refused_by_its_place_and_not_quoted(tmp_path):
    (tmp_path / "penstock.toml").write_text(f'[security]\nsigning_keys = ["{NEW}", "tooshort"]\n')
    with pytest.raises(ConfigError, match="key 2 has fewer than 16") as caught:
        load(tmp_path, env={"HOME": str(tmp_path)})
    assert "tooshort" not in str(caught.value)


# -- limits that the submitter did not keep ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (b'{"args":["' + b"x" * 300_000 + b'"]}', "limits.payload_max_bytes"),
        (b'{"args":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}", "limits.payload_max_depth"),
        (b'{"args":' + b"[" * 65 + b"]" * 65 + b"}", "limits.payload_max_depth"),
    ],
    ids=["size", "depth", "one level too deep"],
)
def test_a_row_over_the_limits_fails_and_names_the_limit(ledger, ran, spec, told):
    job = run(ledger, forged(spec=spec))
    assert (job.state, job.reason, ran) == (State.FAILED, Reason.INVALID, [])
    assert told in job.error.message


def test_brackets_within_texts_are_no_depth(here, ran):
    with opened(here) as queue:
        job = queue.enqueue("pay", 1, tags=["["], metadata={"a": "b"}).wait(5)
        assert job.state is State.SUCCEEDED
    job = run(here, forged(spec=b'{"args":[1],"note":"' + b'[\\"' * 999 + b'"}'))
    assert "nested" not in (job.error.message if job.error else "")


def test_the_limits_can_be_lowered_and_the_error_tells_the_setting(here, ran):
    with opened(here, payload_max_bytes=2000, payload_max_depth=3) as queue:
        with pytest.raises(InvalidJobError, match=r"the limit is 2,000 \(limits.payload_max_bytes\)"):
            queue.enqueue_command(["echo", "x" * 3000])
        with pytest.raises(InvalidJobError, match=r"over 3 levels deep \(limits.payload_max_depth\)"):
            queue.enqueue("any_data", [[[[1]]]])


def test_the_limits_cannot_be_raised(tmp_path):
    with pytest.raises(ConfigError, match=r"limits\.payload_max_bytes: must be at most 262144"):
        load(tmp_path, env={"HOME": str(tmp_path), "PENSTOCK_LIMITS__PAYLOAD_MAX_BYTES": "300000"})


@pytest.mark.parametrize(
    ("text", "limit"), [("12", 12), ('{"etl": 3}', {"etl": 3}), ("none", None)], ids=["all", "by name", "none"]
)
def test_the_limit_of_waiting_jobs_can_be_said_by_a_variable(tmp_path, text, limit):
    env = {"HOME": str(tmp_path), "PENSTOCK_LIMITS__MAX_QUEUED": text}
    assert load(tmp_path, env=env).config.limits.max_queued == limit


@pytest.mark.parametrize("text", ["0", '{"no such": 3}', '{"etl": 0}', '{"etl": "x"}', "{", "many"])
def test_a_limit_of_waiting_jobs_that_makes_no_sense_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"limits\.max_queued"):
        load(tmp_path, env={"HOME": str(tmp_path), "PENSTOCK_LIMITS__MAX_QUEUED": text})
