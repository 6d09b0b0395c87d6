"""How both ends of a TCP connection prove that they know the channel's key, which never crosses the network.

    receiver -> sender   hello    magic, a nonce
    sender -> receiver   answer   a nonce, the mark of its node, HMAC of all that and the hello
    receiver -> sender   proof    the mark of its node, HMAC of all before

Each message has a fixed length, so that nobody reads into what follows. The marks are equal where both ends are on one
node and so have one clock; to others, and from one connection to the next, they say nothing. Who only listens learns
nothing; who stands between can take a connection over once it is made: against that there is TLS.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from functools import cache
from pathlib import Path

KEY_BYTES = 32

_MAGIC = b"cwasi-1\n"
_NONCE, _MARK, _MAC = 32, 16, 32
HELLO_BYTES = len(_MAGIC) + _NONCE
ANSWER_BYTES = _NONCE + _MARK + _MAC
PROOF_BYTES = _MARK + _MAC


def hello() -> bytes:
    """What a receiver greets anybody with."""
    return _MAGIC + secrets.token_bytes(_NONCE)


def answer(key: bytes, hello: bytes) -> bytes | None:
    """What a sender answers; None to what is no hello."""
    if len(hello) != HELLO_BYTES or not hello.startswith(_MAGIC):
        return None
    body = secrets.token_bytes(_NONCE) + _mark(key, hello)
    return body + _mac(key, b"sender", hello, body)


def proof(key: bytes, hello: bytes, answer: bytes) -> tuple[bytes, bool] | None:
    """The last message, and whether the sender is on this node; None if it does not know the key."""
    body, mac = answer[:-_MAC], answer[-_MAC:]
    if len(answer) != ANSWER_BYTES or not hmac.compare_digest(mac, _mac(key, b"sender", hello, body)):
        return None
    mark = _mark(key, hello)
    return mark + _mac(key, b"receiver", hello, answer + mark), hmac.compare_digest(mark, body[_NONCE:])


def proven(key: bytes, hello: bytes, answer: bytes, proof: bytes) -> bool:
    """Whether the receiver knows the key."""
    mark, mac = proof[:_MARK], proof[_MARK:]
    return hmac.compare_digest(mac, _mac(key, b"receiver", hello, answer + mark))


def _mac(key: bytes, who: bytes, hello: bytes, body: bytes) -> bytes:
    return hmac.new(key, who + hello + body, hashlib.sha256).digest()


def _mark(key: bytes, hello: bytes) -> bytes:
    return _mac(key, b"node", hello, _boot_id())[:_MARK]


@cache
def _boot_id() -> bytes:
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
