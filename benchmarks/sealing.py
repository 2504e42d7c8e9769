"""What sealing costs, beside NVFlare's defaults and plain numpy: `python -m benchmarks.sealing --json`.

One JSON object: a row for each scheme, model size and number of contributors; the memory of a summer; the figures
that sealing is held to, each with what was measured and whether it holds; with `--accuracy` what rounding costs a
model. In full about ten minutes on one core. `--sizes 50000x10 --skip-memory` takes seconds.

Everything is measured in one process, in turn, on the same updates. Times are medians; a ratio within one run says
more than a time. Bytes count all that travels for one agent and round: the signed header, the sealed body, whatever
goes to custodians, and the round's public context, which each agent fetches.

NVFlare's row is its defaults, played with TenSEAL as its CKKS builder does: `ckks_vector`, degree 8192, moduli
[60, 40, 40], scale 2^40, symmetric, weights applied by the client, the whole context with every update. It gets one
flat vector; NVFlare itself makes one ciphertext of each tensor and pays more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import tenseal as ts

from benchmarks.digits import accuracy
from gemel.errors import ConfigError
from gemel.sealing.frames import OpenedSum
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.letters import KeyTotal, members_digest, parts_of, read_letter, sign_letter
from gemel.sealing.onetime.opener import OneTimeOpener
from gemel.sealing.onetime.plan import RING_DEGREE
from gemel.sealing.onetime.sealer import OneTimeSealer
from gemel.sealing.onetime.summer import OneTimeSummer
from gemel.sealing.opener import Opener
from gemel.sealing.packing import Integers, quantise
from gemel.sealing.ports import Member, SummerPort
from gemel.sealing.schemes import sealer_of, summer_of
from gemel.sealing.sealer import Sealer
from gemel.sealing.summer import Summer
from gemel.wire.boxes import box_key
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.identity import Identity
from gemel.wire.messages import SealingPolicy
from gemel.wire.tensors import Vector
from gemel.wire.types import NO_ADDRESS, NO_DIGEST, sha256

CLIP = 0.1
CAP = 1000
DEFAULT_SIZES = ("500000x10", "50000x10", "5000000x10", "500000x2", "500000x100", "50000x1000")
PLAIN_SAMPLES = 9  # numpy is quick: enough repetitions for a median
NVFLARE_SAMPLES = 3  # seconds each
MEMORY_PARAMETERS = 500_000

T = TypeVar("T")


class Size(NamedTuple):
    """How large the model, how many the agents."""

    parameters: int
    contributors: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """From `500000x10`."""
        parameters, _, contributors = text.partition("x")
        return cls(int(parameters), int(contributors))


def timed(action: Callable[[], T], times_ms: list[float]) -> T:
    """Run `action`, and note how long it took."""
    began = time.perf_counter()
    result = action()
    times_ms.append(1000 * (time.perf_counter() - began))
    return result


def update_of(agent: int, parameters: int) -> Vector:
    """One agent's update: the same in every scheme."""
    return (np.random.default_rng(agent).standard_normal(parameters) * 0.02).astype(np.float32)


# --- schemes ------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """What one agent hands over."""

    body: bytes
    beside_bytes: int  # what travels beside the body


class Scheme(Protocol):
    """One round of one scheme."""

    name: str
    bits: int
    fetched_bytes: int  # by each agent, once a round

    def seal(self, agent: int, update: Vector) -> Sent:
        """What an agent does."""
        ...

    def expected(self, update: Vector) -> Integers | Vector:
        """What this update should add to the sum."""
        ...

    def add(self, sent: Sent) -> None:
        """What the coordinator does with one update, checks included."""
        ...

    def open(self, contributors: int) -> Integers | Vector:
        """Close the sum and open it, as whoever may."""
        ...


class Packed:
    """The default: BFV, several integers in a slot."""

    name = "bfv-packed"

    def __init__(self, size: Size, bits: int) -> None:
        self.bits = bits
        self._size = size
        self._policy = SealingPolicy("bfv-packed", bits, CLIP, size.contributors, CAP)
        self._opener = Opener.create(self._policy, size.parameters)
        context = self._opener.public_context()
        self.fetched_bytes = len(context)
        self._sealer = Sealer(context, self._policy, size.parameters)
        self._summer = Summer(context, self._policy, size.parameters)
        self._zeros = np.zeros(size.parameters, np.float32)

    def seal(self, agent: int, update: Vector) -> Sent:  # noqa: ARG002  only one-time keys ask who seals
        """See Scheme."""
        return Sent(self._sealer.seal(update, CAP, self._zeros).body, HEADER_BYTES)

    def expected(self, update: Vector) -> Integers:
        """See Scheme."""
        return quantise(update, self._zeros, clip=CLIP, bits=self.bits, share=1.0).values

    def add(self, sent: Sent) -> None:
        """See Scheme."""
        self._summer.add(sent.body)

    def open(self, contributors: int) -> Integers:
        """See Scheme."""
        opened = self._opener.open(self._summer.sum(), contributors)
        return OpenedSum.parse(opened, self._policy, self._size.parameters).sums


