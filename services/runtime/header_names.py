"""Kafka names headers by strings of bytes, and aiokafka reads no name that is no UTF-8: nor, then, any record of the
batch that it came in, so that its stream stands still for good.

Here such a name is read with its bytes escaped (`x-\\xff`). It is none of ours, and what has an unknown header is
handled as if it had none; where it was to be one of ours, that one is missing, and the record becomes a dead letter.
Proved by test_a_header_without_a_readable_name_stops_nothing with a broker; internals of aiokafka 0.14 are meant.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.record.util import decode_varint_py


def read_any_header_name() -> None:
    """From now on, clients of this process read batches with such names, too."""
    fetcher.MemoryRecords = _Records


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
