"""Periodic jobs inside a Rio web app, with the names of rio-jobs: ``import penstock.rio as rio_jobs``.

The jobs are those of a penstock queue: their history survives a restart, and several processes of an app on one ledger
run each of them once.
"""

import contextlib
import io
import sys

try:
    with contextlib.nullcontext() if sys.stdout.isatty() else contextlib.redirect_stdout(io.StringIO()):
        import rio  # noqa: F401 # pyright: ignore[reportUnusedImport]
    if not sys.stdout.isatty() and (revel := sys.modules.get("revel.legacy")) is not None:
        # It comes with Rio (revel 0.9), hides the cursor when it is imported and shows it at exit, also where stdout is
        # a pipe: that would stand around what a command prints.
        vars(revel)["_set_cursor"] = bool  # any function of one argument that writes nothing
except ModuleNotFoundError as error:
    if error.name != "rio":
        raise
    raise ModuleNotFoundError("penstock.rio needs Rio: pip install 'penstock[rio]'", name="rio") from None

from penstock.rio import components
from penstock.rio.body import JobFunction, Run
from penstock.rio.components import JobsView, RunsView
from penstock.rio.scheduler import JobScheduler
from penstock.rio.shown import PastRun, ScheduledJob

__all__ = ["JobFunction", "JobScheduler", "JobsView", "PastRun", "Run", "RunsView", "ScheduledJob", "components"]
