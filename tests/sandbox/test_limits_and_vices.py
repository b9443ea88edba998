"""Buckets, windows and the repeatable habits."""

from services.sandbox.limits import Bucket, Windows
from services.sandbox.vices import Temper, Vice, Vices


def test_a_bucket_takes_its_size_then_only_what_leaks() -> None:
    bucket = Bucket(size=40, rate_per_s=2)
    assert [bucket.take(1, 0.0) for _ in range(40)] == [0.0] * 40
    assert bucket.take(1, 0.0) == 0.5
    assert bucket.take(1, 0.5) == 0.0
    assert bucket.available(0.5) == 0


def test_what_was_asked_and_not_used_comes_back() -> None:
    bucket = Bucket(size=100, rate_per_s=1)
    bucket.take(80, 0.0)
    bucket.give_back(70)
    assert bucket.available(0.0) == 90


def test_windows_are_of_one_second_and_apart_for_each_key() -> None:
    windows = Windows()
    assert [windows.take("GET orders", 1, at_s) for at_s in (10.0, 10.9, 11.0)] == [True, False, True]
    assert windows.take("PUT products", 1, 10.9)


def test_a_vice_repeats_itself_for_its_seed_and_ends_after_its_duration() -> None:
    vices = Vices(seed=3, slow=Vice(probability=0.5, min_ms=1, max_ms=9, duration_s=1))
    first, second = Temper(vices, 0), Temper(vices, 0)
    drawn = [first.strikes("slow", 5) for _ in range(50)]
    assert drawn == [second.strikes("slow", 5) for _ in range(50)]
    assert {None} < set(drawn)
    assert all(struck is None or 1 <= struck <= 9 for struck in drawn)
    assert [first.strikes("slow", 1001) for _ in range(20)] == [None] * 20
    assert first.strikes("webhook_late", 5) is None
