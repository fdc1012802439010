"""What is old. A name that begins with _ is no file of functions: it is imported by those that are."""

import time
from pathlib import Path


def older_than(folder: Path, days: float) -> list[Path]:
    limit = time.time() - days * 86_400
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mtime < limit]
