"""The private redis-server: only ours, and gone when we are gone."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import redis
from channels import HANG, eventually, is_gone

from cwasi_fastpath import RedisUnavailable
from cwasi_fastpath.redis_server import RedisServer


def test_it_answers_and_ends() -> None:
    with RedisServer() as server:
        pid, path = server.pid, Path(server.url.removeprefix("unix://"))
        with redis.Redis.from_url(server.url) as client:
            assert client.set("a", "1") and client.get("a") == b"1"
            config = client.config_get("*")
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert (config["port"], config["save"], config["appendonly"]) == ("0", "", "no")
        assert psutil.Process(pid).net_connections("inet") == [], "nobody else can reach it"
    assert is_gone(pid) and not path.parent.exists()
    server.close()
    with pytest.raises(RedisUnavailable, match="closed"):
        _ = server.pid


def test_two_at_once() -> None:
    with RedisServer() as one, RedisServer() as other:
        assert one.url != other.url and one.pid != other.pid


def test_ctrl_c_is_not_for_it() -> None:
    with RedisServer() as server:
        assert os.getpgid(server.pid) != os.getpgrp()


def test_a_long_message_fits() -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        assert int(client.config_get("proto-max-bulk-len")["proto-max-bulk-len"]) >= 1 << 30


def test_it_dies_with_its_maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even by SIGKILL, when nobody is left to end it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))   # where nobody else tidies up
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "import os, time\nfrom cwasi_fastpath.redis_server import RedisServer\n"
        "server = RedisServer()\nprint(server.pid, server.url, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        pid, url = maker.stdout.readline().split()
        assert psutil.pid_exists(int(pid))
        maker.send_signal(signal.SIGKILL)
    eventually(lambda: is_gone(int(pid)))
    directory = Path(url.removeprefix("unix://")).parent   # what SIGKILL leaves: an empty socket's directory
    assert directory.is_dir()
    os.utime(directory, (0, 0))
    with RedisServer():
        assert not directory.exists(), "the next one tidies up"


def test_only_what_nobody_uses_is_tidied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "cwasi-redis-link").symlink_to("/")
    left, fresh, other = (tmp_path / name for name in ("cwasi-redis-left", "cwasi-redis-fresh", "another"))
    for directory in (left, fresh, other):
        directory.mkdir()
    with RedisServer() as used:
        directory = Path(used.url.removeprefix("unix://")).parent
        for old in (left, other, directory):
            os.utime(old, (0, 0))
        with RedisServer(), redis.Redis.from_url(used.url) as client:
            assert client.ping()
            assert not left.exists() and fresh.exists() and other.exists() and directory.exists()


def test_no_server_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RedisUnavailable, match=r"not installed.*apt install redis-server") as caught:
        RedisServer()
    assert caught.value.exit_code == 69


@pytest.mark.parametrize(
    ("script", "patience", "reason"),
    [
        ("echo it hurts; exit 3", HANG, r"ended at once \(status 3\): it hurts"),
        ("exit 1", HANG, "it left no message"),
        ("printf 'first\\n\\033[31mlast\\007\\n'; exit 1", HANG, r"\[31mlast$"),
        ("exec sleep 60", 0.5, "does not answer after"),
    ],
)
def test_a_server_that_does_not_serve(
    script: str, patience: float, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "redis-server"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RedisUnavailable, match=reason) as caught:
        RedisServer(timeout=patience)
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == [fake], "nothing is left"


def test_a_program_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "redis-server"
    fake.write_bytes(b"\x7fELF nonsense")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))   # no setpriv either
    with pytest.raises(RedisUnavailable, match="cannot be started: Exec format error"):
        RedisServer()


@pytest.mark.parametrize(("place", "reason"), [("x" * 100, "too long for a socket"), ("missing", "set TMPDIR")])
def test_a_directory_that_cannot_be_used(
    place: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if place != "missing":
        (tmp_path / place).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / place))
    with pytest.raises(RedisUnavailable, match=f"(?i){reason}"):
        RedisServer()
    assert place == "missing" or list((tmp_path / place).iterdir()) == []
