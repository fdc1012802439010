"""A second file of this name: folders keep them apart."""

from datetime import timedelta
from pathlib import Path

from penstock import schedule

from ._ages import older_than

TRASH = Path(__file__).parents[2] / "data" / "trash"


@schedule(timedelta(hours=6))
def empty_trash(days: float = 30.0) -> int:
    """Delete what has lain in the trash for long."""
    found = older_than(TRASH, days)
    for path in found:
        path.unlink()
    return len(found)


@schedule(timedelta(seconds=10), inputs={"folder": "data"})
def count_files(folder: str) -> int:
    return sum(path.is_file() for path in (TRASH.parents[1] / folder).rglob("*"))
