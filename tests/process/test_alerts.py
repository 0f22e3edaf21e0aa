"""Each alert once, whatever is killed or stopped, in two services on one database; and one that errs is found out.

``--kill-seconds N`` makes the run longer than the 25 s that the suite gives it; ``--kill-seed N`` repeats one.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from functools import partial

import pytest
import trio

from tests.support import alert_killing

# A connection that breaks while httpx sends a body leaves the generator of that body to the garbage collector, which
# complains of it in whatever runs then.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SECONDS = 25.0


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    yield
    gc.collect()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_alert_is_fired_once_whatever_is_killed(request: pytest.FixtureRequest) -> None:
    asked = float(request.config.getoption("--kill-seconds"))
    seconds = asked if asked > 30 else SECONDS
    seed = request.config.getoption("--kill-seed") or int.from_bytes(os.urandom(4), "big")
    with alert_killing.scene() as stage:
        account = trio.run(partial(alert_killing.run, stage, seconds=seconds, seed=int(seed)))
    print(account)
    assert not account.violated, str(account)
    assert len(account.expected) >= 50, "too few alerts to prove anything\n" + str(account)
    assert sum(account.faults.values()) >= 3, "too little was killed to prove anything\n" + str(account)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("mutant", "faults"),
    [
        ("position_before_alerts", ("service",)),
        ("no_fence", ()),
        ("no_gap_check", ()),
    ],
)
def test_a_broken_evaluator_is_found_out(mutant: str, faults: Sequence[str]) -> None:
    with alert_killing.scene(mutant) as stage:
        account = trio.run(partial(alert_killing.run, stage, seconds=8, seed=1, faults=faults, settle_seconds=25))
    print(account)
    assert account.violated, f"the harness does not notice {mutant}\n{account}"
    assert account.lost or account.twice or account.invented, "not for the reason that it should"
