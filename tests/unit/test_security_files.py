"""What is loaded, read or run because of a file, a folder or an id: confined to its place and its size."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from penstock import JobNotFoundError, JobQueue, task
from penstock.core.config import Config, HistoryConfig, SecurityConfig
from penstock.core.exceptions import ConfigError, ResultError
from penstock.job import lifecycle
from penstock.job.models import Intent, Message, Ref
from penstock.ledger import open_ledger
from penstock.results import ResultStore, load_ref
from penstock.settings import load
from penstock.sources.flowerpower import read_yaml
from penstock.sources.scan import load_tasks

TASK = "from penstock import task\n\n\n@task(name={name!r})\ndef body():\n    return 1\n"


def loaded(folder: Path, **more):
    found = load_tasks(["jobs/"], root=folder, **more)
    return sorted(name for names in found.tasks.values() for name in names), {e.type for e in found.errors}


@pytest.fixture
def jobs(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "good.py").write_text(TASK.format(name="good"))
    return tmp_path / "jobs"


# -- discovery ----------------------------------------------------------------------------------------------------


def test_a_link_that_leaves_the_project_is_not_followed(jobs, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "evil.py"
    outside.write_text(TASK.format(name="evil"))
    (jobs / "evil.py").symlink_to(outside)
    (jobs / "folder").symlink_to(outside.parent)
    assert loaded(jobs.parent) == (["good"], {"OutsideRoot"})


def test_a_file_that_anybody_may_change_is_not_run(jobs):
    (jobs / "open.py").write_text(TASK.format(name="open"))
    (jobs / "open.py").chmod(0o666)
    assert loaded(jobs.parent) == (["good"], {"WorldWritable"})


@pytest.fixture(params=["link", "open", "large"])
def package(request, jobs, tmp_path_factory):
    """A package whose own file is not to be run: it would leave a file behind."""
    package = jobs / "package"
    package.mkdir()
    (package / "within.py").write_text(TASK.format(name="within"))
    text = f"open({str(jobs.parent / 'executed')!r}, 'w').close()\n"
    init = package / "__init__.py"
    if request.param == "link":
        init.symlink_to(tmp_path_factory.mktemp("outside") / "evil.py")
    init.write_text(text + ("#" * 1024 * 1024 if request.param == "large" else ""))
    if request.param == "open":
        init.chmod(0o666)
    return {"link": "OutsideRoot", "open": "WorldWritable", "large": "TooLarge"}[request.param]


def test_a_package_is_not_entered_through_a_file_that_would_not_be_run(jobs, package):
    assert loaded(jobs.parent) == (["good"], {package, "ImportError"})
    assert not (jobs.parent / "executed").exists()


def test_a_file_that_is_named_is_not_run_where_anybody_may_put_another_in_its_place(jobs):
    jobs.chmod(0o777)
    found = load_tasks(["jobs/good.py"], root=jobs.parent)
    assert (found.tasks, [e.type for e in found.errors]) == ({}, ["WorldWritable"])
    jobs.chmod(0o1777)  # as /tmp: others may add files, and change none of mine
    assert load_tasks(["jobs/good.py"], root=jobs.parent).tasks == {"jobs/good.py": ("good",)}


def test_a_link_to_itself_is_told_and_the_others_are_loaded(jobs):
    (jobs / "loop.py").symlink_to(jobs / "loop.py")
    assert loaded(jobs.parent) == (["good"], {"NotFound"})


def test_a_link_to_nothing_is_told_and_the_others_are_loaded(jobs):
    (jobs / "gone.py").symlink_to(jobs / "never.py")
    assert loaded(jobs.parent) == (["good"], {"NotFound"})


def test_a_folder_that_anybody_may_change_is_not_searched(jobs):
    jobs.chmod(0o777)
    assert loaded(jobs.parent) == ([], {"WorldWritable"})


def test_what_anybody_may_change_is_run_for_whoever_trusts_it(jobs):
    jobs.chmod(0o777)
    assert loaded(jobs.parent, trust_world_writable=True) == (["good"], set())


def test_the_setting_that_trusts_reaches_the_scan(jobs):
    jobs.chmod(0o777)
    config = Config(tasks=("jobs/",), ledger="memory://", security=SecurityConfig(trust_world_writable=True))
    with JobQueue("inline://", config=config, root=jobs.parent) as queue:
        assert "good" in queue.tasks()


def test_a_file_that_is_too_large_is_not_run(jobs):
    (jobs / "large.py").write_text(TASK.format(name="large") + "# " + "x" * 1024 * 1024)
    assert loaded(jobs.parent) == (["good"], {"TooLarge"})


@pytest.mark.parametrize(
    "name", ["os.system", "shop_tasks.os", "shop_tasks.os.system", "os.path:join", "..jobs", "a/../b"]
)
def test_an_entry_that_goes_through_a_module_to_something_else_loads_nothing(tmp_path, monkeypatch, name):
    (tmp_path / "shop_tasks.py").write_text("import os\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = load_tasks([name], root=tmp_path)
    assert (found.tasks, [e.type for e in found.errors]) == ({}, ["NotFound"])


def test_a_job_whose_name_is_a_dotted_path_imports_nothing(tmp_path):
    with JobQueue("inline://", ledger="memory://", root=tmp_path) as queue:
        for name in ("os.system", "penstock.client.os.system", "subprocess:run", "__main__"):
            with pytest.raises(LookupError, match="no task named"):
                queue.enqueue(name, "true")


# -- ids ----------------------------------------------------------------------------------------------------------

BAD_IDS = ["", "..", "../../etc/passwd", "a/b", "a\0b", "a b", "a\n", "é", "x" * 129, "*", "{a}", "a:b"]


@pytest.mark.parametrize("job_id", [bad for bad in BAD_IDS if bad != ".."])
def test_a_message_whose_job_id_is_none_cannot_be_read(job_id):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"id": "a_1", "job_ids": [job_id]}, Message)


@pytest.mark.parametrize(
    "change", [{"job_ids": []}, {"job_ids": ["a"] * 1001}, {"id": "../a"}, {"queue": "a b"}, {"name": "x" * 201}]
)
def test_a_message_that_no_client_writes_cannot_be_read(change):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"id": "a_1", "job_ids": ["a"], **change}, Message)


@pytest.mark.parametrize("job_id", BAD_IDS)
def test_what_is_no_id_names_no_job(tmp_path, job_id):
    with JobQueue("inline://", ledger="memory://", root=tmp_path) as queue, pytest.raises(JobNotFoundError):
        queue.job(job_id)


@pytest.mark.parametrize("job_id", BAD_IDS)
def test_what_is_no_id_is_no_folder_of_results(tmp_path, job_id):
    store = ResultStore(tmp_path / "results", inline_max_bytes=0)
    with pytest.raises(ResultError):
        store.encode(b"x" * 100, job_id=job_id, attempt=1)
    with pytest.raises(ResultError):
        store.delete(job_id)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["../../evil", "a/b", "/etc/x", ".", "..", "a\0b", "x" * 500])
def test_the_name_of_a_stored_input_stays_in_its_folder(tmp_path, name):
    ref = ResultStore(tmp_path / "results").put(b"x", name=name)
    assert Path(ref.uri.removeprefix("file://")).resolve().is_relative_to(tmp_path / "results")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize("size", [0, 10])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "large"])
def test_what_is_no_file_of_that_size_is_not_read(tmp_path, kind, size):
    place = {"device": Path("/dev/zero")}.get(kind, tmp_path / kind)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "large":
        with place.open("wb") as file:
            file.truncate(2**40)  # a terabyte of nothing
    ref = Ref(uri=place.as_uri(), format="bin", size_bytes=size, sha256="0" * 64, kind="bytes")
    with pytest.raises(ResultError, match="damaged"):
        load_ref(ref)


def test_a_value_over_the_limit_is_not_stored_and_names_the_setting(tmp_path):
    store = ResultStore(tmp_path / "results", inline_max_bytes=0, max_bytes=100)
    told = store.describe(store.encode(b"x" * 101, job_id="a", attempt=1))
    assert (told["type"], "limits.result_max_bytes" in told["reason"]) == ("dropped", True)
    with pytest.raises(ResultError, match=r"limits\.result_max_bytes"):
        store.put(b"x" * 101)
    assert not (tmp_path / "results").exists()


# -- files of settings --------------------------------------------------------------------------------------------

HOSTILE_TOML = {
    "deep": "backend = " + "[" * 100_000,
    "large": "# " + "x" * 1024 * 1024,
    "nul": 'backend = "a\0b"',
    "deep tables": "[" + ".".join("a" * 5_000) + "]",
}
HOSTILE_YAML = {
    "deep": "[" * 5_000,
    "aliases": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "holds itself": "a: &a [*a]",
    "large": "# " + "x" * 1024 * 1024,
    "python": "a: !!python/object/apply:os.system ['touch executed']",
    "nul": "a: \0",
    "date": "a: 2026-99-99",
}


@pytest.mark.parametrize("kind", HOSTILE_TOML)
def test_a_hostile_file_of_settings_is_refused_by_its_name(tmp_path, kind):
    (tmp_path / "penstock.toml").write_text(HOSTILE_TOML[kind])
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=r"penstock\.toml"):
        load(tmp_path, env={"HOME": str(tmp_path)})
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("kind", HOSTILE_YAML)
def test_a_hostile_yaml_is_refused_by_its_name_and_runs_nothing(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue.yml").write_text(HOSTILE_YAML[kind])
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=r"queue\.yml"):
        read_yaml(tmp_path / "queue.yml")
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "executed").exists()


# -- commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def env_of(tmp_path, monkeypatch):
    """Return what a command job sees of the worker's environment, given its setting."""
    monkeypatch.setenv("SHOP_SECRET", "x")
    monkeypatch.setenv("LC_TIME", "C")

    def seen(isolation: str, *allowed: str) -> set[str]:
        security = SecurityConfig(command_env=allowed) if allowed else SecurityConfig()
        config = Config(ledger="memory://", security=security, results=str(tmp_path / "results"))
        with JobQueue("inline://", config=config, root=tmp_path) as queue:
            job = queue.enqueue_command(["/usr/bin/env"], env={"OWN": "1"}, isolation=isolation)
            return {line.partition("=")[0] for line in job.result(60)["output"].splitlines()}

    return seen


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_a_command_sees_its_own_variables_and_those_on_the_list(env_of, isolation):
    names = env_of(isolation)
    assert {"PATH", "LC_TIME", "OWN"} <= names
    assert "SHOP_SECRET" not in names


