"""The tax bill of cwasi-trace: as tables for people, as records for JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any

from ..tax_bill import ChannelTax, FunctionTax, TaxBill
from ..trace_report import Process

Aligned = Callable[[dict[str, int], Iterable[Sequence[object]]], str]


def bill_tables(bill: TaxBill, labels: dict[str | Process, str], aligned: Aligned) -> list[str]:
    """What each function's time went into, and what each end of a channel cost."""
    if not bill.functions and not bill.channels:
        return ["No function of a host ran, and no channel was used: there is no bill."]
    return [_functions(bill, labels, aligned), *([_channels(bill, labels, aligned)] if bill.channels else [])]


def _functions(bill: TaxBill, labels: dict[str | Process, str], aligned: Aligned) -> str:
    heading = {
        **{"TAX": 16, "RAN ms": 9, "GUEST ms": 9, "CALLS ms": 9, "WAIT ms": 9, "COPY ms": 8, "SYSCALL ms": 10},
        **{"NET ms": 8, "MESSAGES": 9, "ns/MSG": 7},
    }
    rows = (
        [
            labels[tax.owner],
            *(_ms(ns) for ns in (tax.ns, tax.guest_ns, tax.calls_ns, tax.waited_ns, tax.copying_ns, tax.syscall_ns)),
            *(_ms(tax.network_ns), tax.messages, _mean(tax.ns_per_message)),
        ]
        for tax in bill.functions
    )
    return aligned(heading, rows)


def _channels(bill: TaxBill, labels: dict[str | Process, str], aligned: Aligned) -> str:
    heading = {
        **{"CHANNEL": 12, "FUNCTION": 12, "": 8, "BY": 5, "MESSAGES": 9, "BYTES": 12, "WAIT ms": 9, "COPY ms": 8},
        **{"SLEEPS": 7, "ns/MSG": 7, "ns/KiB": 7},
    }
    rows = (
        [
            *(tax.channel, labels[tax.owner], tax.direction, tax.transport or "-", tax.messages, tax.bytes),
            *(_ms(tax.waited_ns), _ms(tax.copying_ns), tax.parks, _mean(tax.ns_per_message)),
            _mean(tax.ns_per_byte and tax.ns_per_byte * 1024),
        ]
        for tax in bill.channels
    )
    return aligned(heading, rows)


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.2f}"


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def bill_as_json(bill: TaxBill) -> dict[str, Any]:
    """Its records, with the quotients."""
    return {
        "functions": [_as_json(tax) for tax in bill.functions],
        "channels": [_as_json(tax) for tax in bill.channels],
    }


def _as_json(tax: FunctionTax | ChannelTax) -> dict[str, Any]:
    numbers = {field.name: getattr(tax, field.name) for field in fields(tax)[1:]}
    ratios = {"ns_per_message": tax.ns_per_message, "ns_per_byte": tax.ns_per_byte}
    return {"function": None if isinstance(tax.owner, Process) else tax.owner, **numbers, **ratios}
