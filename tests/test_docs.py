"""The documentation holds: its commands and programs run, its links lead somewhere, its lists are those of the code.

Marks in the documents, as HTML comments before a fenced block:

    no-test: REASON    the block is not run
    exit: N            the block ends with this status
    file: NAME         the block is written to a file of this name, in the directory where the document has got to
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from cwasi_fastpath import _wasmtime, errors
from cwasi_fastpath.names import _NAME
from cwasi_fastpath.tracer import NoSuchTarget, TracerUnavailable, requirements

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAN_PAGES = sorted((ROOT / "docs" / "man").glob("*.1"))
COMMANDS = {
    "cwasi": [[], ["include"]],
    "cwasi-bench": [["bench", name] for name in ("channel", "transport", "switch", "trace", "policy")],
    "cwasi-calibrate": [["calibrate"]],
    "cwasi-demo": [["demo"]],
    "cwasi-doctor": [["doctor"]],
    "cwasi-explain": [["explain"]],
    "cwasi-inspect": [["inspect"]],
    "cwasi-policy": [["policy", "replay"], ["policy", "generate"], ["policy", "record"], ["policy", "live"]],
    "cwasi-ps": [["ps"]],
    "cwasi-run": [["run"]],
    "cwasi-soak": [["soak"]],
    "cwasi-switch": [["switch"]],
    "cwasi-trace": [],
}
SECONDS = 240
RUNS = 5
CHANGED = "times while it ran)"
"""What `cwasi run` says where the policy has chosen anew."""


# ---- reading ----


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: Path
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> str:
        """What is typed."""
        if self.language != "console":
            return self.text
        return "".join(line[2:] + "\n" for line in self.text.splitlines() if line.startswith("$ "))

    @property
    def output(self) -> list[str]:
        """What a console block shows."""
        lines = self.text.splitlines() if self.language == "console" else []
        return [line for line in lines if not line.startswith("$ ")]

    @property
    def runs(self) -> bool:
        return self.language in ("sh", "console", "python")


def blocks(document: Path) -> Iterator[Block]:
    """Every fenced block, with the marks that stand right above it."""
    marks: dict[str, str] = {}
    lines = enumerate(document.read_text().splitlines(), 1)
    for number, line in lines:
        if mark := re.fullmatch(r"<!-- (no-test|exit|file): (.+) -->", line):
            marks[mark[1]] = mark[2]
        elif line.startswith("```"):
            text = ""
            for _, inner in lines:
                if inner == "```":
                    break
                text += inner + "\n"
            else:
                raise AssertionError(f"{document}:{number}: this block does not end")
            yield Block(document, number, line[3:], text, marks)
            marks = {}
        elif line.strip():
            assert not marks, f"{document}:{number}: a mark belongs right above a block"


def prose(document: Path) -> str:
    """A document without its blocks and code spans."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S))


def table(document: Path, *heading: str) -> list[list[str]]:
    """The rows of the table that begins with this heading, as plain cells."""
    lines = document.read_text().splitlines()
    start = lines.index(f"| {' | '.join(heading)} |")
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert rows
    return rows


def code_words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ---- running ----

# sudo: we are root, or have none. make: whether there is such a target, not hours of work.
PROLOGUE = """
set -euo pipefail
cd "$(cat "$STATE/cwd")"
. "$STATE/environment"
trap 'pwd >"$STATE/cwd"; export -p >"$STATE/environment"' EXIT
sudo() { "$@"; }
make() { command make -n "$@" >/dev/null; }
"""


class Session:
    """A shell that a reader of one document would have: it keeps its directory and its environment."""

    def __init__(self, directory: Path) -> None:
        self.tree = directory / "checkout"
        self.state = directory / "state"
        self.failed: Block | None = None
        self.tree.mkdir()
        self.state.mkdir()
        for entry in ROOT.iterdir():
            if entry.name not in (".git", "build"):
                (self.tree / entry.name).symlink_to(entry)
        # Directories of their own, so that what the documents write lands here.
        (self.tree / "build" / "functions").mkdir(parents=True)
        for entry in (ROOT / "build" / "functions").glob("*.wasm"):
            (self.tree / "build" / "functions" / entry.name).symlink_to(entry)
        (self.state / "cwd").write_text(f"{self.tree}\n")
        (self.state / "environment").write_text("")

    def cwd(self) -> Path:
        return Path((self.state / "cwd").read_text().rstrip("\n"))

    def run(self, block: Block) -> str:
        """All that the block prints. Fails where it ends with another status than it should."""
        if block.language == "python":
            script = f"python - <<'END-OF-PROGRAM'\n{block.text}END-OF-PROGRAM\n"
        else:
            script = block.commands
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        # Wide, so that no line of a report is folded.
        environment.update(STATE=str(self.state), COLUMNS="160", PYTHONWARNINGS="error")
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-c", PROLOGUE + script],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        wanted = int(block.marks.get("exit", 0))
        assert done.returncode == wanted, f"{block}: status {done.returncode}, not {wanted}:\n{script}\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Session]:
    """A session for each document, in which its blocks run in order."""
    return {document: Session(tmp_path_factory.mktemp("docs")) for document in DOCUMENTS}