class OneTime:
    """One-time keys with shares to three custodians. Opening is two custodians' work on letters, and the sum's."""

    name = "one-time-keys"

    def __init__(self, size: Size, bits: int) -> None:
        """One round: agents and custodians are made as they are needed."""
        self.bits = bits
        self._size = size
        self._policy = SealingPolicy("one-time-keys", bits, CLIP, size.contributors, CAP)
        self._secrets = [bytes([number]) * 32 for number in (1, 2, 3)]
        self._facts = round_context(size.parameters, self._secrets)
        self._context = self._facts.pack()
        self.fetched_bytes = len(self._context)
        self._summer = OneTimeSummer(self._context, self._policy, size.parameters)
        self._zeros = np.zeros(size.parameters, np.float32)
        self._members: list[Member] = []
        self._letters: list[tuple[bytes, ...]] = []

    def seal(self, agent: int, update: Vector) -> Sent:
        """See Scheme. Signing the letters is part of it."""
        identity = Identity((agent + 1).to_bytes(32, "big"))
        sealer = OneTimeSealer(self._context, self._policy, self._size.parameters, identity.address)
        sealed = sealer.seal(update, CAP, self._zeros)
        letters = tuple(sign_letter(letter, identity, self._facts) for letter in sealed.letters)
        self._members.append(Member(identity.address, sha256(sealed.body)))
        self._letters.append(letters)
        return Sent(sealed.body, HEADER_BYTES + sum(map(len, letters)))

    def expected(self, update: Vector) -> Integers:
        """See Scheme."""
        return quantise(update, self._zeros, clip=CLIP, bits=self.bits, share=1.0).values

    def add(self, sent: Sent) -> None:
        """See Scheme."""
        self._summer.add(sent.body)

    def open(self, contributors: int) -> Integers:
        """See Scheme."""
        key_sum = OneTimeOpener.from_totals(self._context, self._policy, [self._total(0), self._total(1)])
        opened = key_sum.open(self._summer.sum(), contributors)
        return OpenedSum.parse(opened, self._policy, self._size.parameters).sums

    def _total(self, index: int) -> bytes:
        """What one custodian gives out. Two agents are below its minimum, so that row sums the shares itself."""
        shares = [read_letter(letters[index], self._facts, index, self._secrets[index]) for letters in self._letters]
        parts = {part: sum((share.parts[part] for share in shares), NO_PART) for part in parts_of(index, 3)}
        count, members = len(self._members), members_digest(self._members)
        return KeyTotal(index, 3, count, self._facts.digest, members, parts).pack()


NO_PART = np.zeros(RING_DEGREE, np.uint16)


def round_context(parameters: int, secrets: Sequence[bytes]) -> RoundContext:
    """A round's facts, with custodians who have these secrets."""
    keys = tuple(box_key(secret) for secret in secrets)
    return RoundContext(31337, "0x" + "ab" * 20, NO_DIGEST, 1, NO_DIGEST, NO_DIGEST, parameters, keys)


class NVFlare:
    """NVFlare's homomorphic defaults. Its context, secret key left out, travels with every update."""

    name = "nvflare-ckks"
    bits = 32

    def __init__(self) -> None:
        self._context = ts.context(
            ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40], encryption_type=SYMMETRIC
        )
        self._context.global_scale = 2.0**40
        public = self._context.serialize(save_secret_key=False)
        self._server = ts.context_from(public)
        self._beside = len(public)
        self._total: ts.CKKSVector | None = None
        self.fetched_bytes = 0

    def seal(self, agent: int, update: Vector) -> Sent:  # noqa: ARG002  as above
        """See Scheme."""
        body = ts.ckks_vector(self._context, update.astype(np.float64)).serialize()
        return Sent(bytes(body), self._beside)

    def expected(self, update: Vector) -> Vector:
        """See Scheme."""
        return update

    def add(self, sent: Sent) -> None:
        """See Scheme."""
        vector = ts.ckks_vector_from(self._server, sent.body)
        self._total = vector if self._total is None else self._total + vector

    def open(self, contributors: int) -> Vector:  # noqa: ARG002  CKKS keeps no count
        """See Scheme."""
        assert self._total is not None
        total = ts.ckks_vector_from(self._context, self._total.serialize())
        return np.array(total.decrypt(), np.float32)


SYMMETRIC = ts.ENCRYPTION_TYPE.SYMMETRIC


