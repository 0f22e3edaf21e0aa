"""Names that a browser may have been led by, and those that tell nothing bad."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.config import Settings
from logstitch.errors import ConfigurationError
from logstitch.http.hosts import is_rebound, parse_names
from logstitch.workers import worker_environment

BROWSER = {b"accept-language": b"en-US,en;q=0.9", b"user-agent": b"Mozilla/5.0 (X11; Linux x86_64)"}
SCRAPER = {b"user-agent": b"Prometheus/3.1.0", b"accept": b"application/openmetrics-text", b"accept-encoding": b"gzip"}
NAMES = parse_names("logstitch.monitoring.svc, Ops.Example.", "metrics.internal:8701")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8701",
        "10.0.3.7:8701",
        "[::1]:8701",
        "[fd00::7]",
        "localhost",
        "LOCALHOST:8701",
        "localhost.:8701",
        "logstitch.monitoring.svc:8701",
        "ops.example",
        "OPS.example.:80",
        "metrics.internal:8702",
    ],
)
def test_a_browser_may_use_addresses_and_names_that_are_known(host: str) -> None:
    assert not is_rebound({**BROWSER, b"host": host.encode()}, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8701",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.localhost",
        "ops.example.evil",
        "ops.example,evil.example",
        "evil.example@localhost",
        "127.1",
        "0x7f.0.0.1",
        "2130706433",
        "::1",
        "[127.0.0.1]",
        "[localhost]",
        "",
        "[",
        "\xb2.1.1.1",
    ],
)
def test_and_no_other(host: str) -> None:
    assert is_rebound({**BROWSER, b"host": host.encode("latin-1")}, NAMES)
    assert not is_rebound({**SCRAPER, b"host": host.encode("latin-1")}, NAMES)


@pytest.mark.parametrize(
    "sign",
    [
        {b"accept-language": b""},
        {b"origin": b"null"},
        {b"referer": b"http://evil.example/"},
        {b"sec-fetch-site": b"same-origin"},
        {b"sec-ch-ua": b"x"},
        {b"user-agent": b"Mozilla/5.0"},
    ],
)
def test_one_sign_makes_a_browser(sign: dict[bytes, bytes]) -> None:
    assert is_rebound({**SCRAPER, b"host": b"evil.example", **sign}, NAMES)
    assert not is_rebound({**SCRAPER, b"host": b"ops.example", **sign}, NAMES)


@pytest.mark.parametrize(
    ("bind", "names"),
    [("metrics.internal:8701", {"metrics.internal"}), ("unix:/run/ops", set()), ("[::1]:8701", set())],
)
def test_a_name_in_the_bind_address_is_known(bind: str, names: set[str]) -> None:
    assert parse_names("", bind) == names


@pytest.mark.parametrize(
    "listed", ["http://ops.example", "ops.example:8701", "a b", "*", "*.example", "-x", "é.example"]
)
def test_what_is_no_name_is_refused(listed: str) -> None:
    with pytest.raises(ConfigurationError, match="--ops-host-names"):
        parse_names(f"fine.example,{listed}")


@given(st.text(max_size=40))
def test_whatever_a_browser_says_that_is_no_name_of_ours_is_refused_without_an_error(host: str) -> None:
    headers = {**BROWSER, b"host": host.encode("utf-8", "surrogatepass")}

    assert is_rebound(headers, ()) in (True, False)


def test_workers_are_given_the_names_and_the_one_that_their_parent_listens_on() -> None:
    settings = Settings(ops_bind="metrics.internal:8701", ops_host_names="ops.example", database_url="postgresql://")

    assert worker_environment(settings, "postgresql://")["LOGSTITCH_OPS_HOST_NAMES"] == "metrics.internal,ops.example"
