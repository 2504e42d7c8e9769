"""What was written comes out whole, however small the pieces are that are asked for."""

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.adapters.read_ahead import READ_AHEAD_BYTES, ReadAhead


@contextlib.contextmanager
def pair() -> Iterator[tuple[ReadAhead, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ReadAhead(ours), theirs


@given(st.binary(min_size=1, max_size=300), st.integers(1, 40))
def test_small_reads_give_every_byte_in_order(data: bytes, size: int) -> None:
    with pair() as (reader, theirs):
        theirs.sendall(data)
        found = reader.recv(size)
        while reader.pending():
            found += reader.recv(size)
        assert found == data


def test_what_is_ahead_is_pending_and_nothing_else_is() -> None:
    with pair() as (reader, theirs):
        theirs.sendall(b"abcd")
        assert reader.pending() == 0
        assert reader.recv(1) == b"a"
        assert reader.pending() == 3
        assert reader.recv(READ_AHEAD_BYTES) == b"bcd"
        assert reader.pending() == 0


def test_nothing_there_raises_as_the_socket_does() -> None:
    with pair() as (reader, _), pytest.raises(BlockingIOError):
        reader.recv(1)


def test_the_end_comes_after_what_was_ahead() -> None:
    with pair() as (reader, theirs):
        theirs.sendall(b"ab")
        theirs.shutdown(socket.SHUT_WR)
        assert [reader.recv(1) for _ in range(3)] == [b"a", b"b", b""]


def test_what_is_sent_goes_through() -> None:
    with pair() as (reader, theirs):
        assert reader.send(b"ping") == 4
        assert theirs.recv(10) == b"ping"