@cache
def cannot_trace() -> str:
    return "; ".join(f"{check.name}: {check.found}" for check in requirements() if check.status == "fail")


def cannot_run(block: Block) -> str:
    """Why this block cannot be run on this machine; empty if it can."""
    commands = block.commands
    if "no-test" in block.marks:
        return block.marks["no-test"]
    if "sudo " in commands and os.geteuid() != 0:
        return "needs root"
    if "cwasi-trace" in commands and cannot_trace():
        return f"cannot trace here: {cannot_trace()}"
    if "clang " in commands and not shutil.which("clang"):
        return "no clang"
    if ("--transport redis" in commands or "RedisServer" in commands) and not shutil.which("redis-server"):
        return "no redis-server"
    if (photo := re.search(r"/usr/share/backgrounds/\S+", commands)) and not Path(photo[0]).exists():
        return f"no {photo[0]}"
    if "build/functions" in commands and not (ROOT / "build/functions").exists():
        return "the functions are not built"
    return ""


def plain(line: str) -> str:
    """A line without what differs from run to run: figures, and how wide the columns are for them.

    Outside tables a single digit is no figure: a mode, a status, a count of processes.
    """
    row_of_a_table = re.search(r"\S {2,}\S|^ ", line)
    line = re.sub(r"[0-9][0-9,.]*" if row_of_a_table else r"(?<!-)\b[0-9][0-9,.]+", "#", line)
    return re.sub(r"[\s\u2500]+", " ", line).strip()


RUNNABLE = [block for document in DOCUMENTS for block in blocks(document) if block.runs or "file" in block.marks]


@pytest.mark.parametrize("block", RUNNABLE, ids=str)
def test_block(block: Block, sessions: dict[Path, Session]) -> None:
    session = sessions[block.document]
    if session.failed:
        pytest.fail(f"{session.failed}, on which this may build, has failed")
    if "file" in block.marks:
        (session.cwd() / block.marks["file"]).write_text(block.text)
    if not block.runs:
        return
    reason = cannot_run(block)
    if reason:
        pytest.skip(f"{block}: {reason}")
    session.failed = block
    for _ in range(RUNS):   # on a busy machine one may last so long that the policy comes into it
        printed = session.run(block)
        if CHANGED not in printed or CHANGED in block.text:
            break
    shown_is_printed(block, printed)
    session.failed = None


def shown_is_printed(block: Block, printed: str) -> None:
    """Every line that a console block shows was printed, figures apart; `...` stands for any lines.

    In any order: the rows of a trace are sorted by their figures.
    """
    lines = [plain(line) for line in printed.splitlines()]
    for shown in (plain(line) for line in block.output):
        if shown in ("", "..."):
            continue
        pattern = re.escape(shown)
        if cut := re.match(r"(\S+) # # # (?:\S+ )*\S+$", shown):  # a row of a trace: which calls lead may vary
            pattern = re.escape(cut[1]) + r" # # # .*"
        assert any(re.fullmatch(pattern, line) for line in lines), f"{block}: nothing like {shown!r} in\n{printed}"


def test_there_is_something_to_run() -> None:
    per_language = {
        language: [b for b in RUNNABLE if b.language == language] for language in ("sh", "console", "python")
    }
    assert all(len(found) >= 3 for found in per_language.values())
    assert sum("no-test" in block.marks for block in RUNNABLE) <= 2


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_languages_are_known(document: Path) -> None:
    """Else a block in a language that is spelt otherwise would never run."""
    for block in blocks(document):
        assert block.language in ("sh", "console", "python", "c", "text"), block


# ---- what the documents say, against the code ----


