"""What no function did is told by control group too: in real groups, which are made for the test and removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tracing import HOST, attached, calls, traced

from cwasi_fastpath.cgroups import path_in
from cwasi_fastpath.trace_report import Process, TraceReport

TRACE = [sys.executable, "-m", "cwasi_fastpath.cli.trace"]
ENTERS = 1   # a process writes once to go to a group
MakeGroup = Callable[[str], Path]
DD = "exec dd if=/dev/zero of=/dev/null bs=1 status=none count="


def mounts(kind: str) -> list[Path]:
    """Where hierarchies of groups are."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [Path(line.split()[4]) for line in lines if line.partition(" - ")[2].startswith(kind + " ")]


def made(where: list[Path], kind: str) -> Iterator[MakeGroup]:
    """Makes groups of one hierarchy, and removes them. Skips where there is none, or we may not."""
    if not where:
        pytest.skip(f"no {kind} is mounted here")
    with attached():
        pass   # or it is skipped
    groups: list[Path] = []

    def make(name: str) -> Path:
        group = where[0] / f"cwasi-test-{os.getpid()}-{name}"
        try:
            group.mkdir()
        except OSError as error:
            pytest.skip(f"cannot make a control group here: {error}")
        groups.append(group)
        return group

    yield make
    for group in groups:
        remove(group)


def remove(group: Path) -> None:
    """Who was in it has ended, but the kernel may not have taken note yet."""
    deadline = time.monotonic() + 60
    while group.exists():
        try:
            group.rmdir()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def group() -> Iterator[MakeGroup]:
    yield from made(mounts("cgroup2"), "cgroup v2")


@pytest.fixture
def old_group() -> Iterator[MakeGroup]:
    """Of v1, in a hierarchy in which a group needs no settings."""
    yield from made([path for path in mounts("cgroup") if path.name in ("pids", "freezer", "memory")], "cgroup v1")


def inside(group: Path, command: str) -> list[str]:
    """What runs a command in a group, as a container's runtime does: it goes there, then executes it."""
    return ["sh", "-c", 'echo $$ > "$1" && ' + command, "sh", str(group / "cgroup.procs")]


def writes(report: TraceReport, comm: str) -> Counter[str | None]:
    """By group, of the processes of that name."""
    counted: Counter[str | None] = Counter()
    for row in report.rows:
        if row.syscall == "write" and isinstance(row.owner, Process) and row.owner.comm == comm:
            counted[row.owner.cgroup] += row.count
    return counted


def test_processes_that_have_ended_are_told_by_group(group: MakeGroup) -> None:
    """The kernel says it of each, however short it lived."""
    few, many = group("few"), group("many")
    with attached() as tracer:
        before = tracer.snapshot()
        for where, times in ((few, 7), (many, 1009), (few, 23)):
            assert tracer.spawn(inside(where, f"{DD}{times}")).wait() == 0
        counted = writes(tracer.snapshot().since(before), "dd")
    assert counted == {f"/{few.name}": 30 + 2 * ENTERS, f"/{many.name}": 1009 + ENTERS}


def test_functions_are_functions_wherever_they_run(group: MakeGroup) -> None:
    body = HOST + 'enter(ask({"function": "contained"})["id"]); write(1009); enter(0); write(23)'
    where = group("host")
    with attached() as tracer:
        report = traced(tracer, [*inside(where, 'exec "$2" -c "$3"'), sys.executable, body])
    assert calls(report, "contained") == (1009, 1009)
    others = [row for row in report.rows if isinstance(row.owner, Process) and row.syscall == "write"]
    assert {(row.owner.cgroup, row.count) for row in others} == {(f"/{where.name}", 23 + ENTERS)}


def test_the_command_has_a_row_for_each_group(group: MakeGroup) -> None:
    few, many = group("few"), group("many")
    turns = ((few, 7), (many, 1009), (few, 23))
    script = " ".join(f"sh -c 'echo $$ > {where}/cgroup.procs && {DD}{times}';" for where, times in turns)
    done = run("--by", "cgroup", "--json", "--", "sh", "-c", script)
    rows = [row for row in json.loads(done)["rows"] if row["syscall"] == "write" and "cgroup" in row]
    counted = {row["cgroup"]: row["count"] for row in rows}
    assert len(counted) == len(rows) and all(row["process"] is None and row["function"] is None for row in rows)
    assert (counted[f"/{few.name}"], counted[f"/{many.name}"]) == (30 + 2 * ENTERS, 1009 + ENTERS)
    lines = [text.split() for text in run("--by", "cgroup", "--", "sh", "-c", script).splitlines()]
    assert sum(cells[0] == f"[~{few.name[-17:]}]" for cells in lines if cells) == 2, "calls and switches"


def run(*arguments: str) -> str:
    done = subprocess.run([*TRACE, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_group_that_is_gone_is_not_guessed(group: MakeGroup) -> None:
    gone = group("gone")
    with attached() as tracer:
        before = tracer.snapshot()
        assert tracer.spawn(inside(gone, f"{DD}101")).wait() == 0
        remove(gone)
        assert writes(tracer.snapshot().since(before), "dd") == {None: 101 + ENTERS}


def test_groups_of_v1_are_told_of_who_lives_when_it_is_looked_at(old_group: MakeGroup) -> None:
    where = old_group("old")
    with attached() as tracer:
        before = tracer.snapshot()
        command = inside(where, "exec cat")
        with tracer.spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("hello\n")
            process.stdin.flush()
            assert process.stdout.readline() == "hello\n"
            expected = Counter[str | None]({f"/{where.name}": 1 + ENTERS})
            assert writes(tracer.snapshot().since(before), "cat") == expected
        assert writes(tracer.snapshot().since(before), "cat") == expected, "it is remembered"


SAMPLES: dict[str, Any] = {
    "0::/system.slice/docker-ab.scope\n": "/system.slice/docker-ab.scope",
    "0::/\n": "/",
    "12:pids:/docker/ab\n1:name=systemd:/docker/ab\n0::/\n": "/docker/ab",
    "12:pids:/\n2:cpu,cpuacct:/long/one\n0::/short\n": "/short",
    "3:pids:/a:b\n0::/\n": "/a:b",
    "0::/\x1b[31mred\n": "/?[31mred",
    "": None,
    "nonsense\n": None,
}


@pytest.mark.parametrize("text", SAMPLES)
def test_what_proc_says(text: str) -> None:
    assert path_in(text.encode()) == SAMPLES[text]
