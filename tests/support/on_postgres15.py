"""Run pytest against the oldest PostgreSQL that the service supports, named by a URL like anybody's own server.

``python -m tests.support.on_postgres15 [options of pytest]``. Where Debian's PostgreSQL 15 is absent it says so and
ends well: there is nothing to test.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.support.postgres import DEBIAN_15, running_server


def main() -> int:
    """Pytest's exit status."""
    if not os.access(DEBIAN_15.program("postgres"), os.X_OK):
        print("skipped: no PostgreSQL 15 in /usr/lib/postgresql/15 (on Debian 12: apt install postgresql-15)")
        return 0
    with running_server(DEBIAN_15) as server:
        os.environ["LOGSTITCH_TEST_DATABASE_URL"] = server.admin_url
        return pytest.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
