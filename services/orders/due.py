"""What a buyer owes, in minor units of the order's currency. Pure."""

from collections.abc import Mapping

from contracts.channels.v1 import SaleLine, SaleReported


def due_minor(sale: SaleReported, kept: Mapping[str, int], *, freight: bool) -> int:
    """What the units `kept` (by line id) cost, and the freight where it stays owed.

    The goods of the whole order cost its total less its freight, so that a discount on the whole order is shared by
    what its lines are worth. Nothing kept is nothing, everything is the whole, and less never costs more.
    """
    freight_minor = max(0, sale.freight_minor)
    values = [_value(line, line.quantity) for line in sale.lines]
    worth_minor = sum(values)
    goods_minor = max(0, sale.total_minor - freight_minor) if sale.total_minor else worth_minor
    freight_minor = min(freight_minor, sale.total_minor) if sale.total_minor else freight_minor
    kept_minor = sum(_value(line, kept.get(line.line_id, 0)) for line in sale.lines)
    if not worth_minor:
        # Lines without prices weigh by their units.
        worth_minor = sum(line.quantity for line in sale.lines)
        kept_minor = sum(min(line.quantity, kept.get(line.line_id, 0)) for line in sale.lines)
    due = _share(goods_minor, kept_minor, worth_minor)
    return due + (freight_minor if freight else 0)


def _value(line: SaleLine, units: int) -> int:
    """What `units` of a line are worth after their part of the line's discount."""
    units = min(units, line.quantity)
    return max(0, line.unit_price_minor * units - _share(line.discount_minor, units, line.quantity))


def _share(minor: int, part: int, whole: int) -> int:
    """`minor` × `part` ÷ `whole`, rounded half to even."""
    if not whole:
        return 0
    share, rest = divmod(minor * part, whole)
    return share + (2 * rest > whole or (2 * rest == whole and share % 2))
