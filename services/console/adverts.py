"""Having the adverts of a connection read from its channel, and waiting for it."""

import time
from collections.abc import Callable
from typing import Any, Final

from services.console.client import Admin
from services.console.options import Failed

_LOOK_S: Final = 0.2


def import_adverts(
    client: Admin, connection_id: str, said: Callable[[dict[str, Any]], None] = lambda _: None
) -> dict[str, Any]:
    """Begin an import, or join the one that runs; `said` is told how far it is. Raises `Failed`, `AdminError`."""
    told = client.post("channels", f"connections/{connection_id}/listings")
    while told["state"] == "running":
        said(told)
        time.sleep(_LOOK_S)
        told = client.get("channels", f"connections/{connection_id}/import")
    if told["state"] == "failed":
        raise Failed(f"{told['listings']} adverts were read, then no more: {told['error']}; mend that and import again")
    return {name: told[name] for name in ("listings", "linked", "unlinked")}
