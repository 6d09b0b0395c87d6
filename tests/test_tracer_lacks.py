"""What a kernel cannot tell is named with the remedy, and the rest is counted."""

from __future__ import annotations

import pytest
from tracing import attached, calls, traced_host

from cwasi_fastpath.probes.network import Network
from cwasi_fastpath.probes.probe import Counter
from cwasi_fastpath.probes.round_trips import RoundTrips
from cwasi_fastpath.probes.scheduling import Scheduling


@pytest.mark.parametrize("counter", [Scheduling, Network], ids=lambda counter: counter.name)
def test_what_a_kernel_lacks_is_named_and_the_rest_is_counted(
    counter: type[Counter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the second of its tracepoints: the first does not stay behind alone."""
    first, *_ = counter.programs
    monkeypatch.setattr(counter, "programs", (first, ("no_such_event", counter.programs[1][1])))
    with attached() as tracer:
        report = traced_host(tracer, 'enter(ask({"function": "rest"})["id"]); write(23); os.sched_yield(); enter(0)')
        (lack,) = [lack for lack in report.missing if lack.name == counter.name]
        assert "no_such_event" in lack.reason and lack.remedy == counter.remedy
        assert calls(report, "rest") == (23, 23)
        empty = {"scheduling": report.scheduling, "network": report.network}
        assert [name for name, rows in empty.items() if not rows] == [counter.name]


def test_a_record_without_the_field_is_told_from_one_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RoundTrips, "programs", (("tcp/tcp_retransmit_skb", "on_tcp_probe"),))
    with attached() as tracer:
        (lack,) = [lack for lack in tracer.snapshot().missing if lack.name == RoundTrips.name]
    assert "has no srtt and no snd_cwnd" in lack.reason


def test_a_program_that_the_kernel_rejects_is_not_taken_for_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """on_tcp_probe reads where a raw tracepoint has nothing."""
    monkeypatch.setattr(Network, "programs", (*Network.programs, ("tcp_probe", "on_tcp_probe")))
    with attached() as tracer:
        lacks = {lack.name: lack for lack in tracer.snapshot().missing}
    assert lacks["network"].remedy.startswith("report it, with the version of this kernel")
