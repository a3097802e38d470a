"""A certificate authority of a test's own."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


_MAY_SIGN = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Issues certificates; ``pem`` is its own, which begins and ends after ``begins`` and ``ends``."""

    def __init__(self, ends: timedelta = timedelta(days=90), begins: timedelta = timedelta(days=-1)) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._cert = self._signed("test authority", self._key.public_key(), ends, begins).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        ).add_extension(_MAY_SIGN, critical=True).sign(self._key, hashes.SHA256())  # fmt: skip
        self.pem = self._cert.public_bytes(serialization.Encoding.PEM)

    def _signed(
        self, common: str, public: ec.EllipticCurvePublicKey, ends: timedelta, begins: timedelta = timedelta(days=-1)
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        made = x509.CertificateBuilder().subject_name(_name(common)).issuer_name(_name("test authority")).public_key(public)
        return (
            made.serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            # Python 3.13 verifies strictly: every certificate says whose key signed it, and an authority what it may do.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def issue(self, cert: Path, key: Path, common: str, server: bool = False, ends: timedelta = timedelta(days=90)) -> None:
        """A certificate and its key, as PEM files; of a server for this machine's names. It ends after ``ends``, which may be negative."""
        own = ec.generate_private_key(ec.SECP256R1())
        made = self._signed(common, own.public_key(), ends)
        if server:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        cert.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        key.write_bytes(own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
