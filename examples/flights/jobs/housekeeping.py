"""Plain functions beside the pipelines."""

from pathlib import Path

from penstock import Run, task

REPORTS = Path(__file__).parent.parent / "reports"


@task(max_attempts=2)
def count_reports(run: Run, folder: str | None = None) -> dict[str, int]:
    """Count the daily reports and their bytes."""
    files = sorted(Path(folder or REPORTS).glob("*.parquet"))
    size_bytes = 0
    for done, file in enumerate(files, start=1):
        size_bytes += file.stat().st_size
        run.progress = done / len(files)
    return {"reports": len(files), "size_bytes": size_bytes}
