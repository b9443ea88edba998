"""What a person asks and does by the admin listener, under /admin/deadletters."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from services.bus.work import Work
from services.deadletters import lists
from services.deadletters.letters import DeadLetters, NotOpen
from services.deadletters.lists import LetterFilter, LetterPage

Text = Annotated[str, Field(min_length=1, max_length=500)]
Told = Annotated[str, Query(min_length=1, max_length=500)]


class Replacement(BaseModel):
    """A new body for a letter's event, headers that it gets, and who stands for it."""

    model_config = ConfigDict(extra="forbid")

    body: str
    headers: dict[str, str] = {}
    author: Text
    reason: Text


def letters_router(work: Work, letters: DeadLetters) -> APIRouter:
    """The routes of one service's letters."""
    router = APIRouter(prefix="/deadletters")

    @router.get("")
    async def list_letters(page: Annotated[LetterPage, Query()]) -> list[dict[str, Any]]:
        return await lists.listed(work, page)

    @router.get("/groups")
    async def list_groups(chosen: Annotated[LetterFilter, Query()]) -> list[dict[str, Any]]:
        return await lists.grouped(work, chosen)

    @router.get("/{letter_id}")
    async def show(letter_id: str, payload: int = 0) -> dict[str, Any]:
        letter = await lists.shown(work, letter_id, payload=bool(payload))
        if letter is None:
            raise NotOpen(f"dead letter {letter_id} does not exist")
        return letter

    @router.post("/{letter_id}/replay")
    async def replay(letter_id: str, again: bool = False, dry_run: bool = False) -> dict[str, Any]:
        if dry_run:
            return {"id": letter_id, "state": "open", "waiting": await letters.tried(letter_id, again=again)}
        return {"id": letter_id, "state": "replayed", "drained": await letters.replay(letter_id, again=again)}

    @router.post("/{letter_id}/replace")
    async def replace(letter_id: str, new: Replacement) -> dict[str, Any]:
        event_id, drained = await letters.replace(
            letter_id, new.body, new.headers, author=new.author, reason=new.reason
        )
        return {"id": letter_id, "state": "replaced", "replaced_by": event_id, "drained": drained}

    @router.post("/{letter_id}/discard")
    async def discard(letter_id: str, reason: Told, author: Told) -> dict[str, Any]:
        drained = await letters.discard(letter_id, reason=reason, author=author)
        return {"id": letter_id, "state": "discarded", "drained": drained}

    return router
