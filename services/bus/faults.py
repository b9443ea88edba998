"""Named fault points: places where a test lets the process die, to show that nothing is lost or doubled there."""

import contextlib
import os
from pathlib import Path
from typing import final


@final
class Faults:
    """`Faults("relay.send.after:after=10")`: the process ends the tenth time that point is reached.

    Each step of the bus has a point before and one after it; services add theirs. Several are separated by commas.
    A file of a point's name in the folder `armed` ends the process there once: it is gone before the process is. A
    point that many pass is also found under its name and whose turn it is: `handler.after@orders.orders.v1`.
    Nothing happens unless switched on, and production refuses to start so.
    """

    def __init__(self, specification: str, environment: str, armed: Path | None = None) -> None:
        if (specification or armed) and environment == "production":
            raise ValueError("SALDO_FAULTS or SALDO_FAULTS_FOLDER is set in production: remove it")
        self._armed = armed
        self._left: dict[str, int] = {}
        for part in filter(None, specification.split(",")):
            name, _, count = part.strip().partition(":after=")
            if not name or (count and not (count.isdecimal() and int(count) > 0)):
                raise ValueError(f"SALDO_FAULTS: {part!r} is not of the form point or point:after=N")
            self._left[name] = int(count or 1)

    def point(self, name: str, turn: str = "") -> None:
        """Reach the point `name`, at somebody's `turn`; dies there, without any clean-up, if it is switched on."""
        if self._armed:
            for armed in (name, f"{name}@{turn}"):
                if (at := self._armed / armed).exists():
                    # Whoever armed it may have thought better of it meanwhile.
                    with contextlib.suppress(FileNotFoundError):
                        at.unlink()
                        self._left[name] = 1
        if name in self._left:
            self._left[name] -= 1
            if self._left[name] == 0:
                os._exit(137)
