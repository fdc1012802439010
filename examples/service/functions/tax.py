"""A file that cannot be loaded where TAX_RATE is not set. The others do not mind; `penstock scan` says why."""

import os
from datetime import timedelta

from penstock import schedule

RATE = float(os.environ["TAX_RATE"])


@schedule(timedelta(days=1))
def tax_return() -> float:
    return round(1_000 * RATE, 2)
