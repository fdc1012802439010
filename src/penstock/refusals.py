"""What a worker does not run although it holds its message: looked at between the claim and the body."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.body import Ended
from penstock.endings import MISSING
from penstock.job.models import DamagedJob, ErrorInfo
from penstock.payload import over_limits

if TYPE_CHECKING:
    from penstock.core.config import LimitsConfig
    from penstock.job.models import Job
    from penstock.signing import Signer

logger = logging.getLogger("penstock.refusals")


class Refusals:
    """Ends jobs that nobody with a key submitted, that are damaged, or over the limits; counts each by its kind."""

    def __init__(self, signer: Signer, limits: LimitsConfig, count: Callable[[str], None]) -> None:
        self._signer = signer
        self._limits = limits
        self._count = count

    def ended(self, job: Job) -> Ended | None:
        """Return how the attempt ends that is not to begin; None: let it begin."""
        problem = self._signer.problem(job)
        if problem is not None:
            self._refused(job, problem.kind, problem.told)
            if problem.kind == "unknown_key":
                return Ended(how="released", error=ErrorInfo(MISSING, problem.told))
            return Ended(how="raised", error=ErrorInfo("SignatureError", problem.told), retryable=False)
        if isinstance(job, DamagedJob):
            self._refused(job, "damaged", job.damage)
            return Ended(how="raised", error=ErrorInfo("DamagedRowError", job.damage), retryable=False)
        told = over_limits(job.spec, self._limits)
        if told is not None:
            self._refused(job, "oversized", told)
            return Ended(how="raised", error=ErrorInfo("PayloadError", told), retryable=False)
        return None

    def _refused(self, job: Job, kind: str, told: str) -> None:
        self._count(kind)
        logger.warning("job %s is not run: %s", job.id, told)
