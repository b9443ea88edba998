"""Who is who: by what is known, in whatever order it was heard; never by doubt."""

from collections import defaultdict
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.crm import domain
from services.crm.domain import CustomerId, Record, Review, Standing, contact, doubtful, identify

MAX = 3


def keys(*names: str) -> st.SearchStrategy[frozenset[bytes]]:
    return st.frozensets(st.sampled_from([name.encode() for name in names]), max_size=2)


known = st.lists(
    st.builds(
        Record,
        customer_id=st.uuids().map(str),
        documents=keys("d1", "d2", "d3"),
        emails=keys("e1", "e2", "e3"),
        phones=keys("p1", "p2", "p3"),
    ),
    min_size=1,
    max_size=9,
    unique_by=lambda record: record.customer_id,
)


def record(name: str, *known: str, apart: str = "") -> Record:
    """A record of keys named d…, e… and p…."""
    kinds = {kind: frozenset(one.encode() for one in known if one[0] == kind) for kind in "dep"}
    return Record(name, kinds["d"], kinds["e"], kinds["p"], apart)


def groups(standing: Standing) -> set[frozenset[CustomerId]]:
    members = defaultdict(set)
    for member, customer in standing.items():
        members[customer].add(member)
    return {frozenset(one) for one in members.values()}


def found(*records: Record) -> set[frozenset[CustomerId]]:
    return groups(identify(records, [], MAX))


def doubts(*records: Record) -> set[Review]:
    return doubtful(records, identify(records, [], MAX), MAX)


def test_an_equal_document_is_the_same_customer() -> None:
    records = record("a", "d1", "e1"), record("b", "d1", "e2")
    assert identify(records, [], MAX) == {"a": "a", "b": "a"}
    assert doubts(*records) == set()


def test_email_and_phone_together_are_the_same_customer_where_a_document_is_missing() -> None:
    assert found(record("a", "d1", "e1", "p1"), record("b", "e1", "p1"), record("c", "e1", "p1")) == {frozenset("abc")}


def test_one_of_them_alone_is_a_doubt() -> None:
    assert doubts(record("a", "e1", "p1"), record("b", "e1", "p2")) == {Review("a", "b", "email")}
    assert doubts(record("a", "d1", "p1"), record("b", "d2", "p1")) == {Review("a", "b", "phone")}


def test_documents_that_differ_are_never_joined_by_the_rest() -> None:
    one, other = record("a", "d1", "e1", "p1"), record("b", "d2", "e1", "p1")
    assert found(one, other) == {frozenset("a"), frozenset("b")}
    assert doubts(one, other) == {Review("a", "b", "documents")}


def test_who_could_be_either_of_two_is_neither() -> None:
    records = record("a", "d1", "e1", "p1"), record("b", "e1", "p1"), record("c", "d2", "e1", "p1")
    assert found(*records) == {frozenset("a"), frozenset("b"), frozenset("c")}
    assert found(*records[:2]) == {frozenset("ab")}


def test_a_reference_with_two_documents_joins_nobody() -> None:
    records = record("a", "d1"), record("b", "d1", "d2"), record("c", "d2")
    assert len(found(*records)) == 3
    assert doubts(*records) == {Review("a", "b", "document"), Review("b", "c", "document")}


def test_a_phone_of_many_documents_is_nobody_s() -> None:
    many = [record(str(number), f"d{number}", "p1") for number in range(MAX + 1)]
    assert doubts(*many) == set()
    assert len(doubts(*many[:-1])) == MAX - 1


def test_what_is_everybody_s_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at all records: once for each of them would be too often."""
    shared = Mock(wraps=domain._shared)
    monkeypatch.setattr(domain, "_shared", shared)
    assert len(found(*(record(str(number), f"d{number}", "p1") for number in range(9)))) == 9
    assert shared.call_count == 1


@given(known, st.randoms(use_true_random=False))
def test_the_order_of_reports_does_not_matter(records: list[Record], random: object) -> None:
    shuffled = list(records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert found(*records) == found(*shuffled)


@given(known)
def test_a_customer_has_one_document_at_most_and_doubts_are_about_two(records: list[Record]) -> None:
    standing = identify(records, [], MAX)
    documents: dict[CustomerId, set[frozenset[bytes]]] = defaultdict(set)
    for one in records:
        documents[standing[one.customer_id]] |= {one.documents} if one.documents else set()
    assert all(len(sets) <= 1 for sets in documents.values())
    for review in doubtful(records, standing, MAX):
        assert standing[review.one] == review.one != review.other == standing[review.other]


@given(known)
def test_a_doubt_never_merges_by_itself(records: list[Record]) -> None:
    """Without an equal document, and without e-mail and phone both equal to another's, a record stays alone."""
    standing = identify(records, [], MAX)
    for one in records:
        reason = any(
            (one.documents & other.documents) or (one.emails & other.emails and one.phones & other.phones)
            for other in records
            if other is not one
        )
        if not reason:
            assert [m for m, customer in standing.items() if customer == standing[one.customer_id]] == [one.customer_id]


@given(known, st.data())
def test_a_merge_by_a_person_touches_nobody_else(records: list[Record], data: st.DataObject) -> None:
    names = st.sampled_from([one.customer_id for one in records])
    links = data.draw(st.lists(st.tuples(names, names), max_size=2))
    link = data.draw(st.tuples(names, names))
    before = identify(records, links, MAX)
    merged = identify(records, [*links, link], MAX)
    assert merged[link[0]] == merged[link[1]]
    assert {pair for pair in before.items() if before[pair[0]] not in (before[link[0]], before[link[1]])} <= set(
        merged.items()
    )


@given(known, st.data())
def test_what_a_person_parts_stays_whole_and_apart(records: list[Record], data: st.DataObject) -> None:
    """A customer of earlier days, joined by a later report, is parted as it was."""
    earlier = records[: data.draw(st.integers(1, len(records)))]
    theirs = data.draw(st.sampled_from(sorted(found(*earlier), key=sorted)))
    parted = [one._replace(apart="merge-1") if one.customer_id in theirs else one for one in records]
    assert theirs in found(*parted)


def test_without_a_word_nobody_is_contacted() -> None:
    assert not contact(granted=None, allowed=True).allowed
    assert not contact(granted=False, allowed=True).allowed
    assert not contact(granted=True, allowed=False).allowed
    assert contact(granted=True, allowed=True).allowed
