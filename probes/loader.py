"""Finding bcc and kernel headers, and compiling a probe with them."""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from . import kept
from .compiled import Compiled, taken_from

HERE = Path(__file__).parent
HEADERS = HERE / "headers"
_DEBIAN = Path("/usr/lib/python3/dist-packages/bcc/__init__.py")


class ProbeError(Exception):
    """A probe cannot be used on this machine; the message has the reason, of several lines where a compiler gave it."""


class Rejected(ProbeError):
    """The kernel's verifier does not take a program: it should."""


class BccMissing(ProbeError):
    """There is no bcc, or what is called bcc is something else."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}: {remedy}")
        self.found = found
        self.remedy = remedy


def import_bcc() -> ModuleType:
    """The BPF Compiler Collection's Python module; in a virtual environment too. Raises BccMissing.

    It is pure Python over libbcc.so, so that Debian's copy works in any Python 3.
    """
    try:
        bcc = _import_debian() if importlib.util.find_spec("bcc") is None else importlib.import_module("bcc")
    except BccMissing:
        raise
    except Exception as error:  # an impostor may fail in any way; so may a bcc without its libbcc.so
        raise BccMissing(f"bcc cannot be imported ({error!r})", "apt install --reinstall python3-bpfcc") from error
    if not hasattr(bcc, "BPF"):
        where = bcc.__file__ or next(iter(bcc.__path__), "?")
        raise BccMissing(
            f"{where} is an unrelated project of the same name (it has no BPF)",
            f"{sys.executable} -m pip uninstall bcc; apt install python3-bpfcc",
        )
    return bcc


def _import_debian() -> ModuleType:
    if not _DEBIAN.exists():
        raise BccMissing("python3-bpfcc is not installed", "apt install python3-bpfcc")
    spec = importlib.util.spec_from_file_location("bcc", _DEBIAN, submodule_search_locations=[str(_DEBIAN.parent)])
    assert spec is not None and spec.loader is not None
    bcc = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = bcc  # its submodules import each other by this name
    try:
        spec.loader.exec_module(bcc)
    except BaseException:
        del sys.modules["bcc"]
        raise
    return bcc


def header_sources() -> list[Path | None]:
    """Where to take kernel headers from, in the order to try; None leaves it to bcc (a build tree, or kheaders).

    A tree that the user names with BCC_KERNEL_SOURCE is the only one tried. Headers of the running kernel come before
    ours for the sake of an architecture that ours does not know; ours come last because they are always there.
    """
    named = os.environ.get("BCC_KERNEL_SOURCE")
    if named:
        return [Path(named)]
    installed = Path("/lib/modules", platform.release(), "build").exists()
    if installed or Path("/sys/kernel/kheaders.tar.xz").exists():
        return [None, HEADERS]
    return [HEADERS]


def compile_probe(sources: Sequence[str], defines: dict[str, int], bcc: ModuleType) -> Compiled:
    """Compiles files of probes/ as one text, with -D of each define; or finds what it was compiled to before.

    One text, because bcc rewrites only that, and because the programs of one text share their maps. Raises ProbeError
    with what bcc printed.
    """
    numbers = [f"-D{name}={value}" for name, value in defines.items()]
    text = "".join(f'#line 1 "{source}"\n{(HERE / source).read_text()}' for source in sources)
    if "BCC_KERNEL_SOURCE" in os.environ:   # who names headers wants to see what comes of them
        return _compiled(text, numbers, bcc)
    system = os.uname()
    kernel = (system.release, system.version, system.machine)
    key = kept.key_of(text, *numbers, *_beside(), bcc.__version__, *kernel)
    found = kept.find(key)
    if found is None:
        found = _compiled(text, numbers, bcc)
        kept.keep(key, found)
    return found


def _beside() -> list[str]:
    """What a text may include."""
    headers = [HERE / "record.h", *sorted(HEADERS.rglob("*.h"))]
    return [*(header.read_text() for header in headers), *map(str, header_sources())]


def _compiled(text: str, numbers: list[str], bcc: ModuleType) -> Compiled:
    failures = []
    for headers in header_sources():
        try:
            with _kernel_source(headers), diagnostics():
                bpf = bcc.BPF(text=text.encode(), cflags=[f"-I{HERE}", *numbers])
            try:
                return taken_from(bcc, bpf)
            finally:
                bpf.cleanup()
                atexit.unregister(bpf.cleanup)
        except ProbeError as error:
            failures.append(f"with {headers or 'the headers of the running kernel'}: {error}")
    raise ProbeError("the probes do not compile " + "\n".join(failures))


@contextmanager
def _kernel_source(headers: Path | None) -> Iterator[None]:
    if headers is None:
        yield
        return
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(headers)
    try:
        yield
    finally:
        if before is None:
            del os.environ["BCC_KERNEL_SOURCE"]
        else:
            os.environ["BCC_KERNEL_SOURCE"] = before


@contextmanager
def diagnostics() -> Iterator[None]:
    """Turns bcc's bare Exception into a ProbeError with what libbcc printed, and prints nothing otherwise.

    It prints to both fd 1, where a report may go, and fd 2. They are the whole process's: use it around short calls.
    """
    said = os.memfd_create("cwasi-bcc")
    try:
        with _redirected(said):
            yield
    except Exception as error:  # bcc raises nothing more precise
        text = os.pread(said, 8000, 0).decode(errors="replace").strip()
        raise ProbeError(f"{error}\n{text}" if text else str(error)) from error
    finally:
        os.close(said)


@contextmanager
def _redirected(fd: int) -> Iterator[None]:
    _flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    try:
        for number in saved:
            os.dup2(fd, number)
        yield
    finally:
        _flush()
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    ctypes.CDLL(None).fflush(None)
