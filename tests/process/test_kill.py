"""Nothing acknowledged is lost and nothing is doubled, whatever is killed; and a service that lies is found out.

``--kill-seconds N`` makes the run longer than the 30 s that the suite gives it; ``--kill-seed N`` repeats one.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import partial

import pytest
import trio

from tests.support import killing

# A connection that breaks while httpx sends a body leaves the generator of that body to the garbage collector, which
# complains of it in whatever runs then.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    yield
    gc.collect()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_was_acknowledged_survives_every_kill(request: pytest.FixtureRequest) -> None:
    seconds = float(request.config.getoption("--kill-seconds"))
    seed = request.config.getoption("--kill-seed") or int.from_bytes(os.urandom(4), "big")
    with killing.scene() as (server, process, keys):
        ledger = trio.run(partial(killing.run, server, process, keys, seconds=seconds, seed=int(seed)))
    print(ledger)
    assert not ledger.violated, str(ledger)
    assert ledger.unsettled == 0, "every client was answered in the end\n" + str(ledger)
    assert ledger.acknowledged
    assert sum(ledger.faults.values()) >= 3, "too little was killed to prove anything\n" + str(ledger)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("mutant", "fault"),
    [
        ("acknowledge_before_commit", "service"),
        ("swallow_errors", "postgres"),
        ("no_unique_key", "backend"),
        ("async_commit", "postgres"),
    ],
)
def test_a_broken_service_is_found_out(mutant: str, fault: str) -> None:
    with killing.scene(mutant) as (server, process, keys):
        ledger = trio.run(
            partial(killing.run, server, process, keys, seconds=6, seed=1, faults=(fault,), settle_seconds=20)
        )
    print(ledger)
    assert ledger.violated, f"the harness does not notice {mutant}\n{ledger}"
