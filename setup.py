from setuptools import setup

setup(
    cffi_modules=["cwasi_fastpath/_build.py:builder"],
    packages=[
        "cwasi_fastpath",
        "cwasi_fastpath.bench",
        "cwasi_fastpath.cli",
        "cwasi_fastpath.live",
        "cwasi_fastpath.policy",
        "cwasi_fastpath.probes",
        "cwasi_fastpath.soak",
        "cwasi_fastpath.transport",
    ],
    package_dir={"cwasi_fastpath": "cwasi_fastpath", "cwasi_fastpath.probes": "probes"},
    package_data={
        "cwasi_fastpath": ["include/*.h", "py.typed"],
        "cwasi_fastpath.bench": ["*.wat"],
        "cwasi_fastpath.live": ["*.wat"],
        "cwasi_fastpath.probes": ["*.c", "*.h", "headers/**/*.h"],
        "cwasi_fastpath.soak": ["*.wat"],
    },
    # One extension for every Python from 3.11 on (abi3).
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