def measure(scheme: Scheme, size: Size, agents: int) -> dict[str, Any]:
    """One row. `agents` take part, each with an update of its own; nothing but the sum is kept."""
    seal_ms: list[float] = []
    add_ms: list[float] = []
    open_ms: list[float] = []
    due = np.zeros(size.parameters)  # integers below 2^53 are exact in it
    body_bytes = beside_bytes = 0
    for agent in range(agents):
        update = update_of(agent, size.parameters)
        sent = timed(partial(scheme.seal, agent, update), seal_ms)
        due = due + scheme.expected(update)
        timed(partial(scheme.add, sent), add_ms)
        body_bytes, beside_bytes = len(sent.body), sent.beside_bytes
    opened = timed(partial(scheme.open, agents), open_ms)
    error = float(np.abs(opened - due).max())
    every_byte = body_bytes + beside_bytes + scheme.fetched_bytes
    return {
        "scheme": scheme.name,
        "bits": scheme.bits,
        "parameters": size.parameters,
        "contributors": size.contributors,
        "body_bytes": body_bytes,
        "beside_bytes": beside_bytes,
        "fetched_bytes": scheme.fetched_bytes,
        "bytes_per_parameter": round(every_byte / size.parameters, 4),
        "seal_ms": round(statistics.median(seal_ms), 3),
        "add_ms": round(statistics.median(add_ms[1:] or add_ms), 3),  # the first add only stores
        "open_ms": round(open_ms[0], 3),
        "exact": error == 0.0,
        "max_error": error,
    }


def plain_row(size: Size) -> dict[str, Any]:
    """numpy's FedAvg in the open: multiply by the weight, add."""
    total = np.zeros(size.parameters, np.float32)
    scaled = np.empty_like(total)
    add_ms: list[float] = []

    def add(update: Vector) -> None:
        np.multiply(update, np.float32(0.37), out=scaled)
        np.add(total, scaled, out=total)

    for agent in range(PLAIN_SAMPLES + 1):
        update = update_of(agent, size.parameters)  # another one each time, as a coordinator gets them
        timed(partial(add, update), add_ms)
    return {
        "scheme": "numpy-fedavg",
        "bits": 32,
        "parameters": size.parameters,
        "contributors": size.contributors,
        "bytes_per_parameter": 4.0,
        "add_ms": round(statistics.median(add_ms[1:]), 4),
    }


def schemes(size: Size) -> Iterator[Callable[[], Scheme]]:
    """What is measured at a size, each made only when its turn comes."""
    for bits in (4, 8):
        yield partial(Packed, size, bits)
        yield partial(OneTime, size, bits)


def rows_of(size: Size) -> Iterator[dict[str, Any]]:
    """Every scheme at one size."""
    plain = plain_row(size)
    yield plain
    # NVFlare's costs do not depend on how many take part, and a sum of three is enough to time one more.
    row = measure(NVFlare(), size, min(NVFLARE_SAMPLES, size.contributors))
    yield row | {"add_times_numpy": round(row["add_ms"] / plain["add_ms"], 2)}
    for make in schemes(size):
        try:
            row = measure(make(), size, size.contributors)
        except ConfigError as error:
            yield {"parameters": size.parameters, "contributors": size.contributors, "refused": str(error)}
        else:
            yield row | {"add_times_numpy": round(row["add_ms"] / plain["add_ms"], 2)}


# --- memory -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spool:
    """A folder with one sealed body and the context it was sealed for."""

    folder: Path
    scheme: str
    bits: int

    @property
    def policy(self) -> SealingPolicy:
        """The largest round there can be, whoever takes part."""
        return SealingPolicy(self.scheme, self.bits, CLIP, 1000, CAP)  # type: ignore[arg-type]  # of our own making

    def summer(self) -> SummerPort:
        """A fresh summer for this round."""
        return summer_of((self.folder / "context").read_bytes(), self.policy, MEMORY_PARAMETERS)

    def fill(self) -> None:
        """Seal the one body."""
        if self.scheme == "one-time-keys":
            context = round_context(MEMORY_PARAMETERS, [bytes([1]) * 32]).pack()
        else:
            context = Opener.create(self.policy, MEMORY_PARAMETERS).public_context()
        (self.folder / "context").write_bytes(context)
        zeros = np.zeros(MEMORY_PARAMETERS, np.float32)
        sealer = sealer_of(context, self.policy, MEMORY_PARAMETERS, NO_ADDRESS)
        (self.folder / "body").write_bytes(sealer.seal(update_of(0, MEMORY_PARAMETERS), CAP, zeros).body)


