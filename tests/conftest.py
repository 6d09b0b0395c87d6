"""What the tests share: compiled guests, modules written as text, and the rule that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import psutil
import pytest
from channels import FOREIGN, HANG, TRANSPORTS, Ends, Fork, Start, control_ended, in_child, shared_memory

import cwasi_fastpath as cwasi
from cwasi_fastpath import cache, runtime
from cwasi_fastpath.redis_server import RedisServer

pytest_plugins = ("asking", "nodes")

# A slow machine is no fault.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

REPOSITORY = Path(__file__).parent.parent

WriteModule = Callable[..., Path]


def _built(directory: Path, sources: Path) -> Path:
    wanted = [f"{path.stem}.wasm" for path in sources.glob("*.c")]
    missing = [name for name in wanted if not (directory / name).is_file()]
    if missing:
        pytest.fail(f"{directory} lacks {', '.join(missing)}: run make test", pytrace=False)
    return directory


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A script's background job ignores SIGINT, and so would every process that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _uncalibrated(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What somebody has measured on this machine is not to decide what tests see."""
    os.environ[cache.ENVIRONMENT] = str(tmp_path_factory.mktemp("cache") / "cwasi")


@pytest.fixture(scope="session")
def guests() -> Path:
    """The directory of the compiled test guests."""
    return _built(REPOSITORY / "build/guests", REPOSITORY / "tests/guests")


@pytest.fixture(scope="session")
def functions() -> Path:
    """The directory of the compiled picture functions."""
    return _built(REPOSITORY / "build/functions", REPOSITORY / "examples/picture")


@pytest.fixture
def module(tmp_path: Path) -> WriteModule:
    """Writes a module in WebAssembly's text format and returns its path: module(text, name="module")."""

    def write(text: str, name: str = "module") -> Path:
        path = tmp_path / f"{name}.wat"
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small picture with edges in it."""
    width, height = 160, 96
    pixels = bytearray()
    for y in range(height):
        for x in range(width):
            inside = (x - 80) ** 2 + (y - 48) ** 2 < 900
            pixels += bytes((200, 40, x % 256) if inside else (x * y % 256, 2 * y, 90))
    path = tmp_path_factory.mktemp("picture") / "picture.ppm"
    path.write_bytes(b"P6\n%d %d\n255\n" % (width, height) + pixels)
    return path


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport that needs no server."""
    return str(request.param)


@pytest.fixture
def ends(transport: str) -> Iterator[Ends]:
    """Both ends of a channel over it."""
    tx, rx = cwasi.open_channel("lab", transport)
    yield tx, rx
    for end in (rx, tx):
        end.stop()
        end.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Runs a function on another thread."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield pool.submit


@pytest.fixture
def fork() -> Iterator[Fork]:
    """Runs a function in a child process; its pid."""
    children: list[int] = []

    def make(body: Callable[[], object]) -> int:
        def child() -> None:
            signal.alarm(int(2 * HANG))
            body()

        children.append(in_child(child))
        return children[-1]

    yield make
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass   # a test has


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """A private server. A test that ends it makes its own."""
    with RedisServer() as server:
        yield server


def _children() -> set[str]:
    """The processes that we started and that still are; not multiprocessing's own, which ends with us."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            line = " ".join(child.cmdline()) or child.name()
        except psutil.Error:
            continue
        if "resource_tracker" not in line:
            found.add(f"{child.pid}: {line}")
    return found


@pytest.fixture(scope="session", autouse=True)
def session_runtime_directory() -> Iterator[None]:
    """The tests meet in a directory of their own, also those that never look at it."""
    directory = tempfile.mkdtemp(prefix="cwasi-test-")
    before = os.environ.get(runtime.ENVIRONMENT)
    os.environ[runtime.ENVIRONMENT] = directory
    yield
    os.environ.pop(runtime.ENVIRONMENT)
    if before is not None:
        os.environ[runtime.ENVIRONMENT] = before
    runtime.sweep(Path(directory))
    left = sorted(Path(directory).iterdir())
    shutil.rmtree(directory)
    assert not left, f"in the runtime directory: {left}"


@pytest.fixture
def runtime_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory for one test; its path is short."""
    directory = Path(tempfile.mkdtemp(prefix="cwasi-rt-"))
    monkeypatch.setenv(runtime.ENVIRONMENT, str(directory))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def swept_directory(runtime_directory: Path) -> Iterator[Path]:
    """The same. Nothing is left in it; what was killed leaves what the next one sweeps away."""
    yield runtime_directory
    control_ended()
    runtime.sweep(runtime_directory)
    assert not list(runtime_directory.iterdir())


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process and no shared memory outlives the tests."""
    before = shared_memory()
    yield
    until = time.monotonic() + FOREIGN
    while (left := _children() | (shared_memory() - before)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left, f"the tests left behind: {left}"
