"""What every control interface of a sandbox has: the door with its token, answers in JSON, and the books."""

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox.books import Books

_ROWS_MAX = 50_000

Handler = Callable[[Request], Awaitable[Response]]


class Refused(Exception):
    """An answer other than success, from wherever it is found out."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def json_answer(body: Any, status: int = 200) -> Response:
    """The body as JSON."""
    return Response(json.dumps(body, ensure_ascii=False), status, media_type="application/json")


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body, {} in an empty one. Raises `Refused`."""
    try:
        given = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        raise Refused(400, {"error": "the body is not JSON"}) from None
    if not isinstance(given, dict):
        raise Refused(422, {"error": "the body must be a JSON object"})
    return given


def control_routes(table: list[tuple[str, str, Handler]], token: str, books: Books) -> list[Route]:
    """Routes under `/_control` from rows (method, path, handler), all but `/health` behind the token, and the books."""
    wanted = token.encode()
    shown = BooksShown(books)
    every = [*table, ("GET", "/books", shown.rows), ("GET", "/books/summary", shown.summary)]
    return [
        Route(f"/_control{path}", handler if path == "/health" else _guarded(handler, wanted, books), methods=[method])
        for method, path, handler in every
    ]


def _guarded(handler: Handler, wanted: bytes, books: Books) -> Handler:
    async def answer(request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode(), wanted):
            return json_answer(
                {"error": "the control interface wants Authorization: Bearer <SALDO_SANDBOX_TOKEN>"}, 401
            )
        try:
            response = await handler(request)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
            response = json_answer({"error": "; ".join(problems)}, 422)
        except Refused as refused:
            response = json_answer(refused.body, refused.status)
        await books.settled()
        return response

    return answer


class BooksShown:
    """The rows of the books and their summary, as the control interface gives them."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def rows(self, request: Request) -> Response:
        """`GET /_control/books?since=&limit=`."""
        try:
            since = int(request.query_params.get("since", "0"))
            limit = min(int(request.query_params.get("limit", "10000")), _ROWS_MAX)
        except ValueError:
            raise Refused(400, {"error": "since and limit must be whole numbers"}) from None
        await self._books.settled()
        lines = await self._books.page(since, limit)
        return Response(b"".join(lines), media_type="application/x-ndjson")

    async def summary(self, _request: Request) -> Response:
        """`GET /_control/books/summary`."""
        await self._books.settled()
        return json_answer(await self._books.summary())
