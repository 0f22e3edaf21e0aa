"""The steps of every request, in the one order that is safe: who, may they, which project, the body, then the work.

Whatever goes wrong on the way becomes a ``Reply`` here, and every request is answered within its deadline. A handler
runs to its end or to that deadline, also when its client has left: what it asked of an actor would be done anyway. Of
an answer that is streamed, the deadline is for the first piece.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace

import trio

from logstitch.actors.messages.viewers import Viewer
from logstitch.errors import Forbidden, Overloaded, Unavailable
from logstitch.http import auth
from logstitch.http.bodies import Body, Budget, ClientGone, Receive
from logstitch.http.endpoints import About, Call, Endpoint
from logstitch.http.errors import BodyTimeout, reply_to
from logstitch.http.requests import RequestHead
from logstitch.http.responses import Answer, Reply, StreamedReply
from logstitch.http.schemas.common import ProjectQuery, check
from logstitch.http.services import Limits, Services
from logstitch.throttle import network_of

OVERLOAD_SECONDS = 1.0
"""How long a refusal for overload is kept back: as long as it asks the client to wait. Clients that ask again at once
would else have the service spend its time on refusing, and not on those that it accepts. What they sent is let go of
before."""
BELIEVED_SECONDS = 0.2
"""A body that took longer has its sender's credential looked at again: it may have been revoked meanwhile. So has the
reader of an answer that is streamed, as often. Less than what a revocation waits for leases to run out."""


class Exchange:
    """One request on its way through, and what its access log line will say about it."""

    __slots__ = ("endpoint", "head", "project", "receive")

    def __init__(self, head: RequestHead, receive: Receive) -> None:
        self.head = head
        self.receive = receive
        self.endpoint: Endpoint | None = None
        self.project: str | None = None


class Pipeline:
    """Answers requests to endpoints. ``services`` may be missing where no endpoint asks for a credential."""

    def __init__(self, limits: Limits, services: Services | None = None) -> None:
        self._limits = limits
        self._services = services
        self._budget = Budget(limits.bytes_in_flight, limits.bytes_in_flight_of_key)
        self._anyones_budget = Budget(limits.bytes_in_flight_of_anyone, limits.bytes_in_flight_of_key, self._budget)

    @property
    def body_bytes_held(self) -> int:
        """Bytes of request bodies in memory now."""
        return self._budget.held

    async def answer(self, exchange: Exchange, endpoint: Endpoint, path: Mapping[str, str]) -> Answer:
        """The answer, good or bad; of one that is streamed, the first piece is there.

        Raises ``ClientGone``: the client left before its body was complete. Nothing else but cancellation.
        """
        exchange.endpoint = endpoint
        limits = self._limits
        body = Body(exchange.head.headers, exchange.receive, self._budget, limits)
        late: Exception = Unavailable("The service did not answer in time.")
        refusal: Reply | None = None
        try:
            # Every ask has this deadline, too. The scope is for what else a handler may wait for.
            with trio.CancelScope(deadline=trio.current_time() + limits.request_seconds) as scope:
                call = await self._admit(exchange, endpoint, path, scope.deadline)
                data = b""
                if endpoint.body is None:
                    body.expect_none()
                else:
                    body.check_head()
                    # A second scope around the body would be a tenth of the whole request: this one moves instead.
                    # The time in which the client sends is not the handler's.
                    began = trio.current_time()
                    scope.deadline, late = began + limits.body_seconds, BodyTimeout("The body did not arrive in time.")
                    if call.principal is None:
                        body.budget, body.owner = self._anyones_budget, network_of(call.head.address)
                    else:
                        body.owner = call.principal.key_id
                    data = await body.read()
                    took = trio.current_time() - began
                    call.deadline += took
                    scope.deadline, late = call.deadline, Unavailable("The service did not answer in time.")
                    if call.principal is not None and took > BELIEVED_SECONDS:
                        await self._admit(exchange, endpoint, path, scope.deadline)
                answer = await endpoint.handler(call, data)
                if isinstance(answer, StreamedReply):
                    pieces = self._let_out(answer.pieces, exchange, endpoint, call)
                    answer = replace(answer, pieces=pieces, first=await anext(pieces, b""))
                return answer
        except ClientGone:
            raise
        except Overloaded as error:
            # Made now: the error's traceback holds on to all that was made of what was sent.
            refusal, data = reply_to(error, exchange.head.request_id), b""
        except Exception as error:
            return reply_to(error, exchange.head.request_id)
        finally:
            body.release()
        if refusal is not None:
            await trio.sleep(OVERLOAD_SECONDS)
            return refusal
        return reply_to(late, exchange.head.request_id)

    async def _let_out(
        self, pieces: AsyncGenerator[bytes, None], exchange: Exchange, endpoint: Endpoint, call: Call
    ) -> AsyncGenerator[bytes, None]:
        """The pieces, while whoever asked for them may have them. Raises what withdraws that.

        A piece was made before it is known whether it may still be had, so what it shows is no more than that.
        """
        believed = trio.current_time()
        async with aclosing(pieces):
            async for piece in pieces:
                if (now := trio.current_time()) - believed > BELIEVED_SECONDS:
                    again = await self._admit(exchange, endpoint, call.path, now + self._limits.request_seconds)
                    if again.viewer != call.viewer:
                        raise Forbidden("What this viewer token shows has changed.")
                    believed = now
                yield piece

    async def _admit(self, exchange: Exchange, endpoint: Endpoint, path: Mapping[str, str], deadline: float) -> Call:
        """What the head alone decides. Raises the errors of ``auth`` and ``InvalidRequest`` on the query."""
        head, services = exchange.head, self._services
        caller = project = None
        if not endpoint.is_public:
            if services is None:
                raise TypeError("an endpoint that asks for a credential needs services")
            caller = await auth.authenticate(services, endpoint, head, deadline - trio.current_time())
        parameters = None if head.query_string else endpoint.without_query
        if parameters is None:
            parameters = check(endpoint.query, head.query())
        if caller is not None and services is not None and endpoint.about is not About.NO_PROJECT:
            named = parameters.project_id if isinstance(parameters, ProjectQuery) else None
            project = await auth.project_of(
                services, endpoint.about, caller, head, named, deadline - trio.current_time()
            )
            exchange.project = None if project is None else str(project.id)
        if isinstance(caller, Viewer):
            return Call(head, path, None, project, parameters, deadline, caller)
        return Call(head, path, caller, project, parameters, deadline)
