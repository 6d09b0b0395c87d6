"""BPF programs and their readers, side by side: `x.bpf.c` counts in the kernel, `x.py` loads it and reads its maps.

The programs use raw tracepoints and helpers only and never look into a kernel structure, so the few headers in
`headers/` are all they are compiled with where the machine has none. Only `cwasi_fastpath.tracer` imports this package.
"""
