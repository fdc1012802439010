"""Bar 16: each real ledger beside the model, at random, with answers that are lost; and each guard taken away.

The full size is a quarter of the bar's 10,000 runs on each of the four ledgers.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

from bars import POSTGRES, REDIS, SQLITE, Trial, bar, name_of
from report import Figure, at_least, equals, none, told

INTEGRATION = Path(__file__).parents[1] / "integration"
LOST = 0.1
"""How many writes get no answer, half of them after they were applied."""


@bar(
    16, "ledger beside the model, answers lost",
    small={"runs": 25, "steps": 50, "mutants": 0}, full={"runs": 2500, "steps": 50, "mutants": 12},
    places=(("-", "memory://"), ("-", SQLITE), ("-", REDIS), ("-", POSTGRES)),
)  # fmt: skip
def model(trial: Trial) -> list[Figure]:
    kind = name_of(trial.ledger)
    steps, lost, diverged = _drive(kind, trial.size["runs"], trial.size["steps"], trial.seed)
    figures = [
        equals("runs", trial.size["runs"], trial.size["runs"]),
        told("writes", steps),
        at_least("answers lost", lost, 1),
        none("divergences", diverged),
    ]
    if trial.size["mutants"]:
        caught, of = _mutants(kind)
        figures += [at_least("guards taken away", of, trial.size["mutants"]), equals("of them caught", caught, of)]
    return figures


def _drive(kind: str, runs: int, steps: int, seed: int) -> tuple[int, int, list[str]]:
    """Return how many steps were made, how many answers were lost, and the first divergence."""
    if str(INTEGRATION) not in sys.path:
        sys.path.append(str(INTEGRATION))
    import hypothesis
    from hypothesis import HealthCheck, settings
    from hypothesis import strategies as st
    from hypothesis.stateful import initialize, run_state_machine_as_test
    from ledger_oracle import DivergenceError, Pair
    from test_ledger_stateful import LedgerMachine

    from penstock.core.exceptions import LedgerUnavailableError
    from penstock.job.lifecycle import Transition
    from penstock.ledger.faults import with_faults

    counts = {"steps": 0, "lost": 0}

    class LosingPair(Pair):
        """A pair whose ledger now and then gives no answer; the model knows whether it has written all the same."""

        def apply(self, *transitions: Transition) -> list[object]:
            counts["steps"] += 1
            if self.rand.random() >= LOST:
                return super().apply(*transitions)
            side = self.rand.choice(("before", "after"))
            faulty = with_faults(self.ledger, f"any.{side}:error")
            try:
                faulty.apply(transitions[0]) if len(transitions) == 1 else faulty.apply_many(transitions)
            except LedgerUnavailableError:
                counts["lost"] += 1
            if side == "after":
                for transition in transitions:
                    self.model.apply(transition, self.clock.now)
            for transition in transitions:
                self.check_job(transition.job_id)
            return [None] * len(transitions)

    @hypothesis.seed(seed)
    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__()
            self.pair = LosingPair(self.pair.ledger, self.clock)
            self.pair.rand = random.Random(seed)

        @initialize(number=st.integers(0, 2**31))
        def loses_other_answers_in_each_run(self, number: int) -> None:
            self.pair.rand = random.Random(number)

        def nothing_differs(self) -> None:
            # The rows that a step names are compared after each; all that can be asked, at the end.
            pass

        def teardown(self) -> None:
            try:
                self.pair.check()
            finally:
                super().teardown()

    Machine.kind = kind
    chosen = settings(
        max_examples=runs, stateful_step_count=steps, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    try:
        run_state_machine_as_test(Machine, settings=chosen)
    except DivergenceError as error:
        return counts["steps"], counts["lost"], [str(error), *getattr(error, "__notes__", [])]
    return counts["steps"], counts["lost"], []


def _mutants(kind: str) -> tuple[int, int]:
    """Take away each guard in turn; return in how many of how many cases the model saw it."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"is_caught and {kind}"]
    done = subprocess.run(
        [*command, str(INTEGRATION / "test_guard_mutants.py")],
        cwd=INTEGRATION.parents[1], env={**os.environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return found.get("passed", 0), sum(found.values())
