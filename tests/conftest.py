"""What holds for every test."""

from __future__ import annotations

import pytest

from penstock.sources.decorators import TASKS


@pytest.fixture(autouse=True)
def tasks_of_this_test():
    """Forget the tasks that a test has registered: their names are those of the process, not of the test."""
    before = dict(TASKS)
    yield
    TASKS._tasks.clear()
    TASKS._tasks.update(before)
