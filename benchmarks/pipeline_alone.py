"""Print the median milliseconds of the example pipeline in a warm process, without penstock."""

from __future__ import annotations

import datetime as dt
import os
import statistics
import sys
import time

os.chdir(sys.argv[1])

from flowerpower.pipeline import PipelineManager  # noqa: E402

manager = PipelineManager(base_dir=os.getcwd())
took = []
for turn in range(18):
    started = time.perf_counter()
    manager.run("delays_by_carrier", inputs={"day": dt.date(2013, 1, 2)}, retry={"max_retries": 0})
    if turn > 2:
        took.append((time.perf_counter() - started) * 1000)
print(statistics.median(took))
