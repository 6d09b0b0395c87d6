"""What is built and installed: nothing forgotten, one source of truth."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import cwasi_fastpath
from cwasi_fastpath._build import builder, declarations
from cwasi_fastpath._native import lib

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cwasi_fastpath"


def setup_arguments() -> dict[str, Any]:
    """What setup.py gives to setup()."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}


def directories() -> dict[str, Path]:
    """Each package, where it is on disk."""
    found = {".".join(path.parent.relative_to(ROOT).parts): path.parent for path in PACKAGE.rglob("__init__.py")}
    return found | {
        ".".join(["cwasi_fastpath", "probes", *path.parent.relative_to(ROOT / "probes").parts]): path.parent
        for path in (ROOT / "probes").rglob("__init__.py")
    }


def test_every_package_is_installed() -> None:
    assert sorted(setup_arguments()["packages"]) == sorted(directories())


def test_no_package_lacks_its_init() -> None:
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "probes").rglob("*.py")):
        assert (path.parent / "__init__.py").is_file(), path


def test_every_data_file_is_installed() -> None:
    """What the code reads beside itself: headers, probes, modules as text."""
    data = setup_arguments()["package_data"]
    for name, directory in directories().items():
        for path in directory.rglob("*"):
            inside = path.relative_to(directory)
            owner = max((other for other, d in directories().items() if d in path.parents), key=len)
            if owner != name or path.suffix not in {".c", ".h", ".wat", ".typed"} or path.name == "_cwasi.c":
                continue
            patterns = data.get(name, [])
            assert any(fnmatch(str(inside), pattern.replace("**/", "*")) for pattern in patterns), f"{name}: {inside}"


def test_the_declarations_are_the_header() -> None:
    text = declarations()
    functions = re.findall(r"\b(cwasi_\w+)\(", re.sub(r"/\*.*?\*/", "", text, flags=re.S))
    assert len(functions) > 15
    for name in functions:
        assert hasattr(lib, name), f"{name} is declared; build again"
    assert "#" not in text, "cffi reads no preprocessor"
    assert builder is not None


def test_every_c_file_is_compiled_in() -> None:
    recipe = builder._assigned_source[-1]   # type: ignore[attr-defined]
    assert sorted(recipe["sources"]) == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.c"))


def test_public_names_exist() -> None:
    assert sorted(cwasi_fastpath.__all__) == list(cwasi_fastpath.__all__)
    for name in cwasi_fastpath.__all__:
        assert getattr(cwasi_fastpath, name) is not None
    assert set(cwasi_fastpath._LAZY) < set(cwasi_fastpath.__all__)


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == cwasi_fastpath.__version__
    assert f"wasmtime=={__import__('cwasi_fastpath._wasmtime')._wasmtime.PINNED}" in project["dependencies"]


def test_importing_the_package_is_cheap() -> None:
    """Neither wasmtime (40 ms) nor other large ones come with it."""
    program = "import sys, cwasi_fastpath; cwasi_fastpath.Error; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not {"wasmtime", "redis", "click", "rich", "psutil", "bcc", "pyroute2"} & set(done.stdout.split())
