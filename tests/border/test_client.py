"""Where calls to the outside may go, and what answers may be."""

import pytest

from services.border.client import AddressRefused, open_client


@pytest.mark.asyncio
async def test_the_outside_is_reached_over_https_at_public_addresses_alone() -> None:
    client = open_client(public_only=True, timeout_s=2)
    for url in (
        "http://example.com/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
    ):
        with pytest.raises(AddressRefused):
            await client.get(url)
    await client.aclose()
