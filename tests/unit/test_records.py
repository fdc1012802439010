"""What every ledger promises of records: each changed only by who has seen its newest version."""

from __future__ import annotations

import threading
import uuid
from contextlib import closing
from datetime import timedelta

import pytest

from penstock.core.records import Change
from penstock.ledger import open_ledger


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def url(request, tmp_path):
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/ledger.db"}
    return urls.get(request.param) or request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def ledger(url):
    with closing(open_ledger(url, namespace=f"t{uuid.uuid4().hex[:12]}")) as ledger:
        yield ledger


@pytest.fixture
def records(ledger):
    return ledger.records


def put(records, name, body=b"{}", *, seen=0, due_at=None, kind="k"):
    return records.write([Change(kind=kind, name=name, seen=seen, body=body, due_at=due_at)])[0]


def test_a_record_is_read_as_it_was_written(records, ledger):
    due_at = ledger.now() + timedelta(seconds=1.25)
    version = put(records, "a name: with / and \N{SNOWMAN}", '{"x": "a b\\u0000 \N{SNOWMAN}"}'.encode(), due_at=due_at)
    found = records.get("k", "a name: with / and \N{SNOWMAN}")
    assert (found.version, found.body) == (version, '{"x": "a b\\u0000 \N{SNOWMAN}"}'.encode())
    assert abs(found.due_at - due_at) < timedelta(microseconds=10)


def test_a_record_that_is_not_there_is_none(records):
    assert records.get("k", "x") is None


def test_what_is_there_is_not_made_again(records):
    first = put(records, "a", b"1")
    assert put(records, "a", b"2") == 0
    assert records.get("k", "a").version == first


def test_only_the_newest_version_can_be_changed(records):
    first = put(records, "a", b"1")
    second = put(records, "a", b"2", seen=first)
    assert second > first
    assert put(records, "a", b"3", seen=first) == 0
    assert records.get("k", "a").body == b"2"


def test_only_the_newest_version_can_be_taken_away(records):
    first = put(records, "a", b"1")
    second = put(records, "a", b"2", seen=first)
    assert records.write([Change(kind="k", name="a", seen=first, body=None)]) == [0]
    assert records.write([Change(kind="k", name="a", seen=second, body=None)]) == [1]
    assert records.get("k", "a") is None


def test_a_record_that_is_made_anew_is_not_the_one_that_was_seen(records):
    first = put(records, "a", b"1")
    records.write([Change(kind="k", name="a", seen=first, body=None)])
    again = put(records, "a", b"2")
    assert again > first
    assert put(records, "a", b"3", seen=first) == 0


def test_of_two_changes_to_one_record_the_second_is_refused(records):
    first = put(records, "a", b"1")
    changes = [Change(kind="k", name="a", seen=first, body=body) for body in (b"2", b"3")]
    assert [answer > 0 for answer in records.write(changes)] == [True, False]
    assert records.get("k", "a").body == b"2"


def test_records_are_listed_by_name_and_kind(records):
    for name in ("b", "a", "c"):
        put(records, name)
    put(records, "d", kind="other")
    assert [record.name for record in records.all("k")] == ["a", "b", "c"]


def test_what_is_due_comes_first_that_was_due_first(records, ledger):
    now = ledger.now()
    for name, away_s in (("late", -1), ("later", 60), ("latest", -2), ("never", None)):
        put(records, name, due_at=None if away_s is None else now + timedelta(seconds=away_s))
    assert [record.name for record in records.due("k", 10)] == ["latest", "late"]
    assert [record.name for record in records.due("k", 1)] == ["latest"]


def test_the_next_time_is_that_of_any_record(records, ledger):
    assert records.next_due_at("k") is None
    at = ledger.now() + timedelta(hours=1)
    first = put(records, "a", due_at=at)
    put(records, "b", due_at=at + timedelta(hours=1))
    assert abs(records.next_due_at("k") - at) < timedelta(microseconds=10)
    put(records, "a", seen=first)
    assert abs(records.next_due_at("k") - at) > timedelta(minutes=59)


def test_of_many_who_change_one_record_at_once_one_wins(records):
    version = put(records, "a", b"0")
    won = []
    start = threading.Barrier(6)

    def change(number):
        start.wait()
        if put(records, "a", str(number).encode(), seen=version):
            won.append(number)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert records.get("k", "a").body == str(won[0]).encode()


def test_nothing_to_write_is_no_trip(records):
    assert records.write([]) == []
