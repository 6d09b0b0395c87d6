"""The tables of system calls are right for each architecture."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from cwasi_fastpath.probes.syscall_names import MOVES_BYTES, syscall_name


def test_names_of_system_calls() -> None:
    assert [syscall_name(nr, "x86_64") for nr in (0, 1, 334, 424, 449)] == [
        *("read", "write", "rseq", "pidfd_send_signal", "futex_waitv")
    ]
    assert [syscall_name(nr, "aarch64") for nr in (63, 64, 260, 291, 449)] == [
        *("read", "write", "wait4", "statx", "futex_waitv")
    ]
    assert syscall_name(9999, "x86_64") == "syscall_9999"
    assert syscall_name(1, "vax") == "syscall_1"


def test_the_table_agrees_with_the_headers_of_this_machine() -> None:
    headers = sorted(Path("/usr/include").glob("*/asm/unistd_64.h"))
    if platform.machine() != "x86_64" or not headers:
        pytest.skip("no unistd_64.h here (apt install linux-libc-dev)")
    defined = re.findall(r"#define __NR_(\w+) (\d+)", headers[0].read_text())
    assert len(defined) > 300
    assert {name: syscall_name(int(number)) for name, number in defined} == {name: name for name, _ in defined}


def test_every_call_that_moves_bytes_exists() -> None:
    for machine in ("x86_64", "aarch64"):
        assert {syscall_name(number, machine) for number in range(500)} >= MOVES_BYTES
