"""The label as a PDF page. The same label gives the same bytes. Drawing takes milliseconds: call it in a thread."""

import io
import unicodedata
from typing import Final

from reportlab.graphics.barcode.code128 import Code128
from reportlab.graphics.barcode.qr import QrCode
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas

from services.fulfillment.labels import Label, Place, in_fours

_WIDTH: Final = 100 * mm
_HEIGHT: Final = 150 * mm
_MARGIN: Final = 5 * mm
_ROOM: Final = _WIDTH - 2 * _MARGIN
_QR: Final = 34 * mm
_BAR_MAX: Final = 0.45 * mm
_SMALLEST_PT: Final = 5.0


def draw(label: Label) -> bytes:
    """One page of 100 × 150 mm with the barcodes of tracking code and postcode, a QR code and all the text."""
    page = io.BytesIO()
    canvas = Canvas(page, pagesize=(_WIDTH, _HEIGHT), invariant=1)
    canvas.setTitle(f"{label.carrier} {label.tracking_code}")
    _head(canvas, label)
    _linear(canvas, label.tracking_code, bottom=84 * mm, height=22 * mm)
    _line(canvas, label.tracking_code, 79.5 * mm, font="Helvetica-Bold", size=11)
    canvas.line(_MARGIN, 77 * mm, _WIDTH - _MARGIN, 77 * mm)
    _place(canvas, "DESTINATÁRIO", label.recipient, top=72.5 * mm, size=10.5)
    if label.postcode_digits:
        _linear(canvas, label.postcode_digits, bottom=33 * mm, height=11 * mm, share=0.5)
    canvas.line(_MARGIN, 30 * mm, _WIDTH - _MARGIN, 30 * mm)
    _place(canvas, "REMETENTE", label.sender, top=26 * mm, size=7)
    canvas.showPage()
    canvas.save()
    return page.getvalue()


def _head(canvas: Canvas, label: Label) -> None:
    beside = _ROOM - _QR
    _line(canvas, label.carrier, 140 * mm, font="Helvetica-Bold", size=14, room=beside)
    _line(canvas, label.service, 133.5 * mm, font="Helvetica-Bold", size=12, room=beside)
    _line(canvas, label.shipment_id, 128 * mm, size=8, room=beside)
    _line(canvas, f"Peso: {label.weight}", 123.5 * mm, size=8, room=beside)
    if label.invoice_key:
        _line(canvas, f"NF-e: {label.invoice_number}", 119 * mm, size=8, room=beside)
        _line(canvas, in_fours(label.invoice_key), 109 * mm, size=8)
    code = QrCode(label.shipment_id, width=_QR, height=_QR, qrLevel="M")
    code.drawOn(canvas, _WIDTH - _MARGIN - _QR, 113 * mm)


def _linear(canvas: Canvas, value: str, *, bottom: float, height: float, share: float = 1.0) -> None:
    """A Code 128 in the middle of the page, as wide as its bars may be within `share` of the room."""
    modules = Code128(value, barWidth=1, quiet=0).width
    bar = min(_BAR_MAX, _ROOM * share / modules)
    code = Code128(value, barWidth=bar, barHeight=height, quiet=0)
    code.drawOn(canvas, (_WIDTH - code.width) / 2, bottom)


def _place(canvas: Canvas, title: str, place: Place, *, top: float, size: float) -> None:
    step = size * 1.25
    _line(canvas, title, top, size=size * 0.6)
    _line(canvas, place.name, top - step, font="Helvetica-Bold", size=size)
    lines = [*place.lines(), place.postal]
    for row, line in enumerate(lines, start=2):
        _line(canvas, line, top - row * step, size=size)


def _line(
    canvas: Canvas, text: str, bottom: float, *, font: str = "Helvetica", size: float, room: float = _ROOM
) -> None:
    """One line at the left margin, smaller where it is too long, cut where even that does not help."""
    shown = printable(text)
    needed = stringWidth(shown, font, size)
    if needed > room:
        size = max(_SMALLEST_PT, size * room / needed)
    while len(shown) > 1 and stringWidth(shown, font, size) > room * 1.001:
        shown = shown[:-2] + "…"
    canvas.setFont(font, size)
    canvas.drawString(_MARGIN, bottom, shown)


def printable(text: str) -> str:
    """The text in characters that a PDF's own fonts have (Windows-1252): others lose their accents or become `?`."""
    return "".join(map(_character, " ".join(text.split())))


def _character(character: str) -> str:
    if _has(character):
        return character if character.isprintable() else "?"
    bare = unicodedata.normalize("NFKD", character)
    return "".join(part for part in bare if part.isascii() and part.isprintable()) or "?"


def _has(character: str) -> bool:
    try:
        character.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True
