"""Ports are drawn once, below the ephemeral range, and kept."""

import socket
from pathlib import Path

import pytest

from deploy.local.ports import FIRST_PORT, LAST_PORT, is_free, keep_ports


@pytest.mark.rule(36)
def test_ports_are_drawn_once_from_the_range_and_kept(tmp_path: Path) -> None:
    first = keep_ports(tmp_path, ["kafka", "postgres"])
    assert len(set(first.values())) == 2
    assert all(FIRST_PORT <= port <= LAST_PORT for port in first.values())
    assert keep_ports(tmp_path, ["kafka", "postgres", "door"]) == first | {
        "door": keep_ports(tmp_path, ["door"])["door"]
    }


@pytest.mark.rule(36)
def test_port_that_somebody_else_took_is_drawn_again_and_the_others_stay(tmp_path: Path) -> None:
    first = keep_ports(tmp_path, ["kafka", "postgres"])
    with socket.create_server(("127.0.0.1", first["kafka"])):
        assert not is_free(first["kafka"])
        second = keep_ports(tmp_path, ["kafka", "postgres"])
    assert second["kafka"] != first["kafka"]
    assert second["postgres"] == first["postgres"]
    assert keep_ports(tmp_path, ["kafka"])["kafka"] == second["kafka"]
