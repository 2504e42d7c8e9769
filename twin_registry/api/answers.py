"""What the API answers, where it is not the library's own (twin_registry/library.py), and how it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Self

import msgspec
from fastapi import Response
from starlette.exceptions import HTTPException

from gemel.ports import Access, AccessRoot, AssetRecord
from gemel.wire.types import Count
from twin_registry import assets


class Problem(msgspec.Struct, frozen=True):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str

    @classmethod
    def of(cls, status: int, detail: str) -> Self:
        """Of no other kind than its status says."""
        return cls("about:blank", HTTPStatus(status).phrase, status, detail)


class Assets(msgspec.Struct, frozen=True):
    """What was declared."""

    assets: Sequence[AssetRecord]


class Tree(msgspec.Struct, frozen=True):
    """The assets, each followed by what belongs to it."""

    nodes: Sequence[assets.Node]


class Relations(msgspec.Struct, frozen=True):
    """What the assets have to do with each other."""

    relations: Sequence[assets.Link]


class Accesses(msgspec.Struct, frozen=True):
    """A page of the log of reads. `next`: where the next page begins (`after`), or null."""

    accesses: Sequence[Access]
    next: Count | None


class Roots(msgspec.Struct, frozen=True):
    """Merkle roots over the log of reads, oldest first."""

    roots: Sequence[AccessRoot]


class Health(msgspec.Struct, frozen=True):
    """The store answers."""

    status: str


def to_json(answer: msgspec.Struct) -> Response:
    """200, with the answer."""
    return Response(msgspec.json.encode(answer), media_type="application/json")


def found(answer: msgspec.Struct | None, what: str) -> Response:
    """200, or a problem (404) where there is no answer."""
    if answer is None:
        raise HTTPException(404, f"there is no such {what}")
    return to_json(answer)
