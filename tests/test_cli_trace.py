"""cwasi-trace as a user runs it: its report, its exit status, its manners with signals and with those not allowed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tracing import HOST

from cwasi_fastpath.tracer import requirements

TRACE = [sys.executable, "-m", "cwasi_fastpath.cli.trace"]
TWO_FUNCTIONS = (
    HOST
    + """
for name, times in (("resize", 23), ("detect", 1009)):
    enter(ask({"function": name})["id"])
    write(times)
    enter(0)
"""
)


@pytest.fixture
def needs_tracing() -> None:
    lacking = [f"{check.name}: {check.found}" for check in requirements() if check.status == "fail"]
    if lacking:
        pytest.skip(f"cannot trace here: {'; '.join(lacking)}")


def run(*args: str, before: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, *TRACE, *args], env={**os.environ, **env}, capture_output=True, text=True, timeout=60
    )


def writes(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Calls of write by function, from a JSON report."""
    rows = json.loads(done.stdout)["rows"]
    return {row["function"]: row["count"] for row in rows if row["function"] and row["syscall"] == "write"}


@pytest.mark.usefixtures("needs_tracing")
class TestReport:
    def test_json(self) -> None:
        done = run("--json", "--", sys.executable, "-c", TWO_FUNCTIONS)
        report: dict[str, Any] = json.loads(done.stdout)
        assert writes(done) == {"resize": 23, "detect": 1009}
        assert (report["schema"], report["status"], report["lost"], report["lost_threads"]) == (4, 0, 0, 0)
        assert report["calls"] == sum(row["count"] for row in report["rows"])
        assert report["overhead"]["ns_per_call"] >= 0 and report["overhead"]["share"] >= 0
        assert report["tracer"]["cpu_seconds"] > 0 and report["tracer"]["memory_bytes"] > 1 << 20
        (process,) = {json.dumps(row["process"]) for row in report["rows"] if row["function"] is None}
        assert json.loads(process)["comm"].startswith("python")

    def test_json_by_class(self) -> None:
        done = run("--json", "--", sys.executable, "-c", TWO_FUNCTIONS)
        report: dict[str, Any] = json.loads(done.stdout)
        of_io = {row["function"]: row for row in report["classes"] if row["class"] == "io" and row["function"]}
        assert {name: (row["count"], row["bytes"]) for name, row in of_io.items()} == {
            "resize": (23, 23),
            "detect": (1009, 1009),
        }
        assert all(sum(row["histogram"]) == row["count"] for row in report["classes"])
        assert report["lost_times"] == 0

    def test_histograms(self) -> None:
        done = run("-L", "--by", "class", "--", sys.executable, "-c", TWO_FUNCTIONS)
        assert any(line.split()[:3] == ["detect", "io", "1009"] for line in done.stdout.splitlines()), done.stdout
        (_, after) = done.stdout.split("detect, io: time of a call\n")
        rows = [line for line in after.split("\n\n")[0].splitlines() if "|" in line]
        assert sum(int(row.split(":")[1].split("|")[0]) for row in rows) == 1009
        assert all(len(line) < 100 for line in done.stdout.splitlines())

    @pytest.mark.parametrize("by", ["function", "syscall"])
    def test_table(self, by: str) -> None:
        done = run("--by", by, "--", sys.executable, "-c", TWO_FUNCTIONS)
        lines = done.stdout.splitlines()
        assert all(len(line) < 100 for line in lines)
        assert any(line.startswith("detect ") and " 1009 " in line and "write" in line for line in lines)
        assert any(line.startswith("resize ") and " 23 " in line and "write" in line for line in lines)
        assert "0 calls and 0 threads lost" in done.stdout
        assert "Tracing added about" in done.stdout and "The tracer itself used" in done.stdout

    def test_light_leaves_out_system_calls_and_says_so(self) -> None:
        done = run("--light", "--json", "--", sys.executable, "-c", TWO_FUNCTIONS)
        report: dict[str, Any] = json.loads(done.stdout)
        assert report["light"] is True
        assert report["rows"] == report["classes"] == []
        lacks = {lack["name"]: lack for lack in report["missing"]}
        assert {"system calls", "time blocked in calls that send and receive"} <= lacks.keys()
        assert all(lack["reason"] and lack["remedy"] for lack in lacks.values())
        assert all(row["blocked_ns"] is None for row in report["network"]) and report["network"]
        assert report["scheduling"]
        done = run("--light", "-L", "--", "sleep", "0.01")
        assert done.stdout.startswith("SCHEDULING")
        assert all(len(line) < 100 for line in done.stdout.splitlines())
        assert "Not counted here: system calls (left out in the light mode)" in done.stdout
        assert "time of a call" not in done.stdout and "[sleep]" in done.stdout

    def test_one_function_only(self) -> None:
        done = run("--json", "-g", "resize", "--", sys.executable, "-c", TWO_FUNCTIONS)
        report: dict[str, Any] = json.loads(done.stdout)
        assert writes(done) == {"resize": 23} and done.returncode == 0
        tables = (report[name] for name in ("rows", "classes", "scheduling", "network"))
        assert {row["function"] for table in tables for row in table} == {"resize"}
        assert report["calls"] > 1009, "what tracing cost is told of all"

    def test_one_function_in_two_hosts(self) -> None:
        argv = [sys.executable, "-c", TWO_FUNCTIONS]
        twice = f"import subprocess\nfor _ in range(2):\n    subprocess.run({argv!r})"
        found = writes(run("--json", "-g", "resize", "--", sys.executable, "-c", twice))
        assert [name.partition("@")[0] for name in found] == ["resize", "resize"]
        assert list(found.values()) == [23, 23]

    def test_a_function_that_is_not_there(self) -> None:
        done = run("-g", "blur", "--", sys.executable, "-c", TWO_FUNCTIONS)
        assert done.returncode == 69
        assert "function 'blur' did nothing; there were detect, resize" in done.stderr
        assert run("-g", "no/name", "true").returncode == 2

    def test_one_channel_only(self, guests: Path) -> None:
        body = f"""
import cwasi_fastpath as cwasi
with cwasi.Host() as host:
    names = ("one", "two", "three", "four")
    kinds = ("source", "sink") * 2
    ends = [host.load(f"{guests}/{{kind}}.wasm", name=name, arguments=["23", "64"]) for name, kind in zip(names, kinds)]
    host.connect("first", *ends[:2], ports=("out", "in"))
    host.connect("second", *ends[2:], ports=("out", "in"))
    host.run()
"""
        done = run("--json", "-c", "second", "--", sys.executable, "-c", body)
        report: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == 0, done.stderr
        assert {row["function"] for name in ("rows", "scheduling") for row in report[name]} == {"three", "four"}
        channels = {(end["channel"], end["function"], end["messages"]) for end in report["tax"]["channels"]}
        assert channels == {("second", "three", 23), ("second", "four", 23)}
        done = run("-c", "third", "--", sys.executable, "-c", body)
        assert done.returncode == 69
        assert "channel 'third' did nothing; there were first, second" in done.stderr

    def test_only_what_failed(self) -> None:
        body = "import os\nfor _ in range(23):\n try: os.rmdir('/nowhere/here')\n except OSError: pass\n"
        done = run("--json", "-x", "--", sys.executable, "-c", body)
        report: dict[str, Any] = json.loads(done.stdout)
        rows = {row["syscall"]: row for row in report["rows"]}
        assert rows["rmdir"]["count"] == rows["rmdir"]["failed"] == 23
        assert all(row["count"] == row["failed"] > 0 for row in (*report["rows"], *report["classes"]))
        assert report["scheduling"] == report["network"] == []
        assert report["calls"] > sum(row["count"] for row in report["rows"])

    def test_stdout_is_the_reports(self) -> None:
        done = run("--json", "--", "sh", "-c", "echo said; echo complained >&2")
        json.loads(done.stdout)
        assert done.stderr.splitlines() == ["said", "complained"]

    def test_processes_of_one_name_are_told_apart_by_pid(self) -> None:
        done = run("sh", "-c", "/bin/true; /bin/true; true")
        labels = {line.split("]")[0] for line in done.stdout.splitlines() if line.startswith("[true")}
        assert len(labels) == 2 and all(label.split()[1].isdigit() for label in labels)

    def test_a_hostile_process_name_does_not_reach_the_terminal(self, tmp_path: Path) -> None:
        program = tmp_path / "\x1b[31mred"
        shutil.copy("/bin/true", program)
        done = run(str(program))
        assert "[?[31mred]" in done.stdout and "\x1b" not in done.stdout

    def test_in_a_pid_namespace(self) -> None:
        done = run(
            "--json", "--", sys.executable, "-c", TWO_FUNCTIONS, before=("unshare", "--pid", "--fork", "--mount-proc")
        )
        assert writes(done) == {"resize": 23, "detect": 1009}, done.stderr

    def test_with_two_capabilities_and_no_others(self) -> None:
        # Root's uid without its power, so that the checkout can be read wherever it lies.
        caps = ("setpriv", "--bounding-set=-all,+bpf,+perfmon", "--inh-caps=-all")
        done = run("--json", "true", before=caps)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["calls"] > 10


