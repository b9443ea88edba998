"""Questions to the services' admin listeners, and the errors that people read."""

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from services.console.instance import Address, Endpoints


class AdminError(Exception):
    """A service refused or did not answer; the text says what to do."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Admin:
    """The admin listeners of a running Saldo, for one tenant. Use as a context manager."""

    def __init__(self, endpoints: Endpoints, tenant: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self.endpoints, self.tenant = endpoints, tenant
        # Never through a proxy: these listeners are on this machine, and their token must not leave it.
        self._http = httpx.Client(timeout=30, transport=transport, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, service: str, path: str, **query: Any) -> Any:
        """GET `/admin/<path>` of a service; absent (None) query values are left out."""
        return self._ask("GET", service, path, query, None)

    def pages(
        self, service: str, path: str, name: str, *, after: int | str | None = None, limit: int = 1000, **query: Any
    ) -> Iterator[list[dict[str, Any]]]:
        """The rows `name` of a list that gives a cursor `next`, a page of `limit` at a time; no page is empty."""
        while True:
            told = self.get(service, path, after=after, limit=limit, **query)
            if told[name]:
                yield told[name]
            after = told["next"]
            if after is None:
                return

    def post(self, service: str, path: str, body: Any = None, **query: Any) -> Any:
        """POST `/admin/<path>` of a service."""
        return self._ask("POST", service, path, query, {} if body is None else body)

    def put(self, service: str, path: str, body: Any, **query: Any) -> Any:
        """PUT `/admin/<path>` of a service."""
        return self._ask("PUT", service, path, query, body)

    def content(self, service: str, path: str, **query: Any) -> bytes:
        """GET `/admin/<path>` of a service, which answers a file."""
        return self._answer("GET", service, path, query, None).content

    def _ask(self, method: str, service: str, path: str, query: Mapping[str, Any], body: Any) -> Any:
        answer = self._answer(method, service, path, query, body)
        return answer.json() if answer.content else None

    def _answer(self, method: str, service: str, path: str, query: Mapping[str, Any], body: Any) -> httpx.Response:
        address = self.endpoints.admin.get(service)
        if address is None:
            known = ", ".join(sorted(self.endpoints.admin))
            raise AdminError(f"the address of {service} is not known (known: {known}): see `saldo status`")
        given = {name: value for name, value in {"tenant": self.tenant, **query}.items() if value is not None}
        try:
            answer = self._http.request(
                method,
                f"{address.base_url}/admin/{path}",
                params=given,
                json=body,
                headers={"Authorization": f"Bearer {address.token}"},
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AdminError(
                f"{service} does not answer at {address.base_url} ({type(error).__name__}): see `saldo status`"
            ) from error
        if answer.is_success:
            return answer
        raise AdminError(f"{service}: {_reason(answer)}", answer.status_code)


def _reason(answer: httpx.Response) -> str:
    """What a service said about a request that it refused, in words."""
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return "the admin token is wrong: set SALDO_ADMIN_TOKEN, or ask the instance's own folder with --instance"
    try:
        told = answer.json()
    except ValueError:
        return f"answered {answer.status_code}"
    detail = told.get("detail", told.get("error", told)) if isinstance(told, dict) else told
    if isinstance(detail, list):
        parts = [f"{'.'.join(map(str, one.get('loc', [])))}: {one.get('msg', '')}" for one in detail]
        return "; ".join(parts)
    return str(detail)


def alerts_of(address: Address) -> list[str]:
    """Why a service is not ready, and what a person should look at in one that is."""
    _, told = is_ready(address)
    return [*told.get("reasons", ()), *told.get("alerts", ())] if isinstance(told, dict) else [f"no answer ({told})"]


def is_ready(address: Address) -> tuple[bool, Any]:
    """Whether a service says that it is ready, and what it says."""
    try:
        answer = httpx.get(f"{address.base_url}/readyz", timeout=5, trust_env=False)
        return answer.is_success, answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return False, type(error).__name__
