"""How late each carrier was on one day, and what the weather had to do with it."""

import polars as pl


def flights_in_weather(flights: pl.DataFrame, weather: pl.DataFrame, airlines: pl.DataFrame) -> pl.DataFrame:
    """Each flight with its airline's name and the weather at its scheduled hour."""
    return flights.join(airlines, on="carrier", how="left").join(weather, on=["origin", "hour"], how="left")


def judged(flights_in_weather: pl.DataFrame, late_after_minutes: int) -> pl.DataFrame:
    """Whether each flight was cancelled or late, and what kind of weather it met."""
    wind, rain = pl.col("wind_speed"), pl.col("precip")
    return flights_in_weather.with_columns(
        cancelled=pl.col("dep_time").is_null(),
        late=pl.col("dep_delay") > late_after_minutes,
        wind=pl.when(wind.is_null()).then(pl.lit("unknown")).when(wind < 10).then(pl.lit("calm"))
        .when(wind < 20).then(pl.lit("breeze")).otherwise(pl.lit("storm")),
        wet=rain.fill_null(0) > 0,
    )  # fmt: skip


def delays_by_carrier(judged: pl.DataFrame) -> pl.DataFrame:
    """Flights, average delay and share of late flights for each carrier, the latest first."""
    return (
        judged.group_by("carrier", "airline").agg(*_measures()).sort("average_delay", descending=True, nulls_last=True)
    )


def delays_by_weather(judged: pl.DataFrame) -> pl.DataFrame:
    """The same by wind and rain."""
    return judged.group_by("wind", "wet").agg(*_measures()).sort("wind", "wet")


def _measures() -> list[pl.Expr]:
    return [
        pl.len().alias("flights"),
        pl.col("dep_delay").mean().round(1).alias("average_delay"),
        pl.col("late").mean().round(3).alias("share_late"),
        pl.col("cancelled").sum().alias("cancelled"),
    ]
