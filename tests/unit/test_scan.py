"""Loading the tasks that the configuration names."""

from __future__ import annotations

import signal
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from penstock.sources import scan
from penstock.sources.decorators import TASKS
from penstock.sources.loading import PRIVATE


@pytest.fixture(autouse=True)
def clean_process(monkeypatch):
    """Give each test a process that has loaded nothing, and caches what it compiles."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    tasks, path, modules = dict(TASKS), list(sys.path), set(sys.modules)
    yield
    for name in set(TASKS) - set(tasks):
        TASKS.discard(name)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith((PRIVATE, "shop_", "jobs")):
            del sys.modules[name]
    scan._LOADED.clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def write(root: Path, name: str, text: str = "") -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))
    return file


def task(name: str, value: object = None) -> str:
    return f"from penstock.sources.decorators import task\n\n@task\ndef {name}():\n    return {value!r}\n"


def load(root: Path, *entries: str, **more) -> scan.Loaded:
    return scan.load_tasks(entries, root=root, **more)


# -- what is found ----------------------------------------------------------------------------------------


def test_a_folder_is_loaded_with_all_files_below_it(root):
    write(root, "jobs/a.py", task("one_task"))
    write(root, "jobs/deep/er/b.py", task("two_task"))
    loaded = load(root, "jobs/")
    assert loaded.tasks == {"jobs/a.py": ("one_task",), "jobs/deep/er/b.py": ("two_task",)}
    assert loaded.errors == ()
    assert {"one_task", "two_task"} <= set(TASKS)


def test_a_folder_needs_no_slash_where_it_exists(root):
    write(root, "jobs/a.py", task("one_task"))
    assert load(root, "jobs").tasks == {"jobs/a.py": ("one_task",)}


def test_a_single_file_is_loaded_alone(root):
    write(root, "jobs/a.py", task("one_task"))
    write(root, "jobs/b.py", task("two_task"))
    assert load(root, "jobs/a.py").tasks == {"jobs/a.py": ("one_task",)}
    assert "two_task" not in TASKS


def test_a_module_is_imported_from_the_root(root):
    write(root, "shop_a/__init__.py")
    write(root, "shop_a/tasks.py", task("one_task"))
    assert load(root, "shop_a.tasks").tasks == {"shop_a.tasks": ("one_task",)}


def test_a_package_counts_the_tasks_of_the_modules_that_it_imports(root):
    write(root, "shop_b/__init__.py")
    write(root, "shop_b/tasks/__init__.py", "from . import inner")
    write(root, "shop_b/tasks/inner.py", task("one_task"))
    assert load(root, "shop_b.tasks").tasks == {"shop_b.tasks": ("one_task",)}


@pytest.mark.parametrize(
    "name",
    ["_private.py", ".hidden.py", "__pycache__/x.py", ".git/x.py", "notes.txt", "venv/lib/x.py", "data.py/x.txt"],
)
def test_what_is_no_task_file_is_never_run(root, name):
    write(root, f"jobs/{name}", "raise AssertionError('run')")
    write(root, "jobs/venv/pyvenv.cfg")
    loaded = load(root, "jobs/")
    assert (loaded.errors, loaded.tasks) == ((), {})


def test_absolute_entries_work_as_relative_ones_do(root):
    write(root, "jobs/a.py", task("one_task"))
    assert load(root, f"{root}/jobs/").tasks == {"jobs/a.py": ("one_task",)}


def test_only_modules_that_are_named_are_imported(root):
    write(root, "shop_c/__init__.py")
    write(root, "shop_c/tasks.py", task("one_task"))
    write(root, "shop_c/other.py", "raise AssertionError('run')")
    load(root, "shop_c.tasks")
    assert "shop_c.other" not in sys.modules


# -- names and imports ------------------------------------------------------------------------------------


def test_two_files_of_one_stem_do_not_clash(root):
    write(root, "jobs/a/etl.py", task("one_task", 1))
    write(root, "jobs/b/etl.py", task("two_task", 2))
    load(root, "jobs/")
    assert (TASKS["one_task"](), TASKS["two_task"]()) == (1, 2)


def test_a_file_may_be_called_as_a_module_of_python(root):
    write(root, "jobs/json.py", task("one_task"))
    load(root, "jobs/")
    import json

    assert json.loads("1") == 1


@pytest.mark.parametrize("stem", ["my-job", "1st", "a.b", "class", "spaced out"])
def test_a_file_may_have_a_name_that_no_module_can_have(root, stem):
    write(root, f"jobs/{stem}.py", task("one_task"))
    assert load(root, "jobs/").tasks == {f"jobs/{stem}.py": ("one_task",)}


def test_relative_imports_work_in_a_package(root):
    write(root, "jobs/__init__.py", "BASE = 40")
    write(root, "jobs/_calc.py", "from . import BASE\nANSWER = BASE + 2")
    write(root, "jobs/sub/__init__.py")
    write(root, "jobs/sub/a.py", "from .._calc import ANSWER\n" + task("one_task") + "\nassert ANSWER == 42\n")
    loaded = load(root, "jobs/sub/")
    assert (loaded.errors, loaded.tasks) == ((), {"jobs/sub/a.py": ("one_task",)})


def test_relative_imports_work_in_a_folder_that_is_no_package(root):
    write(root, "jobs/a.py", "from .b import VALUE\n" + task("one_task"))
    write(root, "jobs/b.py", "VALUE = 1\n" + task("two_task"))
    loaded = load(root, "jobs/")
    assert loaded.tasks == {"jobs/a.py": ("one_task",), "jobs/b.py": ("two_task",)}
    assert loaded.errors == ()


def test_a_file_that_another_has_imported_is_not_run_a_second_time(root):
    write(root, "jobs/a.py", "from . import b")
    write(root, "jobs/b.py", f"import sys\nsys.shop_count = getattr(sys, 'shop_count', 0) + 1\n{task('one_task')}")
    try:
        load(root, "jobs/")
        assert sys.shop_count == 1
    finally:
        del sys.shop_count


def test_a_file_imports_the_projects_own_packages(root):
    write(root, "shop_d/__init__.py", "VALUE = 1")
    write(root, "jobs/a.py", "import shop_d\n" + task("one_task"))
    assert load(root, "jobs/").errors == ()


def test_only_the_root_is_added_to_the_path_and_only_once(root):
    write(root, "jobs/a.py", task("one_task"))
    before = list(sys.path)
    load(root, "jobs/")
    load(root, "jobs/")
    assert sys.path == [str(root), *before]


def test_nothing_is_written_beside_the_users_files(root):
    write(root, "jobs/a.py", task("one_task"))
    load(root, "jobs/")
    assert list((root / "jobs").iterdir()) == [root / "jobs" / "a.py"]


def test_a_script_that_loads_itself_does_not_run_twice(root, monkeypatch):
    file = write(root, "script.py", "raise AssertionError('run')")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(file), raising=False)
    assert load(root, "script.py").errors == ()


# -- what fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("def f(:\n", "SyntaxError", "invalid syntax"),
        ("import shop_missing", "ModuleNotFoundError", "No module named 'shop_missing'"),
        ("1 / 0", "ZeroDivisionError", "division by zero"),
        ("raise SystemExit(3)", "SystemExit", "it called sys.exit(3) while it was loaded"),
        ("import sys; sys.exit()", "SystemExit", "it called sys.exit() while it was loaded"),
        ("raise ValueError", "ValueError", "ValueError"),
        ("x = '\0'", "SyntaxError", "null bytes"),
    ],
)
def test_a_broken_file_is_told_and_stops_no_other(root, text, kind, message):
    write(root, "jobs/a.py", text)
    write(root, "jobs/b.py", task("one_task"))
    loaded = load(root, "jobs/")
    (error,) = loaded.errors
    assert (error.file, error.type) == ("jobs/a.py", kind)
    assert message in error.message
    assert loaded.tasks == {"jobs/b.py": ("one_task",)}


def test_a_file_that_takes_too_long_is_given_up(root):
    write(root, "jobs/a.py", "while True:\n    try:\n        sum(range(10**5))\n    except Exception:\n        pass\n")
    write(root, "jobs/b.py", "import time\ntime.sleep(60)\n")
    write(root, "jobs/c.py", task("one_task"))
    loaded = load(root, "jobs/", timeout_s=0.2)
    assert [(error.file, error.type) for error in loaded.errors] == [("jobs/a.py", "TooSlow"), ("jobs/b.py", "TooSlow")]
    assert loaded.tasks == {"jobs/c.py": ("one_task",)}


def test_an_alarm_of_somebody_else_goes_on_after_loading(root):
    write(root, "jobs/a.py", task("one_task"))
    handler = signal.getsignal(signal.SIGALRM)
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, 50)
    try:
        load(root, "jobs/", timeout_s=5)
        assert signal.getsignal(signal.SIGALRM) is handler
        assert 40 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, left_s)


def test_loading_works_in_any_thread(root):
    write(root, "jobs/a.py", task("one_task"))
    found: list[scan.Loaded] = []
    thread = threading.Thread(target=lambda: found.append(load(root, "jobs/")))
    thread.start()
    thread.join(30)
    assert found[0].tasks == {"jobs/a.py": ("one_task",)}


def test_the_traceback_begins_in_the_users_code(root):
    write(root, "jobs/a.py", "def f():\n    1 / 0\n\nf()\n")
    (error,) = load(root, "jobs/").errors
    lines = error.traceback.splitlines()
    assert lines[1].strip() == f'File "{root}/jobs/a.py", line 4, in <module>'
    assert "loading.py" not in error.traceback


def test_a_broken_file_leaves_no_task_behind(root):
    write(root, "jobs/a.py", task("one_task") + "\n1 / 0\n")
    load(root, "jobs/")
    assert "one_task" not in TASKS


def test_a_broken_package_is_told_once_with_its_traceback(root):
    write(root, "jobs/__init__.py", "1 / 0")
    write(root, "jobs/a.py", task("one_task"))
    write(root, "jobs/b.py", task("two_task"))
    first, *others = load(root, "jobs/").errors
    assert (first.file, first.type) == ("jobs/__init__.py", "ZeroDivisionError")
    assert [(error.file, error.message) for error in others] == [
        ("jobs/a.py", "not loaded, because jobs/__init__.py failed"),
        ("jobs/b.py", "not loaded, because jobs/__init__.py failed"),
    ]


def test_a_file_whose_task_has_the_name_of_another_is_told(root):
    write(root, "jobs/a.py", task("one_task", 1))
    write(root, "jobs/b.py", task("one_task", 2))
    (error,) = load(root, "jobs/").errors
    assert error.file == "jobs/b.py"
    assert "two tasks are named 'one_task'" in error.message
    assert TASKS["one_task"]() == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("gone/", "there is no folder"),
        ("gone.py", "there is no file"),
        ("shop_gone.tasks", "there is no module 'shop_gone.tasks'"),
        ("not-a-module", "is no module, and there is no such file or folder"),
        ("a b", "is no module"),
        ("..shop", "is no module"),
    ],
)
def test_an_entry_that_names_nothing_is_told(root, entry, message):
    (error,) = load(root, entry).errors
    assert (error.file, error.type) == (entry, "NotFound")
    assert message in error.message


def test_a_module_that_misses_another_says_which(root):
    write(root, "shop_e.py", "import shop_missing")
    (error,) = load(root, "shop_e").errors
    assert (error.type, error.message) == ("ModuleNotFoundError", "No module named 'shop_missing'")


# -- links ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["outside", "outside/a.py"])
def test_a_link_out_of_the_project_is_told_and_not_followed(root, tmp_path, target):
    write(tmp_path, "outside/a.py", "raise AssertionError('run')")
    (root / "jobs").mkdir()
    (root / "jobs" / ("link.py" if target.endswith(".py") else "link")).symlink_to(tmp_path / target)
    (error,) = load(root, "jobs/").errors
    assert error.type == "OutsideRoot"


def test_a_link_within_the_project_is_followed_once(root):
    write(root, "jobs/a.py", task("one_task"))
    (root / "jobs" / "again.py").symlink_to(root / "jobs" / "a.py")
    (root / "jobs" / "loop").symlink_to(root / "jobs")
    loaded = load(root, "jobs/")
    assert (loaded.errors, list(loaded.tasks)) == ((), ["jobs/a.py"])


def test_a_folder_outside_the_root_is_loaded_where_it_is_named(root, tmp_path):
    write(tmp_path, "outside/a.py", task("one_task"))
    assert load(root, f"{tmp_path}/outside/").tasks == {f"{tmp_path}/outside/a.py": ("one_task",)}


# -- again ------------------------------------------------------------------------------------------------


def test_an_unchanged_file_does_not_run_again(root):
    write(root, "jobs/a.py", task("one_task"))
    first = load(root, "jobs/")
    there = TASKS["one_task"]
    again = load(root, "jobs/")
    assert TASKS["one_task"] is there
    assert (first.changed, again.changed) == (("jobs/a.py",), ())
    assert again.tasks == first.tasks


def test_a_changed_file_replaces_its_tasks_even_within_one_second(root):
    write(root, "jobs/a.py", task("one_task", 1))
    load(root, "jobs/")
    write(root, "jobs/a.py", task("one_task", 2))
    assert load(root, "jobs/").changed == ("jobs/a.py",)
    assert TASKS["one_task"]() == 2


def test_a_task_that_a_changed_file_no_longer_has_is_gone(root):
    write(root, "jobs/a.py", task("one_task"))
    load(root, "jobs/")
    write(root, "jobs/a.py", task("two_task"))
    load(root, "jobs/")
    assert "two_task" in TASKS
    assert "one_task" not in TASKS


def test_a_changed_file_that_fails_leaves_its_earlier_tasks(root):
    write(root, "jobs/a.py", task("one_task", 1))
    load(root, "jobs/")
    write(root, "jobs/a.py", task("one_task", 2) + task("two_task") + "\n1 / 0\n")
    loaded = load(root, "jobs/")
    assert TASKS["one_task"]() == 1
    assert "two_task" not in TASKS
    assert loaded.tasks == {"jobs/a.py": ("one_task",)}


def test_a_file_that_failed_is_tried_again(root):
    write(root, "jobs/a.py", "1 / 0")
    load(root, "jobs/")
    assert len(load(root, "jobs/").errors) == 1


def test_the_tasks_of_a_file_that_vanished_are_forgotten(root):
    file = write(root, "jobs/a.py", task("one_task"))
    load(root, "jobs/")
    file.unlink()
    assert load(root, "jobs/").tasks == {}
    assert "one_task" not in TASKS


def test_a_changed_module_replaces_its_tasks_in_place(root):
    write(root, "shop_f.py", task("one_task", 1))
    load(root, "shop_f")
    module = sys.modules["shop_f"]
    write(root, "shop_f.py", task("one_task", 2))
    assert load(root, "shop_f").changed == ("shop_f",)
    assert TASKS["one_task"]() == 2
    assert sys.modules["shop_f"] is module


def test_a_changed_module_that_fails_leaves_its_earlier_tasks(root):
    write(root, "shop_g.py", task("one_task", 1))
    load(root, "shop_g")
    write(root, "shop_g.py", "1 / 0")
    (error,) = load(root, "shop_g").errors
    assert error.type == "ZeroDivisionError"
    assert TASKS["one_task"]() == 1
    assert sys.modules["shop_g"].one_task() == 1


def test_a_changed_package_replaces_what_it_holds(root):
    write(root, "jobs/__init__.py", task("one_task", 1))
    write(root, "jobs/a.py", task("two_task"))
    load(root, "jobs/")
    write(root, "jobs/__init__.py", task("one_task", 2))
    load(root, "jobs/")
    assert TASKS["one_task"]() == 2


def test_a_file_named_twice_runs_once(root):
    write(root, "jobs/sub/a.py", task("one_task"))
    loaded = load(root, "jobs/", "jobs/sub/", "jobs/sub/a.py")
    assert (loaded.errors, loaded.changed) == ((), ("jobs/sub/a.py",))
