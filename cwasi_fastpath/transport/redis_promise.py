"""What a server promises about the messages that it has taken: read from its settings."""

from __future__ import annotations

from dataclasses import dataclass

from .redis_stream import Stream


@dataclass(frozen=True, slots=True)
class Promise:
    """Whether a message that was stored is still there after the server was killed and started again."""

    sure: bool
    text: str


def promise(stream: Stream) -> Promise:
    """Of the server that has the stream. Raises what redis-py raises."""
    memory = stream.info("memory")
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory") and policy != "noeviction":
        return Promise(False, f"may throw the stream away when its memory is full (maxmemory-policy {policy})")
    if not stream.info("persistence").get("aof_enabled"):
        return Promise(False, "loses in a restart what came after its last snapshot, if it makes any (appendonly no)")
    fsync = stream.setting("appendfsync")
    if fsync is None:
        return Promise(False, "keeps a log, but does not tell when it is on the disk (CONFIG GET is refused)")
    if fsync != "always":
        what = "the last two seconds" if fsync == "everysec" else "what the system has not written yet"
        return Promise(False, f"may lose {what} where the machine fails (appendfsync {fsync})")
    if stream.setting("no-appendfsync-on-rewrite") == "yes":
        return Promise(False, "is sure except while it rewrites its log (no-appendfsync-on-rewrite yes)")
    return Promise(True, "has every message on the disk before it counts as stored (appendfsync always)")
