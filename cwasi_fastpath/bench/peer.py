"""One of two processes that exchange messages: does what its parent says, in a fresh child for each task.

    python -m cwasi_fastpath.bench.peer FD DIRECTORY

FD: a SOCK_SEQPACKET socket. A task comes as JSON with the descriptor of a meeting place; the answer is JSON too. The
child is forked before anything has threads, works where the task wants it, and ends when the parent hangs up.
DIRECTORY: for what lines leave on disk; it is removed at the end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from itertools import pairwise
from typing import Any

from .case import P50, P99
from .cores import run_on
from .line import Line, clean_up, line_module, open_line, receive_all, send_all
from .stats import quantile_of
from .task import Task

MESSAGE_BYTES = 1 << 16
_WARMING = 16
_WARMING_BYTES = 4 << 20


def main(descriptor: int, directory: str) -> None:
    """Serves until the parent hangs up, and cleans up: the parent may be dead."""
    with ExitStack() as stack:
        stack.callback(clean_up, directory)
        parent = stack.enter_context(socket.socket(fileno=descriptor))
        stack.enter_context(suppress(ConnectionError))
        while True:
            data, fds, _, _ = socket.recv_fds(parent, MESSAGE_BYTES, 1)
            if not data:
                return
            with socket.socket(fileno=fds[0]) as meeting:
                task = Task.from_json(data)
                parent.send(json.dumps(_answer(task, meeting, parent)).encode())


def _answer(task: Task, meeting: socket.socket, parent: socket.socket) -> dict[str, Any]:
    try:
        line_module(task.path)   # here, so that the children find it imported
    except Exception as error:
        return {"error": str(error)}
    answers, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _run(task, meeting, theirs)
    os.close(theirs)
    meeting.close()
    with os.fdopen(answers, "rb") as file:
        status = _wait(child, parent)
        answer: dict[str, Any] = json.loads(file.read() or "{}")
    return answer if status == 0 else {"error": f"its process ended with status {status}"}


def _wait(child: int, parent: socket.socket) -> int:
    """The exit status of the child, which ends when the parent hangs up."""
    ended = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(parent, 0)   # a hang-up is always told
        if all(descriptor != ended for descriptor, _ in poll.poll()):
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(ended)


def _run(task: Task, meeting: socket.socket, answers: int) -> None:
    """The child: never returns."""
    status = 1
    try:
        answer = run_on(task.core, lambda: _play(task, meeting))
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    try:
        os.write(answers, json.dumps(answer).encode())
        status = 0
    finally:
        os._exit(status)


# ---- roles ----


def _play(task: Task, meeting: socket.socket) -> dict[str, Any]:
    with open_line(task, meeting) as line:
        return _ROLES[task.role](task, line)


def _warming(task: Task) -> int:
    return min(_WARMING, _WARMING_BYTES // task.size)


def _ping(task: Task, line: Line) -> dict[str, Any]:
    payload, send, receive, clock = task.payload, line.send, line.receive, time.perf_counter_ns
    for _ in range(_warming(task)):
        send(payload)
        receive()
    times = [clock()]
    for _ in range(task.count):
        send(payload)
        receive()
        times.append(clock())
    ways = sorted((after - before) / 2 for before, after in pairwise(times))
    return {"seconds": (times[-1] - times[0]) / 1e9, P50: quantile_of(ways, 0.5), P99: quantile_of(ways, 0.99)}


def _pong(task: Task, line: Line) -> dict[str, Any]:
    payload, send, receive = task.payload, line.send, line.receive
    for _ in range(_warming(task) + task.count):
        receive()
        send(payload)
    return {}


def _source(task: Task, line: Line) -> dict[str, Any]:
    """Until the receiver says that it has them all."""
    payload = task.payload
    line.send(payload)
    line.receive()
    start = time.perf_counter_ns()
    send_all(line, payload, task.count)
    line.receive()
    return {"seconds": (time.perf_counter_ns() - start) / 1e9}


def _sink(task: Task, line: Line) -> dict[str, Any]:
    payload = task.payload
    line.receive()
    line.send(payload)
    receive_all(line, task.count)
    line.send(payload)
    return {}


_ROLES = {"ping": _ping, "pong": _pong, "source": _source, "sink": _sink}

if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
