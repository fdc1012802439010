"""Two reports: one in short steps, one each night."""

import csv
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from penstock import Run, schedule

DATA = Path(__file__).parents[1] / "data"
log = logging.getLogger("reports")


@schedule(timedelta(seconds=5))
def disk_usage(run: Run) -> int:
    """Note how large the data folder is."""
    files = [path for path in DATA.rglob("*") if path.is_file()]
    size_bytes = 0
    for number, path in enumerate(files, 1):
        size_bytes += path.stat().st_size
        run.progress = number / len(files)
    with (DATA / "disk_usage.csv").open("a", newline="") as file:
        csv.writer(file).writerow([datetime.now(UTC).isoformat(timespec="seconds"), len(files), size_bytes])
    log.info("%d files, %d bytes", len(files), size_bytes)
    return size_bytes


@schedule(cron="0 2 * * *", timeout="10m", max_attempts=3)
def nightly_summary() -> str:
    """Sum up what `disk_usage` noted. With a timeout it runs in a process of its own, which can be ended."""
    with (DATA / "disk_usage.csv").open(newline="") as file:
        sizes = [int(row[2]) for row in csv.reader(file)]
    summary = f"{len(sizes)} looks, {min(sizes):,} to {max(sizes):,} bytes"
    print(summary)
    return summary
