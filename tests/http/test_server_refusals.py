"""What is no request that this server takes: other protocols, invalid heads, random bytes. Over raw sockets.

Each probe ends with the same invariant: a fresh client is answered within a second.
"""

from __future__ import annotations

import random

import h2.config
import h2.connection
import pytest
import trio
import trio.testing

from tests.support.sockets import (
    GET,
    open_server,
)

# -- protocols that are not spoken here ----------------------------------------------------------------------------


def http2(*headers: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    """What a client with prior knowledge of HTTP/2 sends: preface, settings, one request."""
    configuration = h2.config.H2Configuration(
        client_side=True,
        header_encoding=None,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
    )
    connection = h2.connection.H2Connection(configuration)
    connection.initiate_connection()
    connection.send_headers(1, headers, end_stream=not data)
    if data:
        connection.send_data(1, data, end_stream=True)
    return bytes(connection.data_to_send())


USUAL = ((b":scheme", b"http"), (b":authority", b"x"))


@pytest.mark.parametrize(
    "packet",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        http2((b":method", b"GET"), (b":path", b"/"), *USUAL),
        http2((b":method", b"GET"), (b":path", "/é".encode()), *USUAL),
        http2((b":method", b"G\xffT"), (b":path", b"/"), *USUAL),
        http2((b":method", b"CONNECT"), (b":authority", b"x:1")),
        http2((b":method", b"POST"), (b":path", b"/"), *USUAL, data=b"x" * 9999),
    ],
    ids=["preface", "plain", "non-ascii path", "non-ascii method", "connect without path", "data after the answer"],
)
async def test_http2_is_refused(packet: bytes) -> None:
    async with open_server() as running:
        answer, client = await running.exchange(packet)
        assert (answer.status, answer.code) == (400, "validation_error")
        assert await client.ended() == b""
        await running.answers()


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AA==\r\n",
    ],
    ids=["h2c", "websocket"],
)
async def test_an_upgrade_is_ignored_and_junk_after_it_refused(upgrade: bytes) -> None:
    async with open_server() as running:
        answer, client = await running.exchange(b"GET /up HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n")
        assert (answer.status, answer.body) == (200, b"/up ")
        await client.send(GET)
        assert (await client.answer()).body == b"/ping "
        await client.send(b"\x81\xff\0\xde\xad\xbe\xef junk\r\n\r\n")
        assert (await client.answer()).code == "validation_error"
        await running.answers()


# -- requests that are not valid -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G\xffT / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/3.0\r\nHost: x\r\n\r\n",
        b"GET x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4, 5\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -4\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 64 * 1024,
    ],
)
async def test_an_invalid_request_is_refused(request_bytes: bytes) -> None:
    async with open_server() as running:
        answer, client = await running.exchange(request_bytes)
        assert (answer.status, answer.code) == (400, "validation_error")
        assert await client.ended() == b""
        await running.answers()


HUGE = {
    "65 headers": b"Host: x\r\n" + b"A: b\r\n" * 64 + b"\r\n",
    "16 KiB in one packet": b"Host: x\r\nA: " + b"b" * 16384 + b"\r\n\r\n",
    "a header without end": b"Host: x\r\nA: " + b"b" * 2**20,
    "headers without end": b"Host: x\r\n" + b"A: b\r\n" * 2**17,
}


@pytest.mark.parametrize("headers", HUGE.values(), ids=HUGE.keys())
async def test_too_many_header_bytes_are_refused(headers: bytes) -> None:
    async with open_server() as running:
        client = await running.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, b"GET / HTTP/1.1\r\n" + headers)
            answer = await client.answer()
            assert (answer.status, answer.code) == (431, "headers_too_large")
            assert await client.ended() == b""
        await running.answers()


@pytest.mark.parametrize(("size", "status"), [(8192, 200), (8193, 431), (100_000, 431)])
async def test_the_target_is_bounded(size: int, status: int) -> None:
    async with open_server() as running:
        path = b"/" * size
        answer, _ = await running.exchange(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        assert answer.status == status
        assert answer.body == path + b" " if status == 200 else answer.code == "headers_too_large"
        await running.answers()


async def test_64_headers_are_taken() -> None:
    async with open_server() as running:
        answer, _ = await running.exchange(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 63 + b"\r\n")
        assert answer.status == 200


async def test_a_refused_head_request_has_no_body() -> None:
    async with open_server() as running:
        client = await running.connect()
        await client.send(b"HEAD x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer(to_head=True)).status == 400
        assert await client.ended() == b""


async def test_random_bytes() -> None:
    rng = random.Random(20240607)
    seeds = [GET, http2((b":method", b"GET"), (b":path", b"/"), *USUAL)]
    seeds += [b"POST /r HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" * 3]
    async with open_server(linger_seconds=0.1) as running:
        for turn in range(200):
            if turn % 2:
                junk = rng.randbytes(rng.randrange(1, 3000))
            else:
                mutant = bytearray(rng.choice(seeds))
                for _ in range(rng.randrange(1, 6)):
                    mutant[rng.randrange(len(mutant))] = rng.randrange(256)
                junk = bytes(mutant)
            client = await running.connect()
            await client.send(junk)
            await client.stream.send_eof()
            answered = await client.ended()
            assert answered == b"" or answered.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4")), (turn, junk, answered)
            if turn % 20 == 0:
                await running.answers()
        await running.answers()
