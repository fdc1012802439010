"""A day replayed slowly: something to cancel, or to run into a timeout."""

import time

import polars as pl


def departures(flights: pl.DataFrame) -> pl.DataFrame:
    """The flights that left, in order."""
    return flights.drop_nulls("dep_time").sort("dep_time")


def replayed(departures: pl.DataFrame, seconds: float) -> int:
    """Wait ``seconds``, as if the day went by, and count the departures."""
    time.sleep(seconds)
    return departures.height