def peak_after(spool: Spool, contributors: int) -> int:
    """Peak memory, in bytes, of this process after a summer has read and added so many bodies."""
    summer = spool.summer()
    for _ in range(contributors):
        summer.add((spool.folder / "body").read_bytes())
    summer.sum()
    status = Path("/proc/self/status").read_text()  # getrusage's peak would begin with the parent's
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def memory_row(scheme: str, bits: int) -> dict[str, Any]:
    """Peak memory of a coordinator's summer, 10 contributors against 1000, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        spool = Spool(Path(name), scheme, bits)
        spool.fill()
        few, many = (
            int(
                subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "benchmarks.sealing",
                        "--peak",
                        name,
                        scheme,
                        str(bits),
                        str(contributors),
                    ],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for contributors in (10, 1000)
        )
    return {
        "scheme": scheme,
        "bits": bits,
        "parameters": MEMORY_PARAMETERS,
        "peak_mb_10": round(few / 2**20, 1),
        "peak_mb_1000": round(many / 2**20, 1),
        "difference_mb": round((many - few) / 2**20, 1),
    }


# --- what is held ---------------------------------------------------------------------------------


def claims(rows: Sequence[dict[str, Any]], memory: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures that sealing is held to, as far as this run has measured them."""

    def found(scheme: str, bits: int) -> dict[str, Any] | None:
        size = {"scheme": scheme, "bits": bits, "parameters": 500_000, "contributors": 10}
        return next((row for row in rows if size.items() <= row.items()), None)

    def at_most(name: str, measured: float, limit: float) -> dict[str, Any]:
        return {"claim": name, "measured": round(measured, 3), "at_most": limit, "holds": measured <= limit}

    def at_least(name: str, measured: float, limit: float) -> dict[str, Any]:
        return {"claim": name, "measured": round(measured, 3), "at_least": limit, "holds": measured >= limit}

    result = []
    byte_limits = {
        ("bfv-packed", 4): 3.1,
        ("bfv-packed", 8): 5.1,
        ("one-time-keys", 4): 1.1,
        ("one-time-keys", 8): 1.7,
    }
    for (scheme, bits), limit in byte_limits.items():
        if row := found(scheme, bits):
            result.append(at_most(f"{scheme}, {bits} bits: bytes a parameter", row["bytes_per_parameter"], limit))
            if scheme == "one-time-keys":
                result.append(at_most(f"{scheme}, {bits} bits: add, times numpy", row["add_times_numpy"], 3))
    default, peer = found("bfv-packed", 4), found("nvflare-ckks", 32)
    if default and peer:
        for key, limit in (("bytes_per_parameter", 15), ("add_ms", 8), ("seal_ms", 3)):
            result.append(at_least(f"default against NVFlare: {key}, times less", peer[key] / default[key], limit))
    ours = [row for row in rows if row.get("scheme") in {"bfv-packed", "one-time-keys"}]
    if ours:
        result.append({"claim": "every sum exact", "measured": len(ours), "holds": all(row["exact"] for row in ours)})
    result.extend(
        at_most(f"{row['scheme']}, {row['bits']} bits: MB more with 1000 than with 10", row["difference_mb"], 64)
        for row in memory
    )
    return result


# --- the command ------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line, for programs; otherwise indented")
    parser.add_argument("--sizes", nargs="+", default=DEFAULT_SIZES, help="PARAMETERSxCONTRIBUTORS, some")
    parser.add_argument("--skip-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--accuracy", action="store_true", help="also train the digits task, rounded and not")
    parser.add_argument("--seeds", type=int, default=10, help="of the digits task")
    parser.add_argument("--bits", type=int, default=4, help="of the digits task")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)  # one process of the memory rows
    options = parser.parse_args(arguments)
    if options.peak:
        folder, scheme, bits, contributors = options.peak
        print(peak_after(Spool(Path(folder), scheme, int(bits)), int(contributors)))
        return
    began, out = time.perf_counter(), os.dup(1)
    os.dup2(2, 1)  # TenSEAL writes warnings to standard output, from C++
    rows = [row for size in options.sizes for row in rows_of(Size.parse(size))]
    memory = (
        []
        if options.skip_memory
        else [memory_row(scheme, bits) for scheme in ("bfv-packed", "one-time-keys") for bits in (4, 8)]
    )
    result: dict[str, Any] = {
        "benchmark": "sealing",
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
        "rows": rows,
        "memory": memory,
    }
    if options.accuracy:
        result["accuracy"] = accuracy(options.seeds, options.bits)
    result["claims"] = claims(rows, memory)
    if options.accuracy:
        held = result["accuracy"]["excludes_a_loss_of_one_point"]
        result["claims"].append({"claim": "digits: the interval excludes a loss of one point", "holds": held})
    result["seconds"] = round(time.perf_counter() - began, 1)
    with os.fdopen(out, "w") as stdout:
        print(json.dumps(result, indent=None if options.json else 2), file=stdout)


if __name__ == "__main__":
    main()
