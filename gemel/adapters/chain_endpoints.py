"""One question to a JSON-RPC endpoint that somebody else runs: which model is in use? Needs no web3."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout

from gemel.adapters.contract_abi import ROUND_REGISTRY, load
from gemel.errors import ChainUnavailable, Malformed
from gemel.wire.eip712 import Domain, task_id
from gemel.wire.types import Count, Digest

REQUEST_S = 5.0
MAX_ANSWER_BYTES = 64 * 1024


class Named(msgspec.Struct, frozen=True):
    """The model in use, and its deployment number; 0 before M0."""

    deployment: Count
    model: Digest


class _Answer(msgspec.Struct):
    result: str | None = None
    error: Any = None


async def ask(session: ClientSession, url: str, domain: Domain, task: str) -> Named:
    """What `url` says of a task of the registry that is pinned.

    Raises ChainUnavailable naming the endpoint: it is away, on another chain, or answers nonsense.
    """
    entry = load(ROUND_REGISTRY).functions["task"]
    call = {"to": domain.registry, "data": "0x" + entry.encode(task_id(task)).hex()}
    try:
        chain_id = int(await _request(session, url, "eth_chainId", []), 16)
        if chain_id != domain.chain_id:
            raise ChainUnavailable(f"{url} is on chain {chain_id}, not {domain.chain_id}")
        found = entry.decode_result(bytes.fromhex((await _request(session, url, "eth_call", [call, "latest"]))[2:]))
    except (ValueError, Malformed) as error:
        raise ChainUnavailable(f"{url} answers nonsense: {str(error)[:80]}") from error
    return Named(found["deployment"], found["model"])


async def _request(session: ClientSession, url: str, method: str, parameters: list[object]) -> str:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    data = b""
    try:
        async with session.post(
            url, json=request, timeout=ClientTimeout(total=REQUEST_S), allow_redirects=False
        ) as response:
            async for piece in response.content.iter_chunked(MAX_ANSWER_BYTES):
                data += piece
                if len(data) > MAX_ANSWER_BYTES:
                    raise ChainUnavailable(f"{url} answers nonsense: more than {MAX_ANSWER_BYTES} bytes")
    except (ClientError, OSError, TimeoutError) as error:
        raise ChainUnavailable(f"{url} does not answer: {error or type(error).__name__}") from error
    try:
        answer = msgspec.json.decode(data, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ChainUnavailable(f"{url} answers nonsense: {str(error)[:80]}") from error
    if answer.result is None:
        raise ChainUnavailable(f"{url} refuses {method}: {str(answer.error)[:80]}")
    return answer.result