def test_the_list_can_be_said(env_of):
    assert env_of("inline", "SHOP_*") == {"SHOP_SECRET", "OWN"}


def test_a_star_lets_all_through(env_of):
    assert set(os.environ) <= env_of("inline", "*")


# -- secrets in files, history ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "mode", "warned"),
    [
        ('ledger = "postgres://ada:hunter2@db/x"', 0o644, True),
        ('ledger = "postgres://ada:hunter2@db/x"', 0o600, False),
        ('ledger = "postgres://ada:${PW}@db/x"', 0o644, False),
        ('[engines.saq]\npassword = "env:PW"', 0o644, False),
        ('[engines.saq]\npassword = "hunter2"', 0o644, True),
        ('backend = "inline://"', 0o644, False),
    ],
)
def test_a_secret_in_a_file_that_all_may_read_is_warned_of_and_not_told(tmp_path, caplog, line, mode, warned):
    (tmp_path / "penstock.toml").write_text(line)
    (tmp_path / "penstock.toml").chmod(mode)
    load(tmp_path, env={"HOME": str(tmp_path), "PW": "swordfish"})
    assert ("any user of this machine may read" in caplog.text) == warned
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(("fails", "kept_days"), [(False, 7), (True, 30)], ids=["succeeded", "failed"])
def test_history_is_purged_although_nobody_has_asked_for_it(tmp_path, fails, kept_days):
    now = [1_700_000_000.0]
    ledger = open_ledger("memory://", clock=lambda: now[0])
    with JobQueue("inline://", ledger=ledger, config=Config(results=str(tmp_path)), root=tmp_path) as queue:
        job = queue.enqueue_command(["false" if fails else "true"], isolation="inline")
        assert job.refresh().state == ("failed" if fails else "succeeded")
        now[0] += kept_days * 86_400 - 60
        assert queue.sweeper.purge() == 0
        now[0] += 120
        assert queue.sweeper.purge() == 1
    ledger.close()


def test_results_that_cannot_be_deleted_keep_no_others(tmp_path):
    @task(name="large")
    def large() -> str:
        return "x" * 100_000

    history = HistoryConfig(keep_succeeded="1ms")
    config = Config(ledger="memory://", results=str(tmp_path / "results"), history=history)
    with JobQueue("inline://", config=config, root=tmp_path) as queue:
        forged = Intent(id="..", kind="command", name="true", spec=b"{}")
        queue.ledger.insert([forged], grace_s=30)
        queue.ledger.apply(lifecycle.claim(forged.id, owner="somebody", lease_s=60))
        queue.ledger.apply(lifecycle.succeed(forged.id, attempt=1))
        queue.enqueue("large", job_id="fine").wait(10)
        assert [path.name for path in (tmp_path / "results").iterdir()] == ["fine"]
        while queue.counts().get("succeeded"):
            queue.sweeper.purge()
        assert list((tmp_path / "results").iterdir()) == []
