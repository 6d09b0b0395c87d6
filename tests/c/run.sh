#!/bin/bash
# Builds and runs the C tests under one sanitizer: run.sh asan|tsan [NAME...]. Exits with 1 if one fails.
set -u
cd "$(dirname "$0")/../.."
kind=${1:?asan or tsan}
shift
case $kind in
    asan) flags="-fsanitize=address,undefined -fno-sanitize-recover=all" ;;
    tsan) flags="-fsanitize=thread" ;;
    *) echo "asan or tsan, not $kind" >&2; exit 2 ;;
esac
out=build/c/$kind
mkdir -p "$out"
rm -f "$out"/*.o
[ $# -gt 0 ] || set -- $(cd tests/c && echo *.c | sed 's/\.c\b//g')

# The data plane once, then each test against it: built side by side, run one after the other.
build="gcc -std=c11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -Icsrc $flags"
side_by_side() {
    xargs -P "$(nproc)" -I NAME sh -c "$1"
}
(cd csrc && printf '%s\n' *.c) | side_by_side "$build -c -o $out/NAME.o csrc/NAME" || exit 1
printf '%s\n' "$@" | side_by_side "$build -o $out/NAME tests/c/NAME.c $out/*.c.o -pthread" || exit 1
failed=0
for name; do
    start=$(date +%s%N)
    "$out/$name"
    code=$?
    case $code in
        0) result=ok ;;
        77) result=skipped ;;
        *) result="FAILED ($code)"; failed=1 ;;
    esac
    printf '%-20s %-12s %5d ms\n' "$name" "$result" $((($(date +%s%N) - start) / 1000000))
done
exit $failed
