"""What is special about the ledger in a SQLite file: the file, its connections, its statements."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from penstock.core.exceptions import ConfigError, LedgerError, LedgerUnavailableError
from penstock.job import lifecycle
from penstock.job.lifecycle import TRANSITIONS, Event, State
from penstock.job.models import Intent, JobQuery, LogLine
from penstock.ledger import open_ledger, sql, sqlite, sqlite_file, sqlite_schema, versions
from penstock.ledger.sqlite import SqliteLedger
from penstock.servers import disk

SPAWN = multiprocessing.get_context("spawn")


def intents(n, **fields):
    return [Intent(id=f"job-{i:05}", kind="task", name="t", spec=b"{}", **fields) for i in range(n)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path):
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        yield ledger


# -- the file -----------------------------------------------------------------------------------------


def test_missing_folders_are_made(tmp_path):
    with closing(open_ledger(f"sqlite:///{tmp_path}/a/b/ledger.db")):
        assert (tmp_path / "a/b/ledger.db").is_file()


def test_a_relative_path_stays_what_it_was_when_the_working_directory_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closing(open_ledger("sqlite:///ledger.db")) as ledger:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert ledger.counts() == {}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_jobs_outlive_the_ledger_object(path):
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        ledger.insert(intents(1, metadata={"kept": "yes"}), grace_s=30)
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        assert ledger.get("job-00000").metadata == {"kept": "yes"}


@pytest.mark.parametrize(("durability", "level"), [("normal", 1), ("full", 2)])
def test_durability_decides_what_a_power_cut_may_cost(path, durability, level):
    with closing(open_ledger(f"sqlite:///{path}", durability=durability)) as ledger:
        settings = [
            ledger._file._writer.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("synchronous", "journal_mode", "foreign_keys", "busy_timeout")
        ]
    assert settings == [level, "wal", 1, 30_000]


def test_a_folder_is_no_ledger(tmp_path):
    with pytest.raises(LedgerUnavailableError, match="is a folder; name a file in it"):
        open_ledger(f"sqlite:///{tmp_path}")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerUnavailableError, match=r"its folder cannot be made .* choose another path"):
        open_ledger(f"sqlite:///{tmp_path}/file/ledger.db")


def test_a_place_that_takes_no_files_is_told():
    with pytest.raises(LedgerUnavailableError, match=r"/proc/ledger\.db"):
        open_ledger("sqlite:////proc/ledger.db")


def test_a_file_that_is_no_database_is_told_and_left_alone(path):
    path.write_bytes(b"name,amount\n" * 400)
    with pytest.raises(LedgerError, match="damaged or not a SQLite file") as caught:
        open_ledger(f"sqlite:///{path}")
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    assert (path.read_bytes(), list(path.parent.iterdir())) == (b"name,amount\n" * 400, [path])


def test_somebody_elses_database_is_told_and_left_alone(path):
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="not a penstock ledger"):
        open_ledger(f"sqlite:///{path}")
    assert (path.read_bytes(), list(path.parent.iterdir())) == (before, [path])


def test_a_damaged_page_is_told(path):
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        ledger.insert(intents(2000), grace_s=30)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with (
        pytest.raises(LedgerError, match="damaged"),
        closing(open_ledger(f"sqlite:///{path}")) as ledger,
    ):
        ledger.find(JobQuery())


def test_a_ledger_of_a_newer_penstock_is_refused(path):
    with closing(open_ledger(f"sqlite:///{path}")):
        pass
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match=r"newer penstock \(schema 99, this one knows \d\); upgrade"):
        open_ledger(f"sqlite:///{path}")


def test_a_migration_that_fails_leaves_nothing_half_written(path, monkeypatch):
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, lambda: ("CREATE TABLE jobs (x)",)))
    with pytest.raises(LedgerError, match="already exists"):
        open_ledger(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as left:
        assert left.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_an_older_ledger_is_brought_up_to_date_and_keeps_its_jobs(path, monkeypatch):
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        ledger.insert(intents(1), grace_s=30)
    monkeypatch.setattr(
        sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, lambda: ("ALTER TABLE jobs ADD COLUMN new TEXT",))
    )
    for _ in range(2):
        with closing(open_ledger(f"sqlite:///{path}")) as ledger:
            assert ledger.get("job-00000").state is State.QUEUED
            (number,) = ledger._file._writer.execute("PRAGMA user_version").fetchone()
            assert versions.read(number).schema == len(sqlite_schema.MIGRATIONS)


def _open_each(paths, gate, said):
    for path in paths:
        gate.wait()
        try:
            with closing(open_ledger(f"sqlite:///{path}")) as ledger:
                said.put(ledger.counts())
        except BaseException as error:
            said.put(repr(error))


def test_processes_that_open_a_new_file_at_once_all_get_a_ledger(tmp_path):
    paths = [tmp_path / f"{n}.db" for n in range(40)]
    gate, said = SPAWN.Barrier(3), SPAWN.SimpleQueue()
    openers = [SPAWN.Process(target=_open_each, args=(paths, gate, said)) for _ in range(3)]
    for opener in openers:
        opener.start()
    assert [said.get() for _ in openers for _ in paths] == [{}] * 120
    for opener in openers:
        opener.join()


# -- network file systems ------------------------------------------------------------------------------

MOUNTS = """\
/dev/vda / ext4 rw 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/ada/fast ext4 rw 0 0
//nas/x /mnt/with\\040blank cifs rw 0 0
sshfs#x /mnt/ssh fuse.sshfs rw 0 0
share /mnt/over 9p rw 0 0
tmpfs /mnt/over tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/var/x.db", None),
        ("/home/ada/x.db", "nfs4"),
        ("/home/ada/fast/x.db", None),
        ("/homely/x.db", None),
        ("/mnt/with blank/x.db", "cifs"),
        ("/mnt/ssh/x.db", "fuse.sshfs"),
        ("/mnt/over/x.db", None),
    ],
)
def test_a_network_file_system_is_known_by_the_nearest_mount(place, kind):
    assert disk.network_file_system(Path(place), MOUNTS) == kind