def test_the_ten_lines_are_the_file() -> None:
    example = (ROOT / "examples" / "ten_lines.py").read_text()
    assert example in [block.text for block in blocks(ROOT / "README.md")]
    assert len(example.splitlines()) <= 10


def anchors(document: Path) -> set[str]:
    """What a heading is called in a link."""
    headings = re.findall(r"^#+ (.+)$", prose_with_code(document), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def prose_with_code(document: Path) -> str:
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), f"{document.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{document.name}: {target}"


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md", *MAN_PAGES], ids=lambda path: path.name)
def test_files_of_the_project_that_are_named_exist(document: Path) -> None:
    for name in re.findall(r"(?<![\w/.])((?:examples|tests|docs|csrc|probes)/[\w./-]+\.\w+)", document.read_text()):
        assert (ROOT / name).exists(), f"{document.name}: {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for target in re.findall(r"(?:`|^|sudo )make ([a-z][a-z-]*)", document.read_text(), flags=re.M):
        assert target in targets, f"{document.name}: make {target}"


def resolved(name: str) -> object:
    """What a dotted name means inside the package. Fields of records count."""
    import importlib

    found: object = importlib.import_module("cwasi_fastpath")
    for number, part in enumerate(parts := name.split("."), 1):
        if not hasattr(found, part) and inspect.ismodule(found):
            importlib.import_module(f"cwasi_fastpath.{'.'.join(parts[:number])}")
        if not hasattr(found, part) and part in getattr(found, "__annotations__", {}):
            return part
        found = getattr(found, part)
    return found


def test_words_are_in_the_package_or_planned() -> None:
    for word, meaning, where in table(ROOT / "docs/concepts.md", "word", "meaning", "in the package"):
        names = code_words(where)
        assert names or where.startswith("planned"), f"{word} ({meaning}) is nowhere"
        for name in names:
            resolved(name)


def test_the_pattern_of_names() -> None:
    for document in ("docs/concepts.md", "docs/guest-abi.md"):
        assert f"`{_NAME.pattern}`" in (ROOT / document).read_text()


def all_errors() -> dict[str, type[errors.Error]]:
    found = {
        name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, errors.Error)
    }
    return {**found, "TracerUnavailable": TracerUnavailable, "NoSuchTarget": NoSuchTarget}


def test_errors_and_their_exit_codes() -> None:
    documented = {
        code_words(name)[0]: code for name, _, code in table(ROOT / "docs/concepts.md", "error", "when", "exit code")
    }
    assert documented.pop("GuestExit") == "that status"
    assert documented == {name: str(kind.exit_code) for name, kind in all_errors().items() if name != "GuestExit"}


def documented_statuses(page: Path) -> set[int]:
    """The numbers in EXIT STATUS that are statuses: tags of a list, or the first word of a clause. Not 128+N."""
    section = page.read_text().partition(".SH EXIT STATUS\n")[2].partition("\n.SH ")[0]
    return {int(number) for number in re.findall(r"(?:^\.B |^|[;:,] )(\d+)\b(?!\+)", section, flags=re.M)}


def test_exit_statuses_of_the_man_pages() -> None:
    from cwasi_fastpath.cli import EXIT_CODES

    of_errors = {kind.exit_code for name, kind in all_errors().items() if name != "GuestExit"}
    outside = {0, 2, 130, 141}  # click's usage errors, Ctrl-C, SIGPIPE
    assert documented_statuses(ROOT / "docs/man/cwasi.1") == of_errors | outside
    assert {int(code) for code in re.findall(r"^  (\d+) ", EXIT_CODES, flags=re.M)} <= of_errors | outside
    for page in MAN_PAGES:
        of_commands = {126, 127} if page.stem == "cwasi-trace" else set()  # a shell's own statuses
        assert documented_statuses(page), page
        assert documented_statuses(page) <= of_errors | outside | of_commands, page


def test_exit_codes_in_prose_exist() -> None:
    known = {str(kind.exit_code) for kind in all_errors().values() if kind is not errors.GuestExit} | {"0", "130"}
    for document in DOCUMENTS:
        for code in re.findall(r"(?:exit code|ends with|status) (\d+)", prose(document)):
            assert code in known, f"{document.name}: {code}"


# ---- the guest ABI ----

ABI = ROOT / "docs/guest-abi.md"
HEADER = ROOT / "cwasi_fastpath/include/cwasi.h"


def test_imports() -> None:
    rows = table(ABI, "import", "in C", "parameters", "result")
    documented = {code_words(name)[0]: len(parameters.split(",")) for name, _, parameters, _ in rows}
    assert documented == {name: count for name, count, _ in _wasmtime._imports()}
    header = re.sub(r"\s+", " ", HEADER.read_text())
    declared = re.findall(r"CWASI_IMPORT\((\w+)\) (int32_t (\w+)\(.*?\));", header)
    assert {code_words(row[0])[0]: code_words(row[1])[0] for row in rows} == {name: c for name, _, c in declared}
    for _, declaration, _ in declared:
        assert f"`{declaration}`" in ABI.read_text()
    for name in documented:
        assert f"\n### {name}\n" in ABI.read_text()


def test_error_numbers() -> None:
    documented = {name: int(number) for name, number, _ in table(ABI, "error", "number", "meaning")}
    declared = re.findall(r"CWASI_(E\w+) = (\d+)", HEADER.read_text())
    assert documented == {name: int(number) for name, number in declared}
    described = ABI.read_text().partition("### channel_open")[2].partition("## Errors")[0]
    assert set(re.findall(r"\bE[A-Z]{2,}\b", described)) <= set(documented)


# ---- the man pages ----


def test_every_command_has_a_page() -> None:
    assert {page.stem for page in MAN_PAGES} == set(COMMANDS)


@pytest.mark.parametrize("page", MAN_PAGES, ids=lambda path: path.stem)
def test_page_renders_without_warnings(page: Path) -> None:
    if not shutil.which("groff"):
        pytest.skip("no groff")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", str(page)], capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert page.stem in done.stdout


@pytest.mark.parametrize("page", MAN_PAGES, ids=lambda path: path.stem)
def test_page_has_the_sections(page: Path) -> None:
    sections = re.findall(r"^\.SH (.+)$", page.read_text(), flags=re.M)
    wanted = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
    if page.stem == "cwasi-trace":
        wanted[4:4] = ["OVERHEAD", "CAVEATS"]
    assert [section for section in sections if section in wanted] == wanted
    for other in re.findall(r"^\.BR (cwasi\S*) \(1\)", page.read_text(), flags=re.M):
        assert (page.parent / f"{other.replace(chr(92), '')}.1").exists(), other


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


@pytest.mark.parametrize("page", MAN_PAGES, ids=lambda path: path.stem)
def test_page_lists_every_option(page: Path) -> None:
    if page.stem == "cwasi-trace":
        module, invocations = "cwasi_fastpath.cli.trace", COMMANDS["cwasi"][:1]
    else:
        module, invocations = "cwasi_fastpath.cli", COMMANDS[page.stem]
    offered: set[str] = set()
    for words in invocations:
        argv = [sys.executable, "-m", module, *words, "--help"]
        help_text = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=True).stdout
        offered |= options(help_text.partition("\nOptions:\n")[2].partition("\n\n")[0])
    assert len(offered) >= 2
    described = page.read_text().replace("\\-", "-")
    listed = described.partition("\n.SH OPTIONS\n")[2].partition("\n.SH ")[0]
    if page.stem == "cwasi":
        listed += described.partition("\n.SH COMMANDS\n")[2].partition("\n.SH ")[0]
    assert options(listed) == offered


def test_the_example_of_cwasi_trace_has_only_options_that_there_are() -> None:
    """Its figures are of one day; that its commands are understood is what can be told."""
    page = (ROOT / "docs/man/cwasi-trace.1").read_text().replace("\\-", "-")
    text = (ROOT / "docs/cwasi-trace_example.txt").read_text()
    commands = [line.partition(" -- ")[0] for line in re.findall(r"^[#$] (cwasi-trace .*)$", text, flags=re.M)]
    assert len(commands) >= 8
    for command in commands:
        for option in re.findall(r"(?<= )--?[a-zA-Z][\w-]*", command):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", page), option


# ---- what does not belong in a document ----


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md", *MAN_PAGES], ids=lambda path: path.name)
def test_nothing_of_one_machine(document: Path) -> None:
    text = document.read_text()
    assert not re.search(r"/(home|root|work)/|(?<!\w)(TODO|FIXME|XXX)(?!\w)|\S+@\S+\.\S+", text)
    long = [line for line in prose_with_code(document).splitlines() if len(line) > 120 and line[0] != "|"]
    assert document.suffix == ".1" or not long
