"""cwasi policy, as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "my_policy.py"


def cwasi(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cwasi_fastpath.cli", "policy", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "shift.trace"
    done = cwasi("generate", "size-shift", "-o", path, "--seconds", 6)
    assert (done.returncode, done.stderr) == (0, "")
    return path


def test_a_table(trace: Path) -> None:
    done = cwasi("replay", trace, "--policy", "cost,always:pipe")
    assert (done.returncode, done.stderr) == (0, "")
    assert "size-shift 1: 6 s in 300 blocks, 2 changes" in done.stdout
    for words in ("oracle", "cost", "always:pipe", "regret", "in time"):
        assert words in done.stdout


def test_json_is_the_same_each_time(trace: Path) -> None:
    runs = [cwasi("replay", trace, "--json", "--objective", "latency=1,cpu=0.5") for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout and runs[0].returncode == 0
    (found,) = json.loads(runs[0].stdout)["traces"]
    by_name = {one["policy"]: one for one in found["policies"]}
    assert list(by_name) == ["oracle", "oracle of phases", "cost", "static", "thresholds"]
    assert by_name["oracle"]["regret"] == 0 <= by_name["cost"]["regret"] < by_name["static"]["regret"]
    assert found["changes"] == [2.0, 4.0] and found["blocks"] == 300


def test_several_traces(trace: Path) -> None:
    done = cwasi("replay", trace, trace, "--json", "--policy", "static")
    assert len(json.loads(done.stdout)["traces"]) == 2


class Page(HTMLParser):
    """That tags are closed in the order in which they were opened, and what is loaded."""

    EMPTY = frozenset({"meta", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.plots = 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href", "onload"} & {name for name, _ in attrs}
        self.plots += tag == "svg"
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page(trace: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.trace"
    header, rest = trace.read_text().split("\n", 1)
    hostile.write_text(json.dumps({**json.loads(header), "name": "<script>alert(1)</script>"}) + "\n" + rest)
    html = tmp_path / "out.html"
    done = cwasi("replay", hostile, "--policy", "cost,static", "-o", html)
    assert (done.returncode, done.stderr) == (0, "")
    text = html.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert Page(text).plots == 2 + 4, "the excess, the latencies, and the ways of four"


def test_a_policy_of_ones_own(trace: Path) -> None:
    lines = EXAMPLE.read_text().partition("import ")[2].splitlines()
    assert len(lines) <= 20
    done = cwasi("replay", trace, "--policy", f"{EXAMPLE}:MyPolicy", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = json.loads(done.stdout)["traces"]
    mine = found["policies"][-1]
    assert mine["policy"].endswith("my_policy.py:MyPolicy") and mine["switches"] == 2 and mine["regret"] > 0


POLICIES = {
    "absent.py:P": (2, "No such file"),
    "empty.py:P": (2, "there is no P in"),
    "plain.py:P": (2, "no subclass of cwasi_fastpath.Policy"),
    "broken.py:P": (1, "ZeroDivisionError"),
    "raises.py:P": (1, "raises.py:P on"),
    "wants.py:P": (1, "it is made without arguments"),
    "leaves.py:P": (1, "SystemExit: 0"),
    "leaves_later.py:P": (1, "SystemExit: 0"),
    "nonsense.py:P": (1, "TypeError: it answered"),
    "pigeon": (2, "policy 'pigeon' is unknown: use cost, static"),
}
FILES = {
    "leaves.py": "import sys\nsys.exit(0)\n",
    "leaves_later.py": "import cwasi_fastpath as c\nclass P(c.Policy):\n    decide = lambda self, request: exit(0)\n",
    "nonsense.py": "from empty import *\nfrom my_policy import MyPolicy\n"
                   "class P(MyPolicy):\n    step = lambda self, request: ('a', 'b')\n",
    "my_policy.py": EXAMPLE.read_text(),
    "empty.py": "",
    "plain.py": "class P:\n    pass\n",
    "broken.py": "1 / 0\n",
    "raises.py": "import cwasi_fastpath as c\nclass P(c.Policy):\n    decide = lambda self, request: 1 / 0\n",
    "wants.py": "import cwasi_fastpath as c\nclass P(c.Policy):\n    decide = __init__ = lambda self, x: None\n",
}


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_that_are_none(trace: Path, tmp_path: Path, policy: str) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    name = str(tmp_path / policy) if ".py" in policy else policy
    done = cwasi("replay", trace, "--policy", name)
    status, message = POLICIES[policy]
    assert done.returncode == status and message in done.stderr and "Traceback" not in done.stderr


def test_traces_that_are_none(trace: Path, tmp_path: Path) -> None:
    cut, foreign, binary = tmp_path / "cut", tmp_path / "foreign", tmp_path / "binary"
    cut.write_text(trace.read_text()[:-100])
    foreign.write_text('{"schema": 1, "version": "0.1.0"}\n')
    binary.write_bytes(bytes(range(256)))
    for path, message in (
        (cut, "cut off"), (foreign, "this is no trace"), (binary, "this is no trace"), (tmp_path, "Is a directory"),
        (tmp_path / "absent", "No such file"),
    ):  # fmt: skip
        done = cwasi("replay", path, "--json")
        assert done.returncode == 65 and message in done.stderr
        assert json.loads(done.stdout)["error"] == "NoTrace"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objective", "speed=1"], "give weights of latency, throughput, cpu"),
        (["--objective", "latency=x"], "give weights of latency, throughput, cpu"),
        (["--objective", "latency=-1"], "numbers from 0"),
        (["--objective", "latency=nan"], "numbers from 0"),
        (["--objective", "latency=1e308"], "numbers from 0 to 1e+06"),
        (["--policy", ""], "or FILE.py:CLASS"),
        (["-o", "/dev/full/x.html"], "Not a directory"),
    ],
)
def test_options_that_make_no_sense(trace: Path, words: list[str], message: str) -> None:
    done = cwasi("replay", trace, *words)
    assert done.returncode in (1, 2) and message in done.stderr and "Traceback" not in done.stderr


def test_answers_that_could_not_be_are_counted(trace: Path, tmp_path: Path) -> None:
    policy = tmp_path / "none.py"
    policy.write_text("import cwasi_fastpath as c\nclass P(c.Policy):\n    decide = lambda self, request: None\n")
    done = cwasi("replay", trace, "--policy", f"{policy}:P")
    assert done.returncode == 0 and "P: 1 answers could not be, and no host would have followed them" in done.stdout


@pytest.mark.parametrize("way", [
    ["record", "steady", "--seconds", "0.1", "--redis", "redis://127.0.0.1:1"],
    ["live", "--seconds", "0.5", "--policy", "pigeon"],
])  # fmt: skip
def test_what_was_there_stays_if_nothing_comes_of_it(tmp_path: Path, way: list[str]) -> None:
    output = tmp_path / "precious"
    output.write_text("precious")
    done = cwasi(*way, "-o", output)
    assert done.returncode not in (0, 1) and output.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [output]


def test_seconds_that_are_no_number(tmp_path: Path) -> None:
    for words in (["generate", "steady"], ["record", "steady"], ["live"]):
        done = cwasi(*words, "-o", tmp_path / "x", "--seconds", "nan")
        assert done.returncode == 2 and "no number of this range" in done.stderr and not list(tmp_path.iterdir())


def test_a_page_is_of_one_trace(trace: Path) -> None:
    assert cwasi("replay", trace, trace, "-o", "x.html").returncode == 2


def test_scenarios_are_those_of_the_generator() -> None:
    from cwasi_fastpath.cli.policy import _SCENARIOS
    from cwasi_fastpath.policy.generate import SCENARIOS

    assert set(_SCENARIOS) == set(SCENARIOS)


def test_a_trace_whose_name_is_markup(trace: Path, tmp_path: Path) -> None:
    header, rest = trace.read_text().split("\n", 1)
    for name, code in (("[/x] [red]", 0), ("\x1b[31m", 65), ("\ud800", 65)):
        hostile = tmp_path / "hostile.trace"
        hostile.write_text(json.dumps({**json.loads(header), "name": name}) + "\n" + rest)
        done = cwasi("replay", hostile, "--policy", "static")
        assert done.returncode == code and "Traceback" not in done.stderr, done
        assert (name if code == 0 else "name is a printable text") in done.stdout + done.stderr


def test_a_trace_whose_errors_are_beyond_all_measure(trace: Path, tmp_path: Path) -> None:
    header, rest = trace.read_text().split("\n", 1)
    plain = json.loads(header)
    next(iter(plain["costs"]["curves"].values()))["error"] = 1e6
    hostile = tmp_path / "hostile.trace"
    hostile.write_text(json.dumps(plain) + "\n" + rest)
    done = cwasi("replay", hostile)
    assert done.returncode == 65 and "the error of" in done.stderr, done
