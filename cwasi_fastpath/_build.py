"""Builds the extension cwasi_fastpath._cwasi from csrc/ (cffi, API mode, abi3).

The declarations come from the marked region of the public header: there is no second copy to keep in step.
"""

from pathlib import Path

from cffi import FFI

HEADER = "csrc/cwasi_fastpath.h"
ROOT = Path(__file__).parent.parent
FLAGS = ["-std=c11", "-O2", "-flto=auto", "-pthread"]
"""-flto=auto: a message crosses five files, and every call between them would show."""


def declarations() -> str:
    """The part of the header between the cdef marks."""
    text = (ROOT / HEADER).read_text()
    return text.partition("/* cdef: begin */")[2].partition("/* cdef: end */")[0]


builder = FFI()
builder.cdef(declarations())
builder.set_source(
    "cwasi_fastpath._cwasi",
    '#include "cwasi_fastpath.h"',
    # Relative to setup.py, as setuptools wants them.
    sources=[str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc").glob("*.c"))],
    depends=[str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc").glob("*.h"))],
    include_dirs=["csrc"],
    define_macros=[("_GNU_SOURCE", "1")],
    extra_compile_args=[*FLAGS, "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
    extra_link_args=FLAGS,
    py_limited_api=True,
)
