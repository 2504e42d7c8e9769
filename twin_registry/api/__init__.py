"""The registry's HTTP API: JSON, described by /openapi.json. Each path is found in routes/, by its resource.

    GET  /twins?where=TS1>40&where=…                   list and search (twin_registry/where.py)
    GET  /twins/{site}/{asset}?at=|revision=           a twin now, at a time, at a revision; ETag
    GET  /twins/{site}/{asset}/history                 its revisions
    GET  /twins/{site}/{asset}/series/{property}       one property's readings, as they came or in steps
    GET  /twins/{site}/{asset}/thing-description       the twin as a W3C Thing Description
    GET  /twins/{site}/{asset}/asset-shell             the twin as an Asset Administration Shell (the `aas` extra)
    GET  /schemas/twin/1                               the JSON Schema that twins and what goes with them follow
    GET  /events, /agents                              alerts raised and cleared; what agents say of themselves
    GET  /assets, /tree, /assets/{site}/{asset}        what was declared about assets; ETag
    GET  /relations?of=north/tank                      what feeds what, both ways
    PUT  /assets/{site}/{asset}                        declare it; If-Match or If-None-Match
    GET  /live                                         Server-Sent Events; Last-Event-ID resumes (live.py)
    GET  /accesses, /accesses/roots                    the log of reads, and the Merkle roots over it
    GET  /accesses/{sequence}                          an entry with its proof
    GET  /healthz                                      200 while the store answers, 503 otherwise

Who asks says so with `Authorization: Bearer TOKEN` and sees what that token was granted (twin_registry/tokens.py).
Every read stands in the log before its answer goes out. Errors are problem details (RFC 9457). The schema and the
health need no token: they tell nothing of the plant.
"""

from __future__ import annotations

from twin_registry.api.answers import Problem
from twin_registry.api.app import make_app
from twin_registry.api.openapi import OPEN_PATHS
from twin_registry.api.visits import READER_IN_SCOPE

__all__ = ["OPEN_PATHS", "READER_IN_SCOPE", "Problem", "make_app"]
