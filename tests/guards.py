"""Guards taken away one at a time: a check of the suite passes with its guard and fails without.

A guard is altered in the running test alone: a function or statement with a piece of its text replaced, or a constraint
dropped from the test's own database. A guard that no check misses is dead or untested.
"""

import contextlib
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

both = pytest.mark.parametrize("missing", [False, True], ids=["with", "without"])
"""The check with its guard, and without."""


@contextlib.contextmanager
def noticed(missing: bool) -> Iterator[None]:
    """What runs inside has to fail if the guard is missing, and to pass if it is not."""
    if missing:
        # What the check says, or a key or CHECK of the database that stands behind the guard.
        with pytest.raises((AssertionError, pytest.fail.Exception, asyncpg.IntegrityConstraintViolationError)):
            yield
    else:
        yield


def without(patch: pytest.MonkeyPatch, owner: Any, name: str, guard: str, instead: str = "") -> None:
    """Replace `guard`, which the function or statement `name` of a module or class holds exactly once."""
    whole = getattr(owner, name)
    source = whole if isinstance(whole, str) else textwrap.dedent(inspect.getsource(whole))
    assert source.count(guard) == 1, f"{name} does not hold {guard!r} once"
    altered: Any = source.replace(guard, instead)
    if not isinstance(whole, str):
        made: dict[str, Any] = {}
        exec(compile(altered, inspect.getfile(whole), "exec"), whole.__globals__, made)
        altered = made[whole.__name__]
    patch.setattr(owner, name, altered)
