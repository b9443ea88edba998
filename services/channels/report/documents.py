"""Files of invoices, read from where erp keeps them."""

from typing import Final

import httpx

from services.border.client import open_client
from services.channels.connectors.connector import Rejected, Unreachable
from services.channels.settings import ChannelsSettings

_TIMEOUT_S: Final = 5.0
_AGAIN_S: Final = 5.0
_MAX_BYTES: Final = 1_000_000


class Documents:
    """Reads from erp's admin listener alone (`documents_url`), so that its token goes nowhere else."""

    def __init__(self, settings: ChannelsSettings) -> None:
        self._base = settings.documents_url.rstrip("/")
        self._token = settings.documents_token.get_secret_value()

    async def read(self, url: str) -> bytes:
        """The file at `InvoiceTold.content_url`. Raises `Rejected`, `Unreachable`."""
        if not self._base or not url.startswith(f"{self._base}/"):
            raise Rejected("the invoice's file is not where SALDO_DOCUMENTS_URL says that erp is")
        client = open_client(public_only=False, timeout_s=_TIMEOUT_S)
        try:
            answer = await client.get(url, headers={"authorization": f"Bearer {self._token}"})
        except httpx.HTTPError:
            raise Unreachable(_AGAIN_S) from None
        finally:
            await client.aclose()
        if answer.status_code >= 500:
            raise Unreachable(_AGAIN_S)
        if not answer.is_success or not 0 < len(answer.content) <= _MAX_BYTES:
            raise Rejected(f"erp answered {answer.status_code} when asked for the invoice's file")
        return answer.content
