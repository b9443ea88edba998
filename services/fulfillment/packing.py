"""What a parcel weighs and which box it goes into, from the items' own measures. Pure.

A proposal for the packer, and the parcel itself where packing is automatic: whoever packs by hand may state other
figures.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

Dimensions = tuple[int, int, int]

ITEM_WEIGHT_G: Final = 300
ITEM_DIMENSIONS_MM: Final[Dimensions] = (160, 110, 20)
"""What an item of unknown size counts for: the smallest parcel that Correios takes."""
FILL_PERCENT: Final = 80
"""How much of a box several things fill at best: they never pack without gaps."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is known of an article; `components` (SKU → units) make it a kit, which weighs what they weigh."""

    weight_g: int | None = None
    dimensions_mm: Dimensions | None = None
    components: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Box:
    """A box in stock: inner dimensions, its own weight, and the most it carries."""

    code: str
    dimensions_mm: Dimensions
    weight_g: int = 0
    carries_g: int = 30_000


@dataclass(frozen=True, slots=True)
class Packed:
    """A parcel: its whole weight, its dimensions (longest first), and the box ("" where none fits)."""

    weight_g: int
    dimensions_mm: Dimensions
    box: str


def contents(lines: Mapping[str, int], items: Mapping[str, Item]) -> dict[str, int]:
    """SKU → units of what really goes into the parcel: kits are opened, one level deep as the catalogue has them."""
    found: dict[str, int] = {}
    for sku, units in lines.items():
        kit = items.get(sku, Item()).components
        for part, each in (kit or {sku: 1}).items():
            found[part] = found.get(part, 0) + units * each
    return found


def pack(
    lines: Mapping[str, int],
    items: Mapping[str, Item],
    boxes: Iterable[Box],
    *,
    item_weight_g: int = ITEM_WEIGHT_G,
    item_dimensions_mm: Dimensions = ITEM_DIMENSIONS_MM,
) -> Packed:
    """Weigh the lines (SKU → units) and put them into the smallest box that holds them.

    Without a fitting box the parcel is as long and wide as its largest item and as high as the volume asks for. The two
    defaults stand in for measures that nobody has entered. Raises ValueError without a unit to pack.
    """
    units = {sku: count for sku, count in contents(lines, items).items() if count > 0}
    if not units:
        raise ValueError("there is nothing to pack")
    weight_g = 0
    sides = []
    for sku, count in units.items():
        item = items.get(sku, Item())
        weight_g += count * (item_weight_g if item.weight_g is None else item.weight_g)
        sides.append((_sides(item.dimensions_mm or item_dimensions_mm), count))
    for box in sorted(boxes, key=lambda one: (_volume(one.dimensions_mm), one.code)):
        if weight_g <= box.carries_g and _fits(sides, box):
            return Packed(weight_g + box.weight_g, _sides(box.dimensions_mm), box.code)
    length, width, height = (max(one[axis] for one, _ in sides) for axis in range(3))
    volume = sum(_volume(one) * count for one, count in sides)
    height = max(height, -(-volume // (length * width)))
    return Packed(weight_g, _sides((length, width, height)), "")


def _sides(dimensions_mm: Dimensions) -> Dimensions:
    """The same thing turned so that its longest side comes first; a side of zero counts as one millimetre."""
    longest, middle, shortest = sorted((max(1, side) for side in dimensions_mm), reverse=True)
    return longest, middle, shortest


def _volume(dimensions_mm: Dimensions) -> int:
    length, width, height = dimensions_mm
    return length * width * height


def _fits(sides: Iterable[tuple[Dimensions, int]], box: Box) -> bool:
    inner = _sides(box.dimensions_mm)
    volume = units = 0
    for one, count in sides:
        if any(side > room for side, room in zip(one, inner, strict=True)):
            return False
        volume += _volume(one) * count
        units += count
    return units == 1 or volume * 100 <= _volume(inner) * FILL_PERCENT
