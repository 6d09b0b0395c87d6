#!/bin/bash
# Fuzzes what a hostile peer can reach: run.sh [CASES] [TARGET]. By default some seconds of each target.
# With clang's libFuzzer, which looks for new paths; without it random cases under gcc's sanitizers.
set -eu
cd "$(dirname "$0")/../.."
cases=${1:-}
out=build/fuzz
flags="-std=c11 -D_GNU_SOURCE -DCWASI_FAULTS -O1 -g -Wall -Wextra -Werror -Icsrc -Itests/fuzz -fno-sanitize-recover=all"
mkdir -p "$out"

if echo 'int LLVMFuzzerTestOneInput(const void *d, unsigned long n) { return d && n > 1ul << 60; }' |
    clang -fsanitize=fuzzer -x c -o "$out/probe" - 2>/dev/null; then
    guided=yes
else
    guided=no
fi

for target in ${2:-ring_fuzz pipe_fuzz pipes_fuzz tcp_fuzz}; do
    began=$SECONDS
    if [ $guided = yes ]; then
        clang $flags -fsanitize=fuzzer,address,undefined -o "$out/$target" tests/fuzz/$target.c csrc/*.c -pthread
        corpus=$out/corpus/$target
        mkdir -p "$corpus"
        limit=${cases:+-runs=$cases}
        "$out/$target" ${limit:--max_total_time=4} -max_len=400 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
            -artifact_prefix="$out/" "$corpus" >"$out/$target.log" 2>&1 || { tail -50 "$out/$target.log"; exit 1; }
        ran=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$target.log")
    else
        gcc $flags -fsanitize=address,undefined -o "$out/$target" tests/fuzz/$target.c tests/fuzz/standalone.c csrc/*.c -pthread
        ran=${cases:-50000}
        "$out/$target" "$ran" $RANDOM
    fi
    echo "$target: $ran cases in $((SECONDS - began)) s, guided: $guided"
done
