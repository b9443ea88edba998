"""A TCP proxy that misbehaves when told to: slow, cut, deaf, dead, and cut in the midst of a COMMIT."""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from typing import Any, Final, Literal

CHUNK: Final = 65_536
LAST_LOOK_S: Final = 0.1
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass(eq=False, slots=True)
class _Way:
    """One connection through the proxy. What comes `up` or `down` is swallowed once it is dead in that direction."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    dead_up: bool = False
    dead_down: bool = False

    def reset(self) -> None:
        """End both sides with a reset, as a firewall or a crashed machine does."""
        for writer in (self.client, self.server):
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


@dataclass(eq=False)
class Proxy:
    """Passes on what comes to port `come` of 127.0.0.1 to port `onward`; `start` and `stop` it in one event loop.

    `delay_s` holds back every chunk; `refusing` resets whoever comes.
    """

    come: int
    onward: int
    delay_s: float = 0.0
    refusing: bool = False
    commit: Literal["", "before", "after"] = ""
    commits_cut: int = 0
    _ways: set[_Way] = field(default_factory=set)
    _flowing: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _server: Any = None

    async def start(self) -> None:
        """Listen. Raises `OSError` where the port is taken."""
        self._flowing.set()
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.come, limit=CHUNK)

    async def stop(self) -> None:
        """Listen no more, and end every connection."""
        if self._server:
            self._server.close()
        self._flowing.set()
        # Not cancelled: to asyncio's streams that is an error of whoever accepts connections.
        while self._tasks:
            self.cut()
            await asyncio.wait(self._tasks, timeout=LAST_LOOK_S)
        await asyncio.sleep(0)  # The loop closes what was ended here in its next turn.

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._ways)

    def cut(self) -> None:
        """Reset every connection; new ones are welcome."""
        for way in set(self._ways):
            way.reset()

    def stall(self) -> None:
        """Pass nothing on until `flow`: nothing is lost, and nobody is told."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass on again, what was held back first."""
        self._flowing.set()

    def kill(self, *, deaf: bool = False) -> None:
        """The connections of now are never answered again, nor closed by us; `deaf`: what clients say still arrives."""
        for way in self._ways:
            way.dead_down = True
            way.dead_up = way.dead_up or not deaf

    async def _pass(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.refusing:
                _Way(client, client).reset()
                return
            try:
                answers, server = await asyncio.open_connection("127.0.0.1", self.onward, limit=CHUNK)
            except OSError:
                _Way(client, client).reset()
                return
            way = _Way(client, server)
            self._ways.add(way)
            pumps = [asyncio.create_task(self._up(way, reader)), asyncio.create_task(self._down(way, answers))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                self._ways.discard(way)
                client.close()
                server.close()
        finally:
            self._tasks.discard(task)

    async def _up(self, way: _Way, reader: asyncio.StreamReader) -> None:
        while chunk := await _read(reader):
            await self._hold_back()
            if way.dead_up:
                continue
            if self.commit and b"COMMIT" in chunk:
                await self._cut_commit(way, chunk)
                return
            if not await _write(way.server, chunk):
                return

    async def _down(self, way: _Way, reader: asyncio.StreamReader) -> None:
        while chunk := await _read(reader):
            await self._hold_back()
            if not way.dead_down and not await _write(way.client, chunk):
                return

    async def _hold_back(self) -> None:
        if not self._flowing.is_set():
            await self._flowing.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)

    async def _cut_commit(self, way: _Way, chunk: bytes) -> None:
        """Reset a connection at its COMMIT: it did not arrive, or it did and nobody was told."""
        if self.commit == "after":
            await _write(way.server, chunk)
        self.commit = ""
        self.commits_cut += 1
        way.dead_down = True
        if not way.server.transport.is_closing():
            # A COMMIT that was sent has to arrive: what is reset is the client's side, and the server's end is orderly.
            with contextlib.suppress(OSError):
                way.client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            way.client.transport.abort()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(CHUNK)
    except OSError:
        return b""


async def _write(writer: asyncio.StreamWriter, chunk: bytes) -> bool:
    try:
        writer.write(chunk)
        await writer.drain()
    except OSError:
        return False
    return True
