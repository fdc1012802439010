"""What a job file may say, and what is told of one that is wrong: the file, the line and the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.sources.jobs_dir import JobFile, JobsFolder, Look, read

GOOD = """{
  "job_id": "new-job",
  "description": "says hi",
  "schedule": "*/5 * * * *",
  "task": {"type": "execute_command", "command": "echo hi"}
}
"""
TOML = """job_id = "nightly"
schedule = 2026-11-22T02:00:00Z

[task]
type = "pipeline"
name = "sales"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "jobs.d"
    made.mkdir()
    return made


def look(folder: Path) -> Look:
    return JobsFolder(folder).look()


def told(folder: Path, name: str, text: str | bytes) -> str:
    """Write a file and return what is told of it."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return look(folder).errors[str(path)].message


def test_the_one_line_form_of_the_issue_is_read():
    line = (
        '{"job_id": "new-job", "description": "...", "schedule": "*/5 * * * *", '
        '"task": {"type": "execute_command", "command": "echo hi"}}'
    )
    file = read(Path("/jobs.d/a.json"), line.encode())
    assert isinstance(file, JobFile)
    assert (file.job_id, file.description, file.schedule) == ("new-job", "...", "*/5 * * * *")


def test_a_time_of_toml_is_a_schedule():
    file = read(Path("/jobs.d/a.toml"), TOML.encode())
    assert isinstance(file, JobFile)
    assert file.schedule == "2026-11-22T02:00:00+00:00"


def test_a_day_of_toml_is_its_midnight():
    file = read(Path("/jobs.d/a.toml"), TOML.replace("T02:00:00Z", "").encode())
    assert isinstance(file, JobFile)
    assert file.schedule == "2026-11-22T00:00"


def test_other_files_hidden_files_and_copies_of_editors_are_passed_over(folder):
    for name in ("notes.txt", ".hidden.json", "a.json~", ".a.json.swp", "a.json.bak"):
        (folder / name).write_text("no job")
    (folder / "sub.json").mkdir()
    (folder / "sub.json" / "inner.json").write_text(GOOD)
    found = look(folder)
    assert found.files == {}
    assert list(found.errors) == [str(folder / "sub.json")]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (GOOD[:25], 2, "ends too early"),
        (GOOD[:60], 4, "Unterminated string"),
        (GOOD.replace('"says hi",', '"says hi"'), 4, "not JSON: Expecting ',' delimiter"),
        (GOOD.replace('"*/5 * * * *"', "5"), 4, "schedule is 5"),
        (GOOD.replace('"new-job"', "null"), 2, "job_id is None"),
        (GOOD.replace('"says hi"', "[]x"), 3, "not JSON"),
        (GOOD.replace('"says hi"', "NaN"), 1, "NaN is no JSON"),
        (GOOD.replace("description", "job_id"), 2, "'job_id' is there twice"),
        (GOOD.replace("job_id", "jobid"), 1, "job_id is missing"),
        ("", 1, "the file is empty"),
        ("[1, 2]", 1, "a job file holds one table"),
        ("[" * 100_000, 1, "nested too deep"),
    ],
)
def test_a_wrong_json_file_is_told_with_line_and_reason(folder, text, line, reason):
    message = told(folder, "a.json", text)
    assert message.startswith(f"line {line}: ")
    assert reason in message


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (TOML[:25], 2, "not TOML"),
        (TOML.replace("[task]", "[task"), 4, "not TOML"),
        (TOML.replace("[task]", "[tasks]"), 1, "task is missing"),
        (TOML.replace('"nightly"', "3"), 1, "job_id is 3"),
    ],
)
def test_a_wrong_toml_file_is_told_with_line_and_reason(folder, text, line, reason):
    message = told(folder, "a.toml", text)
    assert message.startswith(f"line {line}: ")
    assert reason in message


def test_a_file_that_is_not_utf_8_is_told_with_its_line(folder):
    assert told(folder, "a.json", b'{\n"job_id": "\xff"}').startswith("line 2: not UTF-8")


def test_a_file_of_more_than_1_mib_is_refused(folder):
    assert "larger than 1,048,576 bytes" in told(folder, "a.json", GOOD + " " * 1024 * 1024)


def test_a_file_that_anybody_may_change_is_refused(folder):
    (folder / "a.json").write_text(GOOD)
    (folder / "a.json").chmod(0o666)
    (error,) = look(folder).errors.values()
    assert error.type == "WorldWritable"
    assert "chmod o-w" in error.message


def test_a_folder_that_anybody_may_change_is_refused_unless_that_is_trusted(folder):
    (folder / "a.json").write_text(GOOD)
    folder.chmod(0o777)
    found = look(folder)
    assert (found.files, found.complete) == ({}, False)
    assert JobsFolder(folder, trust_world_writable=True).look().errors == {}


def test_a_link_out_of_the_folder_is_refused_and_one_within_it_is_followed(folder, tmp_path):
    (tmp_path / "outside.json").write_text(GOOD)
    (folder / "out.json").symlink_to(tmp_path / "outside.json")
    (folder / "..data").mkdir()  # as Kubernetes mounts a ConfigMap
    (folder / "..data" / "a.json").write_text(GOOD)
    (folder / "in.json").symlink_to(folder / "..data" / "a.json")
    found = look(folder)
    assert [error.type for error in found.errors.values()] == ["OutsideRoot"]
    assert list(found.files) == [str(folder / "in.json")]


def test_a_link_that_leads_nowhere_is_told(folder):
    (folder / "a.json").symlink_to(folder / "gone.json")
    assert [error.type for error in look(folder).errors.values()] == ["NotFound"]


def test_a_named_pipe_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "a.json")
    assert [error.type for error in look(folder).errors.values()] == ["NotAFile"]


def test_a_folder_that_is_missing_is_no_empty_folder(tmp_path):
    found = look(tmp_path / "nowhere")
    assert not found.complete
    assert "cannot be read" in next(iter(found.errors.values())).message


def test_a_change_that_keeps_time_and_size_is_seen(folder):
    path, reader = folder / "a.json", JobsFolder(folder)
    path.write_text(GOOD)
    status = path.stat()
    assert reader.look().files[str(path)].job_id == "new-job"
    path.write_text(GOOD.replace("new-job", "old-job"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert reader.look().files[str(path)].job_id == "old-job"


def test_changes_within_one_tick_of_the_disk_s_clock_are_seen(folder):
    path, reader = folder / "a.json", JobsFolder(folder)
    seen: list[str] = []
    for number in range(100, 300):
        path.write_text(GOOD.replace("new", str(number)))
        seen.append(reader.look().files[str(path)].job_id)
    assert seen == [f"{number}-job" for number in range(100, 300)]


def test_an_unchanged_file_is_not_read_again(folder, monkeypatch):
    path, reader = folder / "a.json", JobsFolder(folder)
    path.write_text(GOOD)
    os.utime(path, (1, 1))
    before = reader.look()
    monkeypatch.setattr(os, "open", lambda *_args, **_kwargs: pytest.fail("read again"))
    assert reader.look() == before
