"""One sale as a tree, over the files of several services, through batches that others began."""

from pathlib import Path

import pytest
from opentelemetry.trace import SpanKind

from services.bus import Cause
from services.bus.settings import BusSettings
from services.bus.tracing import Tracing
from services.console.spans import Node, flatten, read_spans, tree
from services.runtime.spans import span_processor


def service(folder: Path, name: str) -> Tracing:
    settings = BusSettings(postgres_dsn="postgresql://unused", spans_path=folder / f"{name}.sqlite")
    return Tracing(name, settings.trace_ratio, span_processor(settings))


def names(node: Node) -> list[object]:
    return [node.span.name, *([names(child) for child in node.children])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sales; inventory decides both in one batch, whose first cause is the sale of `other`."""
    channels, inventory = service(tmp_path, "channels"), service(tmp_path, "inventory")
    with channels.span("webhook", correlation_id="mine") as mine:
        pass
    with channels.span("webhook", correlation_id="other") as other:
        pass
    with inventory.span("reserve", [mine], correlation_id="mine") as reserved:
        pass
    with inventory.span("level", [other, reserved], kind=SpanKind.PRODUCER) as level:
        pass
    with channels.span("push", [level], correlation_id="mine"):
        pass
    channels.close()
    inventory.close()
    return tmp_path


@pytest.mark.rule(16)
def test_the_tree_follows_links_into_the_trace_of_another_sale(folder: Path) -> None:
    (root,) = tree(read_spans(folder, "mine"), "mine")
    assert names(root) == ["webhook", ["reserve", ["level", ["push"]]]]
    level = root.children[0].children[0]
    assert level.linked
    assert not root.children[0].linked
    assert level.span.trace_id != root.span.trace_id


def test_the_first_cause_has_the_batch_as_its_own_child(folder: Path) -> None:
    (root,) = tree(read_spans(folder, "other"), "other")
    assert names(root) == ["webhook", ["level", ["push"]]]
    assert not root.children[0].linked


def test_rows_for_json_have_depth_offset_and_duration(folder: Path) -> None:
    rows = flatten(tree(read_spans(folder, "mine"), "mine"))
    assert [(row["depth"], row["service"], row["name"]) for row in rows] == [
        (0, "channels", "webhook"),
        (1, "inventory", "reserve"),
        (2, "inventory", "level"),
        (3, "channels", "push"),
    ]
    assert all(row["duration_ms"] >= 0 and row["offset_ms"] >= 0 for row in rows)
    assert flatten([]) == []


def test_an_order_without_spans_is_an_empty_tree_and_a_folder_without_files_an_error(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert tree(read_spans(folder, "nobody"), "nobody") == []
    with pytest.raises(FileNotFoundError, match="no span files"):
        read_spans(tmp_path_factory.mktemp("empty"), "mine")


def test_a_cause_without_trace_starts_nothing(tmp_path: Path) -> None:
    tracing = service(tmp_path, "orders")
    with tracing.span("step", Cause("e", "mine", "00-" + "a" * 32 + "-" + "b" * 16 + "-00")):
        pass
    tracing.close()
    assert read_spans(tmp_path, "mine") == []
