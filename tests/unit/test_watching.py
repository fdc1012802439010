"""A folder is looked at again and again, and at once when the file system tells of a change."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.sources.watching import Watcher
from penstock.testing.harness import wait_until


class Looks:
    """Keeps what each look saw."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[list[str]] = []
        self.soon_s: list[float] = []

    def __call__(self) -> float | None:
        self.seen.append(sorted(path.name for path in self.folder.glob("*")))
        return self.soon_s.pop() if self.soon_s else None

    def wait_for(self, *names: str) -> None:
        wait_until(lambda: self.seen and self.seen[-1] == list(names), 15, f"{names} are seen")


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[type[Watcher]]:
    made: list[Watcher] = []

    class Kept(Watcher):
        def start(self) -> None:
            made.append(self)
            super().start()

    yield Kept
    for watcher in made:
        watcher.stop()


@pytest.mark.parametrize("events", [True, False])
def test_a_change_is_seen(tmp_path, watching, events):
    looks = Looks(tmp_path)
    watching(tmp_path, looks, interval_s=0.1, events=events).start()
    looks.wait_for()
    (tmp_path / "a").write_text("")
    looks.wait_for("a")


def test_an_event_is_not_waited_for_until_the_next_look(tmp_path, watching):
    pytest.importorskip("watchfiles")
    looks = Looks(tmp_path)
    watching(tmp_path, looks, interval_s=600, events=True).start()

    def seen() -> bool:
        (tmp_path / f"{time.monotonic_ns()}").write_text("")  # until the file system is being listened to
        return bool(looks.seen)

    wait_until(seen, 15, "an event leads to a look")


def test_a_folder_that_is_removed_and_made_again_is_seen(tmp_path, watching):
    folder = tmp_path / "jobs.d"
    folder.mkdir()
    looks = Looks(folder)
    watching(folder, looks, interval_s=0.1, events=True).start()
    (folder / "a").write_text("")
    looks.wait_for("a")
    shutil.rmtree(folder)
    looks.wait_for()
    folder.mkdir()
    (folder / "b").write_text("")
    looks.wait_for("b")
    (folder / "c").write_text("")
    looks.wait_for("b", "c")


def test_a_look_may_ask_for_another_one_soon(tmp_path, watching):
    looks = Looks(tmp_path)
    looks.soon_s = [0.01, 0.01]
    watching(tmp_path, looks, interval_s=600, events=False).start()
    wait_until(lambda: len(looks.seen) == 3, 15)


def test_without_watchfiles_the_folder_is_looked_at_all_the_same(tmp_path, watching, monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    looks = Looks(tmp_path)
    watching(tmp_path, looks, interval_s=0.05, events=True).start()
    wait_until(lambda: len(looks.seen) > 2, 15)


@pytest.mark.parametrize("events", [True, False])
def test_stop_does_not_wait_for_the_next_look(tmp_path, events):
    watcher = Watcher(tmp_path, Looks(tmp_path), interval_s=600, events=events)
    watcher.start()
    begun = time.monotonic()
    watcher.stop()
    assert time.monotonic() - begun < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "penstock-jobs-dir"]
