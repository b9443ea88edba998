"""Who is who: a customer for each reference of a channel, one for several that are found to be the same. Pure.

Which references are one customer follows from everything that is known of them, never from the order in which it was
heard. So what was joined by what is known now is parted by what is known later, and a merge undone leaves no trace.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Final, NamedTuple, TypeAlias

CustomerId: TypeAlias = str
Key: TypeAlias = bytes
"""A keyed fingerprint of a document, an e-mail or a phone."""


class Record(NamedTuple):
    """All that is known of one reference of a channel; `customer_id` is its own, whoever stands for it.

    Records with different `apart` are never joined by their keys: a person has parted them.
    """

    customer_id: CustomerId
    documents: frozenset[Key] = frozenset()
    emails: frozenset[Key] = frozenset()
    phones: frozenset[Key] = frozenset()
    apart: str = ""


class Review(NamedTuple):
    """Two customers that may be one, for a person to decide. `one` is the elder."""

    one: CustomerId
    other: CustomerId
    reason: str


class Contact(NamedTuple):
    """Whether a buyer may be written to outside the channel, and what that rests on."""

    allowed: bool
    why: str


Standing: TypeAlias = dict[CustomerId, CustomerId]
"""Each record's customer: the eldest of those that are one."""

REASONS: Final = {
    "document": "one reference was seen with several documents, of which the other has one",
    "documents": "e-mail and phone are equal, but the documents differ or are not clear",
    "email": "only the e-mail is equal",
    "phone": "only the phone is equal",
}


class _Groups:
    """Disjoint sets (Tarjan 1975), each named by its eldest member."""

    def __init__(self, standing: Mapping[CustomerId, CustomerId], age: Mapping[CustomerId, int]) -> None:
        self._above, self._age = dict(standing), age

    def eldest(self, member: CustomerId) -> CustomerId:
        while (above := self._above[member]) != member:
            self._above[member] = member = self._above[above]
        return member

    def join(self, one: CustomerId, other: CustomerId) -> None:
        elder, younger = sorted((self.eldest(one), self.eldest(other)), key=self._age.__getitem__)
        self._above[younger] = elder

    def standing(self) -> Standing:
        return {member: self.eldest(member) for member in self._above}


def identify(records: Sequence[Record], links: Iterable[tuple[CustomerId, CustomerId]], documents_max: int) -> Standing:
    """Which of `records`, eldest first, are one customer.

    An equal document says so. Equal e-mail and phone say so where one of the two has no document, unless that would
    lead to several documents. `links` are pairs that a person has joined. An e-mail or phone that is seen with more
    than `documents_max` documents is nobody's in particular.
    """
    shared = _shared(records, documents_max)
    usable = [_without_shared(record, shared) for record in records]
    age = {record.customer_id: position for position, record in enumerate(usable)}
    groups = _Groups({customer_id: customer_id for customer_id in age}, age)
    holder: dict[object, CustomerId] = {}
    pairs: dict[object, list[Record]] = defaultdict(list)
    for record in usable:
        if len(record.documents) == 1:
            place = (record.apart, record.documents)
            groups.join(holder.setdefault(place, record.customer_id), record.customer_id)
        if len(record.documents) <= 1:
            for pair in product(record.emails, record.phones):
                pairs[record.apart, pair].append(record)
    agreeing = [[one for one in sharing if not one.documents] for sharing in pairs.values()]
    for silent in agreeing:
        for record in silent:
            groups.join(silent[0].customer_id, record.customer_id)
    _join_unless_contradicted(groups, age, usable, [one for one in pairs.values() if not all(r.documents for r in one)])
    for one, other in links:
        groups.join(one, other)
    return groups.standing()


