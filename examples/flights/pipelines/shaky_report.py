"""A pipeline that fails once: its service is down on the first call for a day, and answers the second."""

import datetime as dt
from pathlib import Path

import polars as pl


class ServiceDownError(ConnectionError):
    """The seat service did not answer."""


def routes(flights: pl.DataFrame) -> pl.DataFrame:
    """Flights by route."""
    return flights.group_by("origin", "dest").agg(pl.len().alias("flights"))


def seats_of(flights: pl.DataFrame, marker_dir: str, day: dt.date) -> pl.DataFrame:
    """Seats by route, from a service that is down when it is asked for a day the first time."""
    marker = Path(marker_dir) / f"{day}.asked"
    if not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        raise ServiceDownError(f"the seat service is down, asked for {day}")
    return flights.group_by("origin", "dest").agg((pl.len() * 150).alias("seats"))


def busiest_routes(routes: pl.DataFrame, seats_of: pl.DataFrame) -> list[dict]:
    """The five busiest routes with their seats."""
    joined = routes.join(seats_of, on=["origin", "dest"])
    return joined.sort("flights", "origin", "dest", descending=[True, False, False]).head(5).to_dicts()
