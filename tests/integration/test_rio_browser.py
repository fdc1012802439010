"""examples/rio_app in a real Chromium: what a visitor sees and presses."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from penstock import JobQueue
from penstock.testing import services
from penstock.testing.harness import wait_until

pytest.importorskip("rio", reason="Rio is not installed: pip install 'penstock[rio]'")
moment = pytest.importorskip("penstock.rio.words").moment
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

KATHMANDU = ZoneInfo("Asia/Kathmandu")
EXAMPLE = Path(__file__).parents[2] / "examples" / "rio_app" / "app.py"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Rio takes a browser that calls itself headless for a crawler, and has it load the page again for ever.
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
SERVE = """
import sys
sys.modules.update(pandas=None, polars=None)  # Rio would import them for the types of its tables, in seconds
import app
app.app.run_as_web_server(host="127.0.0.1", port=int(sys.argv[1]))
"""


@pytest.fixture
def chromium():
    if CHROMIUM is None:
        services.SKIPPED["chromium"] = "no Chromium is installed; as root on Debian: make rio"
        pytest.skip(services.SKIPPED["chromium"])
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def served(tmp_path):
    """The example, copied to where it may leave its ledger, behind a port of its own."""
    shutil.copy(EXAMPLE, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(port)], cwd=tmp_path, env=os.environ, stdout=output, stderr=output
        )
        url = f"http://127.0.0.1:{port}/"
        try:
            wait_until(lambda: _answers(url, process), 60, "the app answers")
            yield url, tmp_path
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def _answers(url, process):
    assert process.poll() is None, "the app has ended"
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.slow
def test_a_visitor_sees_the_jobs_and_their_runs_and_runs_one_now(chromium, served):
    url, folder = served
    context = chromium.new_context(
        user_agent=USER_AGENT, viewport={"width": 1200, "height": 800}, timezone_id=KATHMANDU.key
    )
    page = context.new_page()
    page.goto(url)
    page.get_by_text("Nightly report", exact=True).wait_for(timeout=30_000)
    page.get_by_text("Ask the old server has failed with ConnectionError('no route to old.example.com')").wait_for()
    page.get_by_text("This job has been unscheduled and will not run again").wait_for()

    with JobQueue.from_config(folder) as queue:

        def next_run():
            return f"Scheduled for {moment(queue.schedules.get('Nightly report').next_at, queue.now(), KATHMANDU)}"

        # Times are those of the browser's clock, whatever the server's is.
        page.get_by_text(next_run()).first.wait_for()
        titles = {schedule.name for schedule in queue.schedules.list()}

        def press():
            # The buttons stand in the order of the rows; that which never runs again is the last.
            rows = [line for line in page.locator("body").inner_text().splitlines() if line in titles]
            page.locator(".rio-icon-button").nth(rows.index("Nightly report")).click()

        press()
        try:
            wait_until(lambda: queue.jobs(name="Nightly report"), 15)
        except TimeoutError:
            press()  # rows may change their places between the look and the click
        wait_until(lambda: queue.jobs(name="Nightly report", states=("succeeded",)), 60, "the job has run")
        page.get_by_text("Nightly report has completed successfully").wait_for(timeout=30_000)
        page.get_by_text(next_run()).first.wait_for(timeout=30_000)
        assert len(queue.jobs(name="Nightly report")) == 1
