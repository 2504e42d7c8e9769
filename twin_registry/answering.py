"""The API's questions over the bus: one JSON request, one JSON answer, through the same application.

    gemel/v1/<site>/query/<user>/request     {"get": "/twins/north/press-1?at=1700000000000"}
    gemel/v1/<site>/query/<user>/response    {"status": 200, "body": {…}}, with the request's Correlation-Data

Who asks is what the topic says, and the broker lets each user write under its own name and its own sites only. So
the answer shows that site and no other, and goes to that user's response topic whatever Response-Topic is named.
Live updates need no question: the twins themselves are on the bus. In place of an answer larger than MAX_ANSWER_BYTES
there is a problem (413) that says to ask for less at a time.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
import structlog
from fastapi import FastAPI

from gemel.errors import BusRefused, BusUnavailable, Malformed
from gemel.ports import Bus, BusMessage
from gemel.wire import topics
from gemel.wire.messages import decode
from twin_registry.api import READER_IN_SCOPE, Problem
from twin_registry.tokens import Reader

AT_WORK = 8  # questions at a time
MAX_ANSWER_BYTES = 1_000_000  # brokers drop what is too large for them, and say nothing
_log = structlog.get_logger("gemel.registry")


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A path of the API with its query."""

    get: Annotated[str, msgspec.Meta(min_length=1, max_length=8192, pattern="^/")]


class Answer(msgspec.Struct, frozen=True):
    """The API's status and body (a problem where the status is an error)."""

    status: int
    body: msgspec.Raw


class Answerer:
    """Answers questions on the bus."""

    def __init__(self, app: FastAPI, bus: Bus) -> None:
        self._app, self._bus = app, bus

    async def subscribe(self) -> None:
        """Begin to listen."""
        await self._bus.subscribe(topics.ALL_QUERIES, self.hear, concurrency=AT_WORK)

    async def hear(self, message: BusMessage) -> None:
        """One question. Never raises for what it says; an answer that nobody takes is dropped."""
        _, _, site, _, user, _ = message.topic.split("/")
        if message.retained:
            return
        try:
            question = decode(Question, message.payload)
        except Malformed as error:
            answer = _problem(400, str(error))
        else:
            answer = await ask(self._app, question.get, Reader(f"{user} (bus)", frozenset({f"read:{site}/*"})))
        try:
            await self._bus.publish(
                topics.query_response(site, user),
                msgspec.json.encode(answer),
                correlation=message.correlation,
                content_type="application/json",
            )
        except (BusRefused, BusUnavailable) as error:
            _log.warning("answer dropped", user=user, error=str(error))


async def ask(app: FastAPI, path: str, reader: Reader) -> Answer:
    """A GET, asked of the application for `reader`, in this process (ASGI 3). Never raises."""
    path, _, query = path.partition("?")
    place = unquote(path)
    if place == "/live":
        return _problem(404, "subscribe to the twins themselves")
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": place, "raw_path": path.encode(), "query_string": query.encode(),
        "root_path": "", "headers": [], "client": None, "server": None, READER_IN_SCOPE: reader,
    }  # fmt: skip
    status, body = 500, b""
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: Any) -> None:
        nonlocal status, body
        if event["type"] == "http.response.start":
            status = event["status"]
        elif len(body) <= MAX_ANSWER_BYTES:
            body += event.get("body", b"")

    try:
        await app(scope, receive, send)
    except Exception as error:  # noqa: BLE001  it has answered 500; over HTTP its server goes on, and so do we
        _log.error("fault while answering", path=path, error=repr(error))
        _log.debug("traceback", exc_info=error)
    if len(body) > MAX_ANSWER_BYTES:
        return _problem(413, f"more than {MAX_ANSWER_BYTES} bytes: ask for less at a time (limit, from, to)")
    return Answer(status, msgspec.Raw(body or b"null"))


def _problem(status: int, detail: str) -> Answer:
    return Answer(status, msgspec.Raw(msgspec.json.encode(Problem.of(status, detail))))
