"""Certificates for mutual TLS between the sandbox's bank and us: `python -m services.sandbox.certificates FOLDER`.

Pix wants a certificate from both sides of every connection. One authority signs four of them, each `NAME.pem` with its
key `NAME.key`: `server` (the bank's API), `client` (we, when we call the bank), `bank` (the bank, when it calls our
webhook) and `door` (our webhook's listener). Servers cannot pass as clients nor the other way round. `stranger` is a
client certificate of another authority: who trusts `ca.pem` must refuse it. Keys are readable by their owner only.
"""

import datetime as dt
import ipaddress
import os
import shutil
import ssl
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE_DAYS = 825
_SERVERS = ("server", "door")
_CLIENTS = ("client", "bank")


@dataclass(frozen=True, slots=True)
class Certificates:
    """A folder of certificates made by `make`."""

    folder: Path

    def certificate(self, name: str) -> Path:
        """The certificate of `server`, `client`, `bank`, `door` or `stranger`; `ca` is the authority's own."""
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        """The private key that belongs to `certificate(name)`."""
        return self.folder / f"{name}.key"

    def client_context(self, name: str) -> ssl.SSLContext:
        """What a client shows as `name`; it trusts servers of this authority only."""
        context = ssl.create_default_context(cafile=self.certificate("ca"))
        context.load_cert_chain(self.certificate(name), self.key(name))
        return context

    def server_context(self, name: str) -> ssl.SSLContext:
        """What a server shows as `name`; it lets in clients with a client certificate of this authority only."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.certificate("ca"))
        context.load_cert_chain(self.certificate(name), self.key(name))
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def make(folder: Path) -> Certificates:
    """The certificates in `folder`, made now if the folder is not there; it appears whole or not at all."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        _fill(draft)
        try:
            draft.rename(folder)
        except OSError:
            # Another process was faster; its folder is as good.
            shutil.rmtree(draft)
            if not folder.is_dir():
                raise
    return Certificates(folder)


def _fill(folder: Path) -> None:
    authority_key, authority = _authority("Saldo sandbox authority")
    _write(folder, "ca", authority, None)
    for name in (*_SERVERS, *_CLIENTS):
        key, certificate = _signed(name, authority, authority_key)
        _write(folder, name, certificate, key)
    other_key, other = _authority("Unknown authority")
    key, certificate = _signed("stranger", other, other_key)
    _write(folder, "stranger", certificate, key)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=_LIFE_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(text: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_name(text), _name(text), key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
    )
    return key, builder.sign(key, hashes.SHA256())


def _signed(
    name: str, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    serves = name in _SERVERS
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if serves else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = (
        _builder(_name(name), authority.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(issuer, critical=False)
    )
    if serves:
        addresses = [x509.IPAddress(ipaddress.ip_address(one)) for one in ("127.0.0.1", "::1")]
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses])
        builder = builder.add_extension(names, critical=False)
    return key, builder.sign(authority_key, hashes.SHA256())


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None) -> None:
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    if key is not None:
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with os.fdopen(os.open(folder / f"{name}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name one folder: python -m services.sandbox.certificates FOLDER")
    make(Path(sys.argv[1]))
