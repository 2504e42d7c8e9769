"""A round's ciphertexts: every kept frame, its way to the root on chain, and the sum added up once more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gemel.console.auditor.book import require
from gemel.console.auditor.case import RoundCase
from gemel.exchange import admission
from gemel.sealing.ports import SummerPort
from gemel.sealing.schemes import summer_of
from gemel.sealing.work import check_body
from gemel.wire import merkle
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.messages import Entry
from gemel.wire.types import NO_DIGEST, Address, Digest, sha256

Entries = Mapping[Address, Entry]


@dataclass(frozen=True, slots=True)
class _Sealing:
    """What the round's ciphertexts must fit, and the sum so far."""

    context: Digest
    parameters: int
    summer: SummerPort


def check_ciphertexts(case: RoundCase, parameters: int | None, roster: Entries, included: Entries) -> None:
    """Frames against roster and root, their sum against the chain.

    `parameters` is the base model's size, None where the base is not kept; `included` are the updates in the sum.
    """
    sealing = _sealing(case, parameters)
    kept = case.evidence.frames(case.number)
    if included and not kept:
        case.missing("frames", "the sum was not recomputed")
    leaves = {device: admission.leaf_of(entry) for device, entry in included.items()}
    held = {device for device in kept if roster and _frame_holds(case, device, roster, included, leaves, sealing)}
    for device in sorted(included.keys() - set(kept)) if kept else ():
        case.book.fault(
            case.where("frames"), "a frame of the sum is gone, though others are kept", case.number, device
        )
    _check_kept_sum(case)
    if sealing is not None and included and included.keys() <= held:
        with case.checking("sums recomputed", "frames"):
            total = sha256(sealing.summer.sum())
            require(total == case.record.sum_digest, f"frames add up to {total[:12]}, which is not the sum on chain")


def _sealing(case: RoundCase, parameters: int | None) -> _Sealing | None:
    context = case.part("context")
    if context is None:
        case.missing("context", "sealed forms were not checked, the sum was not recomputed")
    elif parameters is not None:
        with case.checking("sealing contexts", "context"):  # refuses one with a secret key in it
            return _Sealing(sha256(context), parameters, summer_of(context, case.policy.sealing, parameters))
    return None


def _frame_holds(
    case: RoundCase,
    device: Address,
    roster: Entries,
    included: Entries,
    leaves: Mapping[Address, bytes],
    sealing: _Sealing | None,
) -> bool:
    """Whether a frame is signed, sealed and proven; one with a leaf is in the sum, and is added to it."""
    part = f"frames/{device}"
    with case.checking("frames", part, device):
        require(device in roster, "its device did not commit to one")
        frame = case.part(part) or b""
        admission.check_frame(frame, roster[device], case.terms)
        if sealing is not None:
            check_body(frame, case.policy.sealing, sealing.parameters, sealing.context)
        if device in leaves:
            path = merkle.proof(list(leaves.values()), leaves[device])
            proven = merkle.verify(case.record.updates_root, leaves[device], path)
            require(proven, "its proof does not lead to the root on chain")
            if sealing is not None:
                sealing.summer.add(frame[HEADER_BYTES:], included[device].level)
        return True
    return False


def _check_kept_sum(case: RoundCase) -> None:
    digest, stored = case.record.sum_digest, case.part("sum")
    if stored is None:
        case.missing("sum", "its bytes were not compared with the digest on chain")
        return
    with case.checking("sums", "sum"):
        require(digest in (NO_DIGEST, sha256(stored)), "is not the sum whose digest is on chain")
