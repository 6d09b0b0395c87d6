"""A tracer tells the command that has started several host processes what their functions take of the kernel."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from channels import HANG, eventually
from tracing import attached

import cwasi_fastpath as cwasi
from cwasi_fastpath import explanation_asked
from cwasi_fastpath.attribution import NO_TRACER
from cwasi_fastpath.explanation import WhatIf

RUN = [sys.executable, "-m", "cwasi_fastpath.cli", "run", "--mode", "proximal", "--connect", "lab:source/out:sink/in"]


def explained() -> dict[str, Any]:
    """What the command says of the channel now; nothing where it does not say anything yet."""
    with suppress(cwasi.Error):
        (told,) = explanation_asked.ask("lab", WhatIf())
        return told.explanation
    return {}


def seen(name: str) -> Any:
    return (explained().get("observation") or {}).get(name)


def test_the_policy_of_a_run_in_several_processes_is_told(guests: Path, runtime_directory: Path) -> None:
    """As long as there is a tracer; in trust domains, too, whose processes keep others of the same user out."""
    argv = [*RUN, "--trust", "sink=lab", *(f"{guests / name}.wasm 2000000000 100" for name in ("source", "sink"))]
    with attached() as tracer, tracer.spawn(argv, stderr=subprocess.PIPE, text=True) as command:
        try:
            eventually(lambda: seen("syscalls_ns"))
            assert NO_TRACER not in explained()["lacked"]
            tracer.close()
            eventually(lambda: NO_TRACER in explained().get("lacked", ()))
            eventually(lambda: seen("syscalls_ns") is None and seen("contention") is not None)
        finally:
            command.terminate()
            command.communicate(timeout=HANG)
