"""What aiokafka 0.14 does that a service, which may not stand still, cannot live with; mended from outside.

- It reads no header whose name is no UTF-8, nor, then, any record of the batch that it came in. Here such a name is
  read with its bytes escaped (`x-\\xff`). It is none of ours, and what has an unknown header is handled as if it had
  none; where it was to be one of ours, that one is missing, and the record becomes a dead letter. Proved by
  test_a_header_without_a_readable_name_stops_nothing.
- uvloop raises `RuntimeError` for a write between a connection's reset and its being heard of
  (`UVHandle._ensure_alive`), where asyncio raises nothing. The client takes it for a fault of its own, and its
  fetching, which is one task, ends for good while the heartbeats go on: the member keeps its partitions and reads
  nothing. Proved by test_a_request_on_a_connection_that_was_just_reset_says_that_it_is_closed.
- Where a batch takes longer than a tenth of a second, it asks for more of those partitions only that it holds nothing
  of; what comes on the others waits until that long poll ends, half a second later. Its fetcher has a setting for that,
  its consumer does not. Proved by test_every_fetch_names_all_partitions_however_long_a_batch_takes.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, Final, final

from aiokafka import conn
from aiokafka.consumer import consumer, fetcher
from aiokafka.errors import KafkaConnectionError
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.record.util import decode_varint_py

PREFETCH_AFTER_S: Final = 3_600.0


def mend_client() -> None:
    """From now on, the clients that this process makes are mended."""
    conn.AIOKafkaConnection = Connection
    fetcher.MemoryRecords = _Records
    consumer.Fetcher = partial(fetcher.Fetcher, prefetch_backoff=PREFETCH_AFTER_S)


@final
class Connection(conn.AIOKafkaConnection):  # type: ignore[misc]
    """The client's connection, whose `send` says of every closed one that it is closed."""

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """Send a request; raises `KafkaConnectionError` where the connection is closed."""
        try:
            return super().send(request, expect_response)
        except RuntimeError as error:
            self.close(reason=conn.CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(str(error)) from error


class _Text(bytes):
    def decode(self, encoding: str = "utf-8", _: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")


class _Buffer(bytearray):
    """A batch of which every slice can be read. The client decodes none but the names of headers."""

    def __getitem__(self, at: Any) -> Any:
        part: Any = super().__getitem__(at)
        return _Text(part) if isinstance(at, slice) else part


class _Forgiving(_DefaultRecordBatchPy):  # type: ignore[misc]
    _buffer: Any

    def _read_msg(self, _: Any = None) -> Any:
        if not isinstance(self._buffer, _Buffer):
            self._buffer = _Buffer(self._buffer)
        return super()._read_msg(decode_varint_py)


class _Batch:
    """A batch as the client's own reader made it, which is fast, and once more by the forgiving one where it fails."""

    def __init__(self, batch: Any, raw: Any) -> None:
        self._batch, self._raw = batch, raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            return iter(_Forgiving(self._raw))


class _Records(_MemoryRecordsPy):  # type: ignore[misc]
    def next_batch(self, *_: Any) -> Any:
        raw = self._next_slice
        return _Batch(super().next_batch(), raw)
