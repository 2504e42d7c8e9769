"""How to reach the broker, and the bounds of the bus."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gemel.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BusSettings:
    """How to reach the broker, and the bounds. `url` is mqtt://host[:port] or mqtts://host[:port]."""

    url: str
    client_id: str
    username: str | None = None
    password: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    session_expiry_s: int = 86_400  # longer than the longest outage
    receive_maximum: int = 64  # unacknowledged messages that the broker may send us
    publish_deadline_s: float = 30.0
    max_payload_bytes: int = 1024 * 1024

    def __repr__(self) -> str:
        return f"BusSettings({self.url!r}, client_id={self.client_id!r})"  # no password in a log

    @property
    def address(self) -> tuple[str, int, bool]:
        """(host, port, TLS). Raises ConfigError."""
        wrong = ConfigError("bus", "url", f"mqtt://host:port or mqtts://host:port, not {self.url!r}")
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise wrong from None
        if parts.scheme not in ("mqtt", "mqtts") or not host:
            raise wrong
        tls = parts.scheme == "mqtts"
        return host, port or (8883 if tls else 1883), tls

    def tls_context(self) -> ssl.SSLContext | None:
        """The client side of TLS, read from disk. Raises ConfigError for files that do not load."""
        if not self.address[2]:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:
            files = ", ".join(str(name) for name in (self.ca_file, self.cert_file, self.key_file) if name)
            raise ConfigError(
                "bus", "ca_file, cert_file, key_file", f"readable PEM files ({files}): {error}"
            ) from error
        return context
