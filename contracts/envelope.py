"""The envelope of every message: CloudEvents 1.0 attributes in Kafka headers, and the one base model of the bodies.

Binary content mode (CloudEvents Kafka protocol binding 1.0.2, section 3.2): every attribute is a header `ce_<name>`,
the body is the data as JSON. Extensions used: `correlationid` and `causationid` (CloudEvents correlation extension),
`tenant`, and W3C `traceparent` as a plain header.
"""

import re
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, Self, final

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

TENANT_PATTERN = re.compile(r"[a-z0-9-]{1,32}")
"""A tenant is part of every key, so it may hold nothing that a key or a path gives a meaning to."""

Tenant = Annotated[str, Field(pattern=f"^{TENANT_PATTERN.pattern}$")]
"""A tenant as a field or as a parameter of a route."""

TENANT_LENGTH_MAX = 32
TIME_LENGTH_MAX = 40

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"

HEADERS = (
    "ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "ce_subject", "ce_tenant", "ce_correlationid",
    "ce_causationid", "traceparent", "content-type",
)  # fmt: skip
"""Names of the headers, in the order of `Envelope.values`. Only ever appended to: stored records are in this order."""


class Message(BaseModel):
    """The body of a message: immutable, and closed for writing (`extra="forbid"`).

    Readers stay tolerant: they validate with `extra="ignore"`, which reaches nested models too, so that a field
    added within a major version never stops a consumer that was built before it.
    """

    # Most texts of a message are ids and moments, seen once: looking for each in Pydantic's cache costs an eighth of
    # reading it.
    model_config = ConfigDict(frozen=True, extra="forbid", cache_strings="keys")

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The message of these values, checked as by `model_validate`, which costs a fifth more."""
        message: Self = cls.__pydantic_validator__.validate_python(values)
        return message


class OpenEnum(StrEnum):
    """An enumeration that stays open on the wire: a value this build does not know reads as `UNKNOWN`.

    Every subclass has a member `UNKNOWN = "unknown"`. The JSON Schema is a plain string with the known values as
    `x-known-values`, so that a new value is a compatible change.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls("unknown") if isinstance(value, str) else None

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        del schema, handler
        return {"type": "string", "x-known-values": [member.value for member in cls if member.value != "unknown"]}


UtcDatetime = Annotated[datetime, Field(description="A moment in UTC, RFC 3339.")]
Quantity = Annotated[int, Field(ge=0, description="Whole units of the SKU.")]
PositiveQuantity = Annotated[int, Field(gt=0, description="Whole units of the SKU.")]
Sku = Annotated[str, Field(min_length=1, max_length=128)]
Code = Annotated[str, Field(min_length=1, max_length=64)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 code.")]
MinorUnits = Annotated[int, Field(description="Money as an integer of the currency's minor units.")]
MinorSum = Annotated[int, Field(ge=0, description="Money in all, never a change, in the currency's minor units.")]
Revision = Annotated[int, Field(ge=1)]
"""Grows with every command about one aggregate. The highest alone says all; a lower or equal one changes nothing."""


def rfc3339(time: datetime) -> str:
    """The text of a moment in UTC."""
    return time.isoformat().replace("+00:00", "Z")


def _utc(time: str) -> datetime:
    if len(time) > TIME_LENGTH_MAX:
        raise ValueError("longer than any moment")
    return _read_utc(time)


@lru_cache(maxsize=64)
def _read_utc(time: str) -> datetime:
    moment = datetime.fromisoformat(time)
    return moment.astimezone(UTC) if moment.tzinfo else moment


def is_tenant(name: str) -> bool:
    """Whether a tenant can have this name."""
    return len(name) <= TENANT_LENGTH_MAX and _matches(name)  # What strangers write is not kept whatever its length.


@lru_cache(maxsize=1024)
def _matches(name: str) -> bool:
    return TENANT_PATTERN.fullmatch(name) is not None


class EnvelopeInvalid(ValueError):
    """A record's headers do not make an envelope; the text names the attribute and what is wrong with it."""


@final
class Envelope(NamedTuple):
    """The attributes that travel beside the body.

    `time` is when the fact happened, in UTC. `correlation_id` is the sale or order the flow belongs to,
    `causation_id` the message that led to this one. `traceparent` is the context of the span that created it.
    """

    id: str
    type: str
    source: str
    time: datetime
    subject: str
    tenant: str
    correlation_id: str
    causation_id: str = ""
    traceparent: str = ""

    def to_headers(self) -> list[tuple[str, bytes]]:
        """The Kafka headers of this envelope."""
        return [(name, value.encode()) for name, value in self.attributes().items()]

    def attributes(self) -> dict[str, str]:
        """The headers as text, absent values left out."""
        return {name: value for name, value in zip(HEADERS, self.values(), strict=True) if value}

    def values(self) -> tuple[str, ...]:
        """The text of every header in the order of `HEADERS`; of an absent one it is empty."""
        return (
            SPEC_VERSION, self.id, self.type, self.source, rfc3339(self.time), self.subject, self.tenant,
            self.correlation_id, self.causation_id, self.traceparent, CONTENT_TYPE,
        )  # fmt: skip

    @classmethod
    def from_headers(cls, headers: dict[str, str]) -> "Envelope":
        """Read an envelope back from decoded headers.

        Raises `EnvelopeInvalid` where a required attribute is missing, the time is no UTC-convertible RFC 3339
        moment, or the tenant is not `[a-z0-9-]{1,32}`.
        """
        try:
            time, tenant = _utc(headers["ce_time"]), headers["ce_tenant"]
            # By position: named arguments cost a third of reading an envelope.
            envelope = cls(
                headers["ce_id"], headers["ce_type"], headers["ce_source"], time, headers.get("ce_subject", ""), tenant,
                headers.get("ce_correlationid", ""), headers.get("ce_causationid", ""), headers.get("traceparent", ""),
            )  # fmt: skip
        except KeyError as missing:
            raise EnvelopeInvalid(f"header {missing.args[0]} is missing: send CloudEvents 1.0 binary mode") from None
        except (ValueError, OverflowError):
            raise EnvelopeInvalid("header ce_time is not an RFC 3339 moment") from None
        if not time.tzinfo:
            raise EnvelopeInvalid("header ce_time has no offset: send UTC, ending in Z")
        if not envelope.id or not envelope.source:
            raise EnvelopeInvalid("headers ce_id and ce_source must not be empty")
        if not is_tenant(tenant):
            raise EnvelopeInvalid("header ce_tenant must match [a-z0-9-]{1,32}")
        return envelope
