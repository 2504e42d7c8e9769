"""Who may read what, by token. The file holds only digests of the tokens, and only its owner may read it (0600).

Under systemd, `LoadCredential=` hands the service a copy (gemel/adapters/secret_files.py).

    [[token]]
    name = "wallboard"                       # stands in the log of reads
    sha256 = "…64 hex…"                      # of the token
    scopes = ["read:north/*", "read:south/press-1"]

A scope is `read:<site>/<asset>` or `write:<site>/<asset>`, where `*` stands for any one of them, or `audit` (the log
of reads). A new token: python -m twin_registry.tokens wallboard 'read:north/*'
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from gemel.adapters.secret_files import read_private
from gemel.errors import ConfigError
from gemel.wire.types import Digest

_MOST_BYTES = 1 << 20
_SCOPE = r"^(audit|(read|write):([a-z0-9][a-z0-9._-]{0,63}|\*)/([a-z0-9][a-z0-9._-]{0,63}|\*))\Z"


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One [[token]]."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}\Z")]
    sha256: Digest
    scopes: tuple[Annotated[str, msgspec.Meta(pattern=_SCOPE)], ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who asks, and what was granted to him."""

    name: str
    scopes: frozenset[str]

    def may(self, action: Literal["read", "write"], site: str, asset: str) -> bool:
        """Whether one asset is within what was granted."""
        places = (f"{site}/{asset}", f"{site}/*", f"*/{asset}", "*/*")
        return any(f"{action}:{place}" in self.scopes for place in places)

    @property
    def may_audit(self) -> bool:
        """Whether he may see who read what."""
        return "audit" in self.scopes


ANYBODY = Reader("anybody on this machine", frozenset({"read:*/*", "write:*/*", "audit"}))


class Tokens:
    """The tokens that count."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._readers = {token.sha256: Reader(token.name, frozenset(token.scopes)) for token in tokens}

    @classmethod
    def load(cls, file: Path) -> Tokens:
        """Raises ConfigError for a file that others may read, or that is not of its form."""
        try:
            content = read_private(file, "tokens", _MOST_BYTES).decode()
            return cls(msgspec.convert(tomllib.loads(content), _File).token)
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ConfigError(str(file), "token", f"[[token]] with name, sha256 and scopes ({error})") from error

    def reader(self, token: str) -> Reader | None:
        """Who holds this token. Tokens are random, so a look-up by digest tells an eavesdropper of time nothing."""
        return self._readers.get(digest(token))


def digest(token: str) -> Digest:
    """What the file holds of a token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def _create(name: str, scopes: Sequence[str]) -> None:
    token = secrets.token_urlsafe(32)
    entry = msgspec.convert({"name": name, "sha256": digest(token), "scopes": scopes}, Token)
    lines = ["[[token]]", f'name = "{entry.name}"', f'sha256 = "{entry.sha256}"', f"scopes = {list(entry.scopes)}"]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stderr.write(f"the token, shown once: {token}\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m twin_registry.tokens NAME SCOPE...")
    try:
        _create(sys.argv[1], sys.argv[2:])
    except msgspec.ValidationError as error:
        sys.exit(f"a scope is read:<site>/<asset>, write:<site>/<asset> or audit: {error}")
