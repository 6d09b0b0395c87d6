"""What cwasi-trace tells Prometheus, read by Prometheus' own parser."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from test_cli_trace import TWO_FUNCTIONS
from test_cli_trace_running import SECONDS, TRACE, Trace, Worker, tracing, worker

from cwasi_fastpath.cli.trace_openmetrics import CONTENT_TYPE, openmetrics
from cwasi_fastpath.trace_report import ClassRow, EndUse, NetworkRow, Process, SchedulingRow, TraceReport
from cwasi_fastpath.tracer import requirements

__all__ = ["worker"]


@pytest.fixture
def needs_tracing() -> Iterator[None]:
    lacking = [f"{check.name}: {check.found}" for check in requirements() if check.status == "fail"]
    if lacking:
        pytest.skip(f"cannot trace here: {'; '.join(lacking)}")
    yield


def parsed(text: str) -> dict[str, Metric]:
    return {metric.name: metric for metric in text_string_to_metric_families(text)}


def value(metrics: dict[str, Metric], family: str, suffix: str = "_total", **labels: str) -> float:
    found = [
        sample.value
        for sample in metrics[family].samples
        if sample.name == family + suffix and labels.items() <= sample.labels.items()
    ]
    assert found, (family, labels)
    return sum(found)


HOSTILE = Process(1 << 33, 2, 'q"uo\\te', 3)
REPORT = TraceReport(
    rows=(),
    classes=(
        ClassRow("resize", "io", 23, 1009, 46, (0, 1, 2, *[0] * 28, 20), 5, 7),
        ClassRow(HOSTILE, "wait", 2, 3, 0, (2, *[0] * 31)),
    ),
    scheduling=(SchedulingRow("resize", 3, 5, 0, 2_000_000_000, 7, 11, 13, (11, *[0] * 31)),),
    network=(NetworkRow("resize", "tcp", 1, 2, 3, 4, 5_000_000_000, 7, 8, 2, 3_000_000, 10),),
    uses=(),
    ends=(
        EndUse(
            *("resize", "7", "frames", ("blur",), "sends", "ring", "local"),
            **{"calls": 2, "calls_ns": 3_000_000_000, "waited_ns": 2_000_000_000, "copying_ns": 5, "messages": 23},
            **{"bytes": 1009, "copied_bytes": 3, "waits": 2, "parks": 11, "wakes": 1, "timed": 0, "timed_ns": 0},
        ),
    ),
    missed_ends=0,
    missing=(),
    lost=1,
    lost_times=2,
    lost_switches=3,
    lost_traffic=4,
    lost_threads=5,
    seconds=1.0,
    ns_per_call=100.0,
    ns_per_switch=None,
    light=False,
    tracer_cpu_seconds=0.5,
    tracer_bytes=4096,
)


def test_the_parser_takes_it_and_finds_every_figure() -> None:
    metrics = parsed(openmetrics(REPORT))
    assert value(metrics, "cwasi_syscalls", function="resize", **{"class": "io"}) == 23
    assert value(metrics, "cwasi_syscalls", process='q"uo\\te', pid="2", tid="3") == 2
    assert value(metrics, "cwasi_syscall_failures", function="resize") == 5
    assert value(metrics, "cwasi_syscall_bytes", function="resize") == 46
    assert value(metrics, "cwasi_syscall_seconds", "_count", function="resize") == 23
    assert value(metrics, "cwasi_syscall_seconds", "_sum", function="resize") == 1009e-9
    assert value(metrics, "cwasi_syscall_seconds", "_bucket", function="resize", le="4e-09") == 1
    assert value(metrics, "cwasi_syscall_seconds", "_bucket", function="resize", le="1.6e-08") == 3
    assert value(metrics, "cwasi_syscall_seconds", "_bucket", function="resize", le="+Inf") == 23
    assert value(metrics, "cwasi_switches", kind="voluntary") == 3
    assert value(metrics, "cwasi_off_cpu_seconds") == 2
    assert value(metrics, "cwasi_wakeup_seconds", "_count") == 11
    assert value(metrics, "cwasi_network_sent_bytes", kind="tcp") == 2
    assert value(metrics, "cwasi_network_blocked_seconds") == 5
    assert value(metrics, "cwasi_network_srtt_seconds", "_sum") == 3
    assert value(metrics, "cwasi_network_srtt_seconds", "_count") == 2
    assert value(metrics, "cwasi_channel_messages", channel="frames", function="resize", direction="sends") == 23
    assert value(metrics, "cwasi_channel_wait_seconds", channel="frames", transport="ring") == 2
    assert value(metrics, "cwasi_channel_sleeps", end="7") == 11
    assert value(metrics, "cwasi_tracer_lost", what="threads") == 5
    assert value(metrics, "cwasi_tracer_event_seconds", "", event="syscall") == pytest.approx(1e-7)
    assert value(metrics, "cwasi_tracer_resident_bytes", "") == 4096


def get(url: str, path: str = "/metrics", method: str = "GET") -> tuple[http.client.HTTPResponse, str]:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=SECONDS)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


def url_of(trace: Trace) -> str:
    return next(line.split()[1] for line in trace.said if line.startswith("Metrics: "))


@pytest.mark.usefixtures("needs_tracing")
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_over_http(worker: Worker, host: str) -> None:
    if ":" in host and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6")
    with tracing("--json", "--openmetrics", f"{host}:0", "-i", "0.1", "-p", str(worker.pid)) as trace:
        url = url_of(trace)
        assert url.startswith(f"http://{host}:")
        response, text = get(url)
        assert response.status == 200 and response.getheader("Content-Type") == CONTENT_TYPE
        before = parsed(text)
        worker.does("write(1009)")
        while value(metrics := parsed(get(url)[1]), "cwasi_tracer_cpu_seconds") == 0 or not any(
            sample.labels.get("class") == "io" and sample.value >= 1009 for sample in metrics["cwasi_syscalls"].samples
        ):
            trace.line()
        assert value(metrics, "cwasi_syscall_bytes", pid=str(worker.pid), **{"class": "io"}) >= 2 * 1009
        assert metrics.keys() == before.keys()
        assert get(url, "/other")[0].status == 404 and get(url, method="POST")[0].status == 501
        trace.stops()
    with pytest.raises(ConnectionRefusedError):
        get(url)


@pytest.mark.usefixtures("needs_tracing")
def test_a_client_that_says_nothing_holds_up_nobody(worker: Worker) -> None:
    with tracing("--json", "--openmetrics", "0", "-i", "0.1", "-p", str(worker.pid)) as trace:
        url = url_of(trace)
        where = urlsplit(url)
        with socket.create_connection((str(where.hostname), where.port)) as silent:
            parsed(get(url)[1])
            silent.sendall(b"\xff\x00\r\n\r\n")
            parsed(get(url)[1])
            trace.stops()
        assert not "".join(trace.said).count("Traceback")


@pytest.mark.usefixtures("needs_tracing")
def test_many_clients_that_say_nothing_cost_few_threads(worker: Worker) -> None:
    with tracing("--json", "--openmetrics", "0", "-i", "0.1", "-p", str(worker.pid)) as trace:
        where = urlsplit(url_of(trace))
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection((str(where.hostname), where.port), SECONDS))
            threads = len(list(Path(f"/proc/{trace.process.pid}/task").iterdir()))
            assert threads <= 16 + 10
        response = None
        while response is None:   # until the last of them has been noticed
            with contextlib.suppress(http.client.HTTPException, ConnectionError):
                response, text = get(trace.said[0].split()[1])
        assert parsed(text)
        trace.stops()


@pytest.mark.usefixtures("needs_tracing")
def test_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cwasi.prom"
    done = subprocess.run(
        [*TRACE, "--json", "--openmetrics", str(path), "--", sys.executable, "-c", TWO_FUNCTIONS],
        capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = parsed(path.read_text())
    assert value(metrics, "cwasi_syscall_bytes", function="detect", **{"class": "io"}) == 1009
    classes = {(row["function"], row["class"]): row["count"] for row in json.loads(done.stdout)["classes"]}
    assert value(metrics, "cwasi_syscalls", function="resize", **{"class": "io"}) == classes["resize", "io"] == 23
    assert [entry.name for entry in tmp_path.iterdir()] == ["cwasi.prom"], "nothing else is left"
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.usefixtures("needs_tracing")
def test_a_file_that_cannot_be_written_later(tmp_path: Path, worker: Worker) -> None:
    directory = tmp_path / "there"
    directory.mkdir()
    # Not so often that the lines that nobody reads fill a pipe before the directory is gone.
    argv = [*TRACE, "--json", "--openmetrics", str(directory / "it"), "-i", "0.5", "-p", str(worker.pid)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        trace = Trace(process)
        trace.until_said("Ctrl-C to quit")
        directory.rename(tmp_path / "gone")
        trace.until_said("what is in it is old")
        trace.line()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 74


@pytest.mark.usefixtures("needs_tracing")
def test_what_cannot_be_an_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wheres = {"10.0.0.1:80": 2, "0.0.0.0:80": 2, "moon": 2, "99999": 2, "1.2.3": 2, "": 2}
        wheres |= {str(taken.getsockname()[1]): 74, str(tmp_path / "no" / "it"): 74}
        for where, status in wheres.items():
            done = subprocess.run(
                [*TRACE, f"--openmetrics={where}", "touch", str(tmp_path / "ran")],
                capture_output=True, text=True, timeout=SECONDS,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (status, ""), (where, done.stderr)
            assert done.stderr.startswith("cwasi-trace: ")
    assert not list(tmp_path.iterdir())
