"""A plant's certificate authority, for tests: P-256 leaves named by a party, and a revocation list."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_HOUR = dt.timedelta(hours=1)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


class PlantCA:
    """Writes `ca.pem`, `<name>.pem`, `<name>.key` and `revoked.pem` into one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._now = dt.datetime.now(dt.UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._serials: dict[str, int] = {}
        self._revoked: list[str] = []
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self._certificate = (
            self._builder("plant CA", self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = self._write("ca.pem", self._certificate.public_bytes(serialization.Encoding.PEM))
        self.crl_file = self._write_crl()

    def _builder(self, subject: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name("plant CA"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _HOUR)
            .not_valid_after(self._now + 24 * _HOUR)
        )

    def _write(self, name: str, data: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(data)
        return path

    def leaf(self, name: str) -> tuple[Path, Path]:
        """(certificate, key) for a client or, with 127.0.0.1 as an alternative name, the broker."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        ca = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
            .add_extension(ca, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self._serials[name] = certificate.serial_number
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return (
            self._write(f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM)),
            self._write(f"{name}.key", private),
        )

    def revoke(self, name: str) -> None:
        """Put `name` on the list; the broker learns of it by SIGHUP."""
        self._revoked.append(name)
        self._write_crl()

    def _write_crl(self) -> Path:
        builder = x509.CertificateRevocationListBuilder().issuer_name(_name("plant CA"))
        builder = builder.last_update(self._now - _HOUR).next_update(self._now + 24 * _HOUR)
        for name in self._revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(self._serials[name])
            builder = builder.add_revoked_certificate(entry.revocation_date(self._now).build())
        return self._write(
            "revoked.pem", builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
