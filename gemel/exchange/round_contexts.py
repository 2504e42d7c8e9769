"""A round's public sealing context as its custodians announced it: the same bytes for everybody.

Under bfv-packed and ckks the one custodian offers it as a transfer. Under one-time keys nobody offers it: everybody
puts it together from what the chain says of the round and from the keys that the custodians signed.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemel.errors import Refused
from gemel.exchange.admission import Terms
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.transfers import Transfers, describe
from gemel.sealing.onetime.context import RoundContext
from gemel.wire.chunks import Transfer
from gemel.wire.eip712 import task_id
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import Context, KeyContext, decode
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, BoxKey

CONTEXT_BYTES = 16 << 20


def round_context(terms: Terms, parameters: int, keys: Sequence[BoxKey]) -> RoundContext:
    """One-time keys: the facts of a round, with its custodians' keys in the order of trust.json.

    Raises Refused(malformed) where two custodians announce the same key.
    """
    try:
        return RoundContext(
            chain_id=terms.trust.chain_id,
            registry=terms.trust.registry,
            task=task_id(terms.trust.task),
            round=terms.round,
            base=terms.base,
            policy=terms.policy.digest,
            parameters=parameters,
            custodians=tuple(keys),
        )
    except ValueError as error:
        raise Refused(Reason.MALFORMED, str(error)) from error


async def announced_context(
    terms: Terms,
    parameters: int,
    mailbox: Mailbox,
    transfers: Transfers,
    *,
    deadline_s: float,
    named: Transfer | None = None,
) -> bytes:
    """The context, once every custodian has announced its part.

    Raises Refused(digest_mismatch) where it is not the one `named` in an invitation, and as Transfers.fetch.
    """
    if terms.policy.sealing.scheme == "one-time-keys":
        keys = [await _key_of(terms, custodian.address, mailbox) for custodian in terms.trust.custodians]
        context = round_context(terms, parameters, keys).pack()
        _require_named(describe(context), named)
        return context
    if len(terms.trust.custodians) != 1:
        raise Refused(Reason.WRONG_POLICY, f"{len(terms.trust.custodians)} custodians cannot share one key")
    (custodian,) = terms.trust.custodian_addresses
    message = await mailbox.take(Kind.CONTEXT, terms.round)
    announced = decode(Context, message.body).context
    _require_named(announced, named)
    return await transfers.fetch(custodian, announced, max_bytes=CONTEXT_BYTES, deadline_s=deadline_s)


async def announced_training(round_: int, mailbox: Mailbox) -> Transfer:
    """Where the round's training context is, once the custodian has announced it. Raises Refused if it has none."""
    announced = decode(Context, (await mailbox.take(Kind.CONTEXT, round_)).body)
    if announced.training is None:
        raise Refused(Reason.WRONG_POLICY, "the custodian announced no context for training on encrypted data")
    return announced.training


async def _key_of(terms: Terms, custodian: Address, mailbox: Mailbox) -> BoxKey:
    def is_its(message: Envelope) -> bool:
        return message.header.sender == custodian

    return decode(KeyContext, (await mailbox.take(Kind.CONTEXT, terms.round, is_its)).body).box


def _require_named(announced: Transfer, named: Transfer | None) -> None:
    if named not in (None, announced):
        raise Refused(Reason.DIGEST_MISMATCH, "the invitation's context is not the custodians'")
