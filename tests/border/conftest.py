"""Certificates for both sides of a door."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Contexts:
    """`server` asks for a client's certificate, `client` shows one, `stranger` shows none; all trust one authority."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    stranger: ssl.SSLContext


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@pytest.fixture(scope="session")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    folder: Path = tmp_path_factory.mktemp("certificates")
    authority, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)

    def signed(subject: str, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> Path:
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True, key_cert_sign=ca, crl_sign=ca, content_commitment=False,
                    key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .sign(authority, hashes.SHA256())
        )  # fmt: skip
        path = folder / f"{subject}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
        return path

    trusted = signed("authority", authority, ca=True)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(trusted))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(signed("server", ec.generate_private_key(ec.SECP256R1())))
    client = ssl.create_default_context(cafile=str(trusted))
    client.load_cert_chain(signed("client", ec.generate_private_key(ec.SECP256R1())))
    return Contexts(server, client, ssl.create_default_context(cafile=str(trusted)))
