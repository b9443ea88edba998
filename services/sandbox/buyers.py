"""Synthetic buyers: the same seed is the same person, and none of them exists."""

from dataclasses import dataclass

_CITIES = (
    ("São Paulo", "SP", "São Paulo", "01000"),
    ("Rio de Janeiro", "RJ", "Rio de Janeiro", "20000"),
    ("Belo Horizonte", "MG", "Minas Gerais", "30000"),
    ("Curitiba", "PR", "Paraná", "80000"),
    ("Recife", "PE", "Pernambuco", "50000"),
)


@dataclass(frozen=True, slots=True)
class Buyer:
    """What a marketplace tells about a buyer."""

    number: int
    first_name: str
    last_name: str
    email: str
    document: str
    phone: str
    street: str
    street_number: str
    neighborhood: str
    city: str
    region: str
    region_name: str
    postcode: str

    @property
    def name(self) -> str:
        return f"{self.first_name} {self.last_name}"


def cpf(seed: int) -> str:
    """Eleven digits with valid check digits (the arithmetic of the Brazilian CPF), made from the seed."""
    digits = [int(digit) for digit in f"{(seed + 123_456_789) % 1_000_000_000:09d}"]
    for length in (9, 10):
        rest = sum(digit * (length + 1 - place) for place, digit in enumerate(digits)) * 10 % 11
        digits.append(0 if rest == 10 else rest)
    return "".join(map(str, digits))


def buyer(seed: int) -> Buyer:
    """The buyer of this seed."""
    seed = abs(seed)
    city, region, region_name, prefix = _CITIES[seed % len(_CITIES)]
    return Buyer(
        number=seed,
        first_name="Comprador",
        last_name=str(seed),
        email=f"comprador.{seed}@example.com",
        document=cpf(seed),
        phone=f"(11) 90000-{seed % 10_000:04d}",
        street="Rua de Exemplo",
        street_number=str(seed % 900 + 1),
        neighborhood="Centro",
        city=city,
        region=region,
        region_name=region_name,
        postcode=f"{prefix}-{seed % 1000:03d}",
    )
