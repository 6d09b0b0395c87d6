"""The bill joins what the kernel counted with what the data plane counted: plain sums and quotients."""

from __future__ import annotations

from dataclasses import replace

from cwasi_fastpath.tax_bill import tax_bill
from cwasi_fastpath.trace_report import EndUse, FunctionUse, NetworkRow, SyscallRow, TraceReport

EMPTY = TraceReport(
    rows=(),
    classes=(),
    scheduling=(),
    network=(),
    missing=(),
    lost=0,
    lost_times=0,
    lost_switches=0,
    lost_traffic=0,
    lost_threads=0,
    seconds=1.0,
    ns_per_call=0.0,
    ns_per_switch=None,
    light=False,
)


def end(id: str, owner: str, direction: str, messages: int, **changes: str) -> EndUse:
    ends = EndUse(
        owner=owner,
        id=id,
        channel="frames",
        peers=(),
        direction=direction,
        transport="ring",
        mode="local",
        calls=messages,
        calls_ns=messages * 100,
        waited_ns=messages * 30,
        copying_ns=messages * 10,
        messages=messages,
        bytes=messages * 1000,
        copied_bytes=messages * 1000,
        waits=3,
        parks=2,
        wakes=1,
        timed=messages // 2,
        timed_ns=messages * 20,
    )
    return replace(ends, **changes)  # type: ignore[arg-type]


def test_a_function_has_its_calls_and_its_channels() -> None:
    report = replace(
        EMPTY,
        rows=(
            SyscallRow("f", "read", 23, 500, 0),
            SyscallRow("f", "futex", 7, 300, 0),
            SyscallRow("g", "read", 1, 1, 0),
        ),
        network=tuple(NetworkRow(name, "tcp", 1, 1, 1, 1, ns, 0, 0, 0, 0, 0) for name, ns in (("f", 77), ("g", 5))),
        uses=(FunctionUse("f", 10_000, 20, 4_000, 1_000, 200),),
        ends=(end("1.0", "f", "sends", 11), end("1.1", "f", "receives", 19), end("1.2", "g", "receives", 11)),
    )
    (tax,) = tax_bill(report).functions
    assert (tax.ns, tax.guest_ns, tax.calls_ns, tax.waited_ns, tax.copying_ns) == (10_000, 6_000, 4_000, 1_000, 200)
    assert (tax.syscalls, tax.syscall_ns, tax.network_ns) == (30, 800, 77)
    assert (tax.messages, tax.bytes) == (30, 30_000)
    assert tax.ns_per_message == 100 and tax.ns_per_byte == 0.1


def test_ends_of_one_name_are_added_up() -> None:
    """Of one function, in one direction, by one transport."""
    ends = (
        end("1.0", "f", "sends", 11),
        end("1.1", "f", "sends", 12),
        end("1.2", "f", "sends", 100, transport="pipe"),
        end("1.3", "g", "receives", 23),
    )
    channels = tax_bill(replace(EMPTY, ends=ends)).channels
    found = [(tax.owner, tax.direction, tax.transport, tax.messages, tax.parks) for tax in channels]
    assert found == [("f", "sends", "ring", 23, 4), ("f", "sends", "pipe", 100, 2), ("g", "receives", "ring", 23, 2)]
    assert channels[0].ns_per_message == 70


def test_nothing_is_divided_by_nothing() -> None:
    bill = tax_bill(replace(EMPTY, uses=(FunctionUse("f", 1, 0, 0, 0, 0),), ends=(end("1.0", "f", "sends", 0),)))
    assert bill.functions[0].ns_per_message is None and bill.channels[0].ns_per_byte is None


def test_an_end_goes_on_in_other_hands_by_another_transport() -> None:
    """What came after an earlier report is what this end counted since, whatever it is called now."""
    before = replace(EMPTY, ends=(end("1.0", "f", "sends", 11),))
    after = replace(EMPTY, ends=(end("1.0", "g", "sends", 34, transport="pipe"),))
    (since,) = after.since(before).ends
    assert (since.owner, since.transport, since.messages, since.bytes) == ("g", "pipe", 23, 23_000)