def _join_unless_contradicted(
    groups: _Groups, age: Mapping[CustomerId, int], records: Sequence[Record], sharing: Sequence[Sequence[Record]]
) -> None:
    """Join those that share e-mail and phone, but for where it would make one customer of several documents."""
    tried = _Groups(groups.standing(), age)
    for among in sharing:
        for record in among:
            tried.join(among[0].customer_id, record.customer_id)
    documents: dict[CustomerId, set[Key]] = defaultdict(set)
    for record in records:
        documents[tried.eldest(record.customer_id)] |= record.documents
    for among in sharing:
        if len(documents[tried.eldest(among[0].customer_id)]) <= 1:
            for record in among:
                groups.join(among[0].customer_id, record.customer_id)


def doubtful(records: Sequence[Record], standing: Standing, documents_max: int) -> set[Review]:
    """The pairs of customers that share a key and yet are two: the eldest that has the key with each other one."""
    shared = _shared(records, documents_max)
    having: dict[tuple[str, Key], dict[CustomerId, None]] = defaultdict(dict)
    for record in (_without_shared(record, shared) for record in records):
        for kind, keys in (("document", record.documents), ("email", record.emails), ("phone", record.phones)):
            for key in keys:
                having[kind, key].setdefault(standing[record.customer_id])
    age = {record.customer_id: position for position, record in enumerate(records)}
    kinds: dict[tuple[CustomerId, CustomerId], set[str]] = defaultdict(set)
    for (kind, _), customers in having.items():
        eldest, *others = sorted(customers, key=age.__getitem__)
        for other in others:
            kinds[eldest, other].add(kind)
    return {Review(*pair, _reason(found)) for pair, found in kinds.items()}


def _reason(kinds: set[str]) -> str:
    if "document" in kinds:
        return "document"
    return "documents" if len(kinds) > 1 else min(kinds)


def _shared(records: Sequence[Record], documents_max: int) -> frozenset[Key]:
    """E-mails and phones that too many documents are seen with, as those of a shop that orders for its customers."""
    seen: dict[Key, set[Key]] = defaultdict(set)
    for record in records:
        for key in record.emails | record.phones:
            seen[key] |= record.documents
    return frozenset(key for key, documents in seen.items() if len(documents) > documents_max)


def _without_shared(record: Record, shared: frozenset[Key]) -> Record:
    return record._replace(emails=record.emails - shared, phones=record.phones - shared)


class Identified(NamedTuple):
    """A customer is new, or has other references than before."""

    customer_id: CustomerId


class Merged(NamedTuple):
    """`gone` became part of `kept`, with `members` that were its own."""

    customer_id: CustomerId
    gone: CustomerId
    members: frozenset[CustomerId]


class Unmerged(NamedTuple):
    """`restored` is no part of `customer_id` any more."""

    customer_id: CustomerId
    restored: CustomerId


Change: TypeAlias = Identified | Merged | Unmerged


def members(standing: Standing) -> dict[CustomerId, frozenset[CustomerId]]:
    """Each customer with the references that it stands for, by their own customers."""
    found: dict[CustomerId, set[CustomerId]] = defaultdict(set)
    for member, customer in standing.items():
        found[customer].add(member)
    return {customer: frozenset(parts) for customer, parts in found.items()}


def changes(before: Standing, after: Standing) -> list[Change]:
    """What is to be told when `before` became `after`, which has new records too: partings first."""
    had, has = members(before), members(after)
    parted = [Unmerged(was, one) for one, was in before.items() if was != one == after[one]]
    merged = [Merged(after[one], one, had[one]) for one, was in before.items() if was == one != after[one]]
    told = {change.customer_id for change in parted} | {change.customer_id for change in merged}
    told |= {change.restored for change in parted}
    other = [Identified(one) for one in has if one not in told and has[one] != had.get(one)]
    return [*parted, *merged, *other]


def contact(*, granted: bool | None, allowed: bool) -> Contact:
    """Whether the buyer of a channel may be written to outside it: with consent, and where the channel lets us.

    `granted` is what the customer said for the purpose, None if nothing. Without a word the answer is no.
    """
    if not allowed:
        return Contact(False, "the channel does not let us write to its buyer")
    if granted is None:
        return Contact(False, "the customer has not been asked")
    return Contact(granted, "the customer agreed" if granted else "the customer refused")