@pytest.mark.usefixtures("needs_tracing")
class TestStatus:
    @pytest.mark.parametrize(
        ("command", "status"),
        [(["true"], 0), (["sh", "-c", "exit 3"], 3), (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM)],
    )
    def test_is_the_commands(self, command: list[str], status: int) -> None:
        done = run("--", *command)
        assert done.returncode == status
        assert done.stdout.startswith("FUNCTION")

    def test_of_a_report_that_cannot_be_written(self) -> None:
        with open("/dev/full", "w") as full:  # noqa: PTH123
            done = subprocess.run([*TRACE, "true"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == 74
        assert done.stderr == "cwasi-trace: the report cannot be written: No space left on device\n"

    def test_of_what_cannot_run(self, tmp_path: Path) -> None:
        (tmp_path / "plain").touch(0o644)
        for command, status in ((str(tmp_path / "none"), 127), (str(tmp_path / "plain"), 126)):
            done = run(command)
            assert (done.returncode, done.stdout) == (status, "")
            assert command in done.stderr

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_is_passed_on_and_the_report_still_printed(self, number: signal.Signals) -> None:
        script = f"trap 'exit 23' {number}; echo ready; while :; do sleep 0.02; done"
        argv = [*TRACE, "--json", "--", "sh", "-c", script]
        # A session of its own has no terminal, which would have sent the signal to the command too.
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as tracer:
            assert tracer.stderr is not None and tracer.stderr.readline() == "ready\n"
            tracer.send_signal(number)
            stdout, stderr = tracer.communicate(timeout=60)
        assert tracer.returncode == 23, stderr
        assert json.loads(stdout)["status"] == 23


def test_usage_errors() -> None:
    for args in ([], ["--nonsense", "true"], ["--by", "moon", "true"]):
        assert run(*args).returncode == 2
    done = run("--light", "--by", "syscall", "true")
    assert done.returncode == 2 and "--light leaves out" in done.stderr
    for flags in (["-x", "-L"], ["--light", "-x"], ["--max-overhead", "none"], ["--max-overhead", "0%"], ["-i", "0"]):
        assert run(*flags, "true").returncode == 2


def test_help_has_examples() -> None:
    done = run("--help")
    assert done.returncode == 0 and "cwasi-trace --json" in done.stdout


# ---- where tracing is not available: nothing is run ----


def test_without_privileges(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    before = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    done = run("touch", str(tmp_path / "ran"), before=before)
    assert (done.returncode, done.stdout) == (77, "")
    assert "CAP_BPF and CAP_PERFMON missing" in done.stderr and "sudo" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_with_the_impostor_bcc(tmp_path: Path) -> None:
    (tmp_path / "bcc.py").touch()
    done = run("touch", str(tmp_path / "ran"), PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert (done.returncode, done.stdout) == (77, "")
    assert "unrelated project" in done.stderr and "pip uninstall bcc" in done.stderr
    assert "apt install python3-bpfcc" in done.stderr
    assert not (tmp_path / "ran").exists()
