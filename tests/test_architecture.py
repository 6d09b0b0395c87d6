"""Who may import whom. Read from the sources, so that an import inside a function counts too."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cwasi_fastpath"

# From near the user to near the machine. A module may import what stands in a later row, or in its own.
LAYERS = [
    {"cli"},
    {"bench", "live", "soak"},
    {"deployment", "redis_server"},
    {"parent"},
    {"supervision", "switch_spanned"},
    {"worker"},
    {"switch_part"},
    {"host", "tracer"},
    {"advice", "edges", "feed", "guest_cores", "kept", "pace", "peeks", "published", "rota", "runs", "soundings",
     "steward", "switch_channel"},
    {"guest", "tracer_feed", "tracer_socket", "probes"},
    {"spanned"},
    {"named_channel", "process", "rendezvous"},
    {"final_report"},
    {"handover", "successor"},
    {"switch_followed", "switch_named", "switch_moved", "switch_asked"},
    {"announced", "door", "heir"},
    {"offer", "search"},
    {
        *("_wasmtime", "channel", "calibration", "prediction_check", "timed_ways", "paced_ways", "two_sides"),
        *("durable", "workflow"),
    },
    {"switch"},
    {"meeting", "reach"},
    {"cluster"},
    {"transport"},
    {"sender", "receiver", "tidy"},
    {"endpoint", "watch", "attribution", "host_functions", "observing", "placing", "doings", "tally"},
    {"thread_watch"},
    {"proc_file"},
    {"host_statistics"},
    {"census", "explanation_asked"},
    {"registry", "description"},
    {"control"},
    {"process_facts", "calibrated", "explanation"},
    {"connection", "mail", "request", "placement", "runtime"},
    {"policy"},
    {
        *("credentials", "claim", "descriptors", "lease", "tax_bill", "invitation", "owner_names", "cgroups"),
        *("caller", "rubbish", "neighbour"),
    },
    {
        *("_native", "cache", "capabilities", "core_pair", "cpu", "figures", "function_ids", "html_page"),
        *("metrics", "modes", "names", "network", "output", "shield", "trace_report"),
    },
    {"errors", "_cwasi", "_build"},
]
LEVEL = {module: level for level, row in enumerate(LAYERS) for module in row}

# These may be imported by one module only.
ONLY = {"probes": {"tracer", "probes"}, "_cwasi": {"_native"}, "_wasmtime": {"guest", "__init__"}}
PURE = {"policy", "metrics", "figures", "html_page", "modes", "names", "errors", "workflow", "trace_report", "tax_bill"}
IMPURE = {"os", "socket", "subprocess", "time", "threading", "random", "bcc", "ctypes"}


def sources() -> list[tuple[str, Path]]:
    """(top-level name inside the package, file) of every module."""
    inside = [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in PACKAGE.rglob("*.py")]
    return inside + [("probes", path) for path in (ROOT / "probes").rglob("*.py")]


def package_of(path: Path) -> list[str]:
    """The dotted package that relative imports in this file start from."""
    if (ROOT / "probes") in path.parents:
        return ["cwasi_fastpath", "probes"]
    return ["cwasi_fastpath", *path.relative_to(PACKAGE).parent.parts]


def imports(path: Path) -> set[str]:
    """Every module that the file imports, as a dotted name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = package_of(path)
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def own(name: str) -> str | None:
    """The top-level module of ours that a dotted name lies in."""
    parts = name.split(".")
    if parts[0] != "cwasi_fastpath" or len(parts) < 2:
        return None
    return parts[1] if parts[1] in LEVEL else "__init__"


@pytest.mark.parametrize(("module", "path"), sources(), ids=lambda value: str(value).removeprefix(str(ROOT)))
def test_imports_go_down(module: str, path: Path) -> None:
    if module == "__init__":
        return   # the public names come from everywhere
    assert module in LEVEL, f"{path} is in no layer: put {module} into LAYERS"
    for name in imports(path):
        target = own(name)
        if target is None or target == "__init__":
            continue
        assert LEVEL[target] >= LEVEL[module], f"{path} imports {name}: that is upwards"
        assert module in ONLY.get(target, {module}), f"{path} imports {name}: only {ONLY[target]} may"


@pytest.mark.parametrize(("module", "path"), [pair for pair in sources() if pair[0] in PURE])
def test_what_is_pure_does_no_io(module: str, path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)} & IMPURE
    assert not used, f"{path} imports {used}"


def test_only_one_file_touches_private_parts_of_wasmtime() -> None:
    private = re.compile(r"wasmtime\.?_|from wasmtime import .*\b_\w+|\._ffi\b|\._bindings\b|\._context\(|\.ptr\(\)")
    offenders = [path for _, path in sources() if path.name != "_wasmtime.py" and private.search(path.read_text())]
    assert [path for path in offenders if "import_module" not in path.read_text()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "csrc").iterdir()), ids=lambda path: path.name)
def test_memory_orders_are_named_in_one_file(path: Path) -> None:
    if path.name != "barrier.h":
        assert not re.search(r"memory_order_|__atomic_|__sync_|atomic_(load|store|exchange|fetch)", path.read_text())




# What only these files may know the inside of.
HEADERS = {
    "ring.h": {"ring", "ring_sender", "ring_reader", "ring_window"},
    "channel.h": {"channel", "channel_switch", "channel_wait", "channel_window"},
    "line.h": {"line", "channel", "channel_switch", "channel_wait", "channel_window", "gather"},
    "handover.h": {"handover", "ring", "ring_sender", "ring_reader", "ring_window"},
    "tcp.h": {"tcp", "tcp_sender", "tcp_records", "tcp_receiver", "tcp_window", "tcp_fan"},
    "pipe.h": {"pipe", "pipe_sender", "pipe_staging", "pipe_reader"},
    "window.h": {"window"},
    "window_pages.h": {"window", "window_pages"},
    "guest.h": {"guest", "hostcall", "hostcall_window"},
}


@pytest.mark.parametrize("path", sorted((ROOT / "csrc").glob("*.c")), ids=lambda path: path.name)
def test_c_knows_no_python_and_no_wasmtime_header(path: Path) -> None:
    included = set(re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text()))
    assert not {name for name in included if name.startswith(("Python", "wasm"))}
    for name, owners in HEADERS.items():
        assert name not in included or path.stem in owners, f"{name} is not for {path.name}"


def test_c_calls_go_down() -> None:
    """Transports do not know channels, and what is below transports does not know them."""
    calls = {path.stem: path.read_text() for path in (ROOT / "csrc").glob("*.c")}
    rings = ("ring", "ring_sender", "ring_reader", "ring_window")
    tcps = ("tcp", "tcp_sender", "tcp_records", "tcp_receiver", "tcp_window")
    pipes = ("pipe", "pipe_sender", "pipe_staging", "pipe_reader")
    for low in ("shm", "copy", "wait", "window_pages", "endpoint", "handover", "line", *rings, *pipes, *tcps, "gather"):
        assert not re.search(r"\bcwasi_channel_\w+\(", calls[low]), f"{low}.c calls a channel"
    for low in ("shm", "copy", "wait"):
        assert not re.search(r"\b(ring|pipe|tcp|endpoint)_\w+\(", calls[low]), f"{low}.c calls a transport"
    assert not re.search(r"\b(ring|pipe|tcp)_(open|send|peek)\(", calls["hostcall"]), "hostcall.c calls a transport"
