"""Fields of foreign JSON."""

from datetime import UTC, datetime

from services.border.reading import version_of


def test_versions_sort_as_the_moments_do_from_the_first_year_on() -> None:
    moments = [datetime(year, 3, 1, tzinfo=UTC) for year in (1, 99, 999, 2026)]
    assert (versions := [version_of(moment) for moment in moments]) == sorted(versions)
    assert versions[-1] == "2026-03-01T00:00:00.000000Z"