def test_a_ledger_on_a_network_file_system_is_refused_unless_told_otherwise(tmp_path, path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/x {tmp_path} nfs rw 0 0\n")
    monkeypatch.setattr(disk, "MOUNTS", mounts)
    with pytest.raises(ConfigError, match=r"lies on a nfs file system.*unsafe_network_fs = true"):
        open_ledger(f"sqlite:///{path}")
    assert not path.exists()
    open_ledger(f"sqlite:///{path}", unsafe_network_fs=True).close()


# -- connections ---------------------------------------------------------------------------------------


def test_a_writer_that_cannot_have_the_file_says_so(path, ledger):
    with closing(SqliteLedger(str(path), busy_timeout_s=0.01)) as hasty, closing(sqlite3.connect(path)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailableError, match="locked"):
            hasty.insert(intents(1), grace_s=30)
        other.execute("ROLLBACK")
        assert len(hasty.insert(intents(1), grace_s=30)) == 1


def test_a_writer_waits_its_time_once(path, ledger):
    with closing(SqliteLedger(str(path), busy_timeout_s=1.0)) as patient, closing(sqlite3.connect(path)) as other:
        patient.insert(intents(1), grace_s=30)
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(LedgerUnavailableError, match="locked"):
            patient.insert(intents(1), grace_s=30)
        assert 1.0 <= time.monotonic() - started < 2.0


def test_the_doctor_finds_a_file_that_takes_no_writes(path, ledger, monkeypatch):
    monkeypatch.setattr(sqlite_file, "_LOOK_S", 0.1)
    ledger.insert(intents(1), grace_s=30)
    assert not [finding for finding in ledger.inspect() if finding.level == "error"]
    with closing(sqlite3.connect(path)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        (found,) = [finding for finding in ledger.inspect() if finding.level == "error"]
    assert (found.name, found.told) == ("writes", "it takes none: database is locked")


def test_reading_does_not_wait_for_a_writer(path, ledger):
    ledger.insert(intents(1), grace_s=30)
    with closing(sqlite3.connect(path)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM jobs")
        started = time.monotonic()
        assert ledger.counts() == {"queued": 1}
        assert time.monotonic() - started < 5


def test_a_batch_that_fails_half_way_leaves_nothing(ledger):
    good, bad = intents(2)
    with pytest.raises(LedgerError):
        ledger.insert([good, replace(bad, name=None)], grace_s=30)
    assert ledger.find(JobQuery()) == []


def test_text_that_is_not_unicode_is_refused_before_anything_is_written(ledger):
    good, bad = intents(2)
    with pytest.raises(ValueError, match="not valid Unicode"):
        ledger.insert([good, replace(bad, tags=("\udcff",))], grace_s=30)
    assert ledger.find(JobQuery()) == []


def test_closing_leaves_no_connection_open(path):
    ledger = open_ledger(f"sqlite:///{path}")
    threads = [threading.Thread(target=ledger.counts) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    assert ledger._file._open == []
    assert list(path.parent.iterdir()) == [path]  # the last to close folds the log in


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_its_own_connections(ledger):
    ledger.insert(intents(2), grace_s=30)
    inherited = list(ledger._file._open)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            applied = ledger.apply(lifecycle.cancel("job-00000"))
            mine = ledger._file._open
            if applied is not None and not any(connection in inherited for connection in mine):
                code = 0
            ledger.close()
            gc.collect()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert ledger.apply(lifecycle.cancel("job-00001")).state is State.CANCELLED
    assert ledger.counts() == {"cancelled": 2}


def test_a_fork_that_ends_as_usual_does_not_disturb_its_parent(path):
    script = f"""
import os
from penstock.job.models import Intent
from penstock.ledger import open_ledger
ledger = open_ledger("sqlite:///{path}")
def add(name): ledger.insert([Intent(id=name, kind="task", name="t", spec=b"")], grace_s=30)
add("before")
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    add("after")
    assert sorted(j.id for j in ledger.find(__import__("penstock.job.models").job.models.JobQuery())) == [
        "after", "before", "child"
    ]
else:
    add("child")
ledger.close()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_opening_a_ledger_in_memory_loads_no_driver():
    script = "import sys; import penstock.ledger as p; p.open_ledger('memory://'); print('sqlite3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


# -- many at once --------------------------------------------------------------------------------------


def _claim_all(path, name, claimed, gate):
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:

        def work(owner):
            mine = [
                job_id
                for job_id in [intent.id for intent in intents(500)]
                if ledger.apply(lifecycle.claim(job_id, owner=owner, lease_s=60)) is not None
            ]
            claimed.put([(job_id, owner) for job_id in mine])

        gate.wait()
        threads = [threading.Thread(target=work, args=(f"{name}-{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_of_many_threads_and_processes_each_job_goes_to_one(path, ledger):
    ledger.insert(intents(500), grace_s=30)
    claimed, gate = SPAWN.SimpleQueue(), SPAWN.Barrier(3)
    processes = [SPAWN.Process(target=_claim_all, args=(path, f"p{n}", claimed, gate)) for n in range(3)]
    for process in processes:
        process.start()
    won = [pair for _ in range(3 * 8) for pair in claimed.get()]
    for process in processes:
        process.join()
    assert sorted(job_id for job_id, _ in won) == [intent.id for intent in intents(500)]
    assert {job.id: job.owner for job in ledger.find(JobQuery(limit=1000))} == dict(won)


def test_of_many_submits_with_one_key_one_is_created(ledger):
    outcomes = []

    def submit(n):
        intent = Intent(id=f"s{n}", kind="task", name="t", spec=b"", key="k")
        outcomes.append(ledger.insert([intent], grace_s=30)[0])

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(s.outcome for s in outcomes) == ["created"] + ["kept"] * 9
    assert len({s.job.id for s in outcomes}) == 1


# -- statements ----------------------------------------------------------------------------------------


def _steps():
    for event, rule in TRANSITIONS.items():
        for to in rule.to if event not in (Event.ENQUEUE, Event.PURGE) else ():
            yield sql.transition(event, to, None)
            if State.CANCELLED in rule.to:
                yield sql.transition(event, to, State.CANCELLED)


def _plan(ledger, statement, values):
    connection = ledger._file._writer
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


def _anything():
    class Anything(dict):
        def __missing__(self, name):
            return None

    return Anything()


def test_every_transition_finds_its_row_by_the_id(ledger):
    plans = {tuple(_plan(ledger, statement, _anything())) for statement in _steps()}
    assert plans == {("SEARCH jobs USING INDEX jobs_id (id=?)",)}


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (sqlite._PUBLISHABLE, (0, 1)),
        (sqlite._EXPIRED, (0, 1)),
        (sqlite._CANCEL_REQUESTS, ("w",)),
        (sqlite._BACKLOG.format(among=""), _anything()),
        (sql.COUNTS, _anything()),
        *(sql.find(JobQuery(states=(state,))) for state in lifecycle.SHOWN_STATES if state != "succeeded"),
        *(sql.find(JobQuery(**{field: "x"})) for field in ("name", "key", "parent_id", "id_prefix")),
    ],
)
def test_no_question_reads_all_jobs(ledger, statement, values):
    if isinstance(values, dict):
        values = {**values, "now": 0}
    for step in _plan(ledger, statement, values):
        assert not step.startswith("SCAN jobs") or step.endswith(("jobs_failed", "jobs_cancelled"))


@pytest.mark.parametrize("statement", [sql.COUNTS, sqlite._BACKLOG.format(among="")])
def test_counting_reads_indexes_only(ledger, statement):
    steps = [step for step in _plan(ledger, statement, _anything()) if "jobs" in step]
    assert all("COVERING INDEX" in step for step in steps)


def test_counting_reads_what_waits_once(ledger):
    steps = [step for step in _plan(ledger, sql.COUNTS, _anything()) if "jobs_live" in step]
    assert len(steps) == 2  # what waits and what runs


def test_the_newest_jobs_are_found_in_order_without_sorting(ledger):
    for query in (JobQuery(), JobQuery(states=("failed", "succeeded")), JobQuery(name="x"), JobQuery(parent_id="x")):
        statement, values = sql.find(query)
        assert not any("TEMP B-TREE" in step for step in _plan(ledger, statement, {**values, "now": 0}))


def test_a_transition_is_one_statement(ledger):
    ledger.insert(intents(1), grace_s=30)
    seen = []
    ledger._file._writer.set_trace_callback(seen.append)
    ledger.apply(lifecycle.claim("job-00000", owner="w", lease_s=60))
    # The trigger's own steps show under the text of the statement that they belong to; BEGIN would show by itself.
    assert len(set(seen)) == 1
    assert [e.event for e in ledger.history("job-00000")] == [Event.ENQUEUE, Event.CLAIM]


def test_a_batch_takes_the_write_lock_before_anything_else(ledger):
    seen = []
    ledger._file._writer.set_trace_callback(seen.append)
    ledger.apply_many([lifecycle.cancel("nobody")])
    assert (seen[0], seen[-1]) == ("BEGIN IMMEDIATE", "COMMIT")


def test_a_step_that_the_table_does_not_know_is_refused():
    with pytest.raises(ValueError, match="claim does not lead to failed"):
        sql.transition(Event.CLAIM, State.FAILED, None)


def test_a_purge_leaves_nothing_behind(ledger):
    ledger.insert(intents(20), grace_s=30)
    for intent in intents(20):
        job = ledger.apply(lifecycle.claim(intent.id, owner="w", lease_s=60)).job
        ledger.report([LogLine(job_id=job.id, attempt=1, at=ledger.now(), level="INFO", source="x", text="y")])
        ledger.apply(lifecycle.succeed(job.id, attempt=1))
    assert len(ledger.purge(State.SUCCEEDED, older_than_s=-10, limit=1000)) == 20
    tables = ("jobs", "history", "logs", "nodes")
    assert [ledger._file._writer.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables] == [0] * 4


def test_a_purge_of_many_goes_on_until_its_limit(ledger, monkeypatch):
    monkeypatch.setattr(sqlite, "_PURGE_BATCH", 3)
    ledger.insert(intents(10), grace_s=30)
    ledger.apply_many([lifecycle.cancel(intent.id) for intent in intents(10)])
    assert len(ledger.purge(State.CANCELLED, older_than_s=-10, limit=8)) == 8
    assert ledger.counts() == {"cancelled": 2}
