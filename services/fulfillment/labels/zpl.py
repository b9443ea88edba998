"""The label in ZPL II, Zebra's language (Zebra "ZPL II Programming Guide"), for a printer of 203 dots an inch.

Every text goes through `^FH`: `^`, `~` and the escape sign itself are written as hexadecimal, so that no address can
become a command. `^CI28` makes the text UTF-8.
"""

from typing import Final

from services.fulfillment.labels import Label, Place, in_fours

_ESCAPED: Final = str.maketrans({sign: f"_{ord(sign):02X}" for sign in "^~_"})
_LEFT: Final = 40
_ROOM: Final = 732
_BESIDE_QR: Final = 470


def draw(label: Label) -> str:
    """The commands that print one label of 100 × 150 mm."""
    fields = [
        _text(label.carrier, 40, 44, room=_BESIDE_QR),
        _text(label.service, 92, 38, room=_BESIDE_QR),
        _text(label.shipment_id, 140, 24, room=_BESIDE_QR),
        _text(f"Peso: {label.weight}", 172, 24, room=_BESIDE_QR),
        f"^FO540,30^BQN,2,6^FH_^FDMA,{escaped(label.shipment_id)}^FS",
    ]
    if label.invoice_key:
        fields.append(_text(f"NF-e: {label.invoice_number}", 204, 24, room=_BESIDE_QR))
        fields.append(_text(in_fours(label.invoice_key), 310, 24))
    module = 3 if len(label.tracking_code) <= 18 else 2 if len(label.tracking_code) <= 28 else 1
    fields.append(f"^FO{_LEFT},350^BY{module}^BCN,170,N,N,N,A^FH_^FD{escaped(label.tracking_code)}^FS")
    fields.append(_text(label.tracking_code, 535, 36))
    fields.append(f"^FO{_LEFT},585^GB{_ROOM},3,3^FS")
    fields += _place("DESTINATÁRIO", label.recipient, 600, 34)
    if label.postcode_digits:
        fields.append(f"^FO{_LEFT},850^BY2^BCN,90,N,N,N,A^FH_^FD{label.postcode_digits}^FS")
    fields.append(f"^FO{_LEFT},965^GB{_ROOM},3,3^FS")
    fields += _place("REMETENTE", label.sender, 980, 24)
    return "\n".join(["^XA", "^CI28^PW812^LL1218^LH0,0", *fields, "^XZ", ""])


def escaped(text: str) -> str:
    """The text as field data after `^FH_`; line breaks and other control characters become spaces."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain.translate(_ESCAPED)


def _text(text: str, top: int, height: int, *, room: int = _ROOM) -> str:
    """One line of text. A letter is about half as wide as high, so a long line gets narrower letters."""
    width = max(8, min(height, 2 * room // max(1, len(text))))
    return f"^FO{_LEFT},{top}^A0N,{height},{width}^FH_^FD{escaped(text)}^FS"


def _place(title: str, place: Place, top: int, height: int) -> list[str]:
    lines = [place.name, *place.lines(), place.postal]
    step = height + 8
    return [
        _text(title, top, height * 2 // 3),
        *(_text(line, top + step * row, height) for row, line in enumerate(lines, 1)),
    ]
