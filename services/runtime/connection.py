"""What the Kafka client does not know of uvloop: a write to a connection that was just reset is no `OSError` there."""

from typing import Any, final

from aiokafka import conn
from aiokafka.errors import KafkaConnectionError


@final
class Connection(conn.AIOKafkaConnection):  # type: ignore[misc]
    """The client's connection, whose `send` says of every closed one that it is closed.

    uvloop raises `RuntimeError` for a write between a reset and its being heard of (`UVHandle._ensure_alive`); asyncio
    raises nothing. aiokafka 0.14 takes it for a fault of its own, and its fetching, which is one task, ends for good
    while the heartbeats go on: the member keeps its partitions and reads nothing.
    """

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """Send a request; raises `KafkaConnectionError` where the connection is closed."""
        try:
            return super().send(request, expect_response)
        except RuntimeError as error:
            self.close(reason=conn.CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(str(error)) from error


def install() -> None:
    """Let every client of this process connect so: the client makes its connections by this name."""
    conn.AIOKafkaConnection = Connection
