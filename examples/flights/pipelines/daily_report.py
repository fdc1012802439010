"""A report of one day, written as parquet."""

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl


def by_hour(flights: pl.DataFrame) -> pl.DataFrame:
    """Departures and their average delay for each airport and hour."""
    return flights.group_by("origin", "hour").agg(
        pl.len().alias("flights"),
        pl.col("dep_delay").mean().round(1).alias("average_delay"),
        pl.col("dep_time").is_null().sum().alias("cancelled"),
    )


def hourly_report(by_hour: pl.DataFrame, weather: pl.DataFrame) -> pl.DataFrame:
    """The hours with their weather."""
    return by_hour.join(weather, on=["origin", "hour"], how="left").sort("origin", "hour")


def worst_hour(hourly_report: pl.DataFrame) -> dict[str, Any]:
    """The airport and hour with the longest average delay."""
    return hourly_report.sort("average_delay", descending=True, nulls_last=True).row(0, named=True)


def report_file(hourly_report: pl.DataFrame, report_dir: str, day: dt.date) -> Path:
    """Where the report was written. A second run of the same day replaces it in one step."""
    path = Path(report_dir) / f"{day}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    hourly_report.write_parquet(part)
    part.replace(path)
    return path


def report(
    report_file: Path, hourly_report: pl.DataFrame, worst_hour: dict[str, Any], flights: pl.DataFrame, day: dt.date
) -> dict[str, Any]:
    """What the day was like, in a few figures."""
    return {
        "day": day.isoformat(),
        "path": str(report_file),
        "rows": hourly_report.height,
        "flights": flights.height,
        "cancelled": int(flights["dep_time"].null_count()),
        "average_delay": round(flights["dep_delay"].mean() or 0.0, 1),
        "worst_hour": f"{worst_hour['origin']} {worst_hour['hour']}:00, {worst_hour['average_delay']} min late",
    }
