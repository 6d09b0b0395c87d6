#!/bin/bash
# The kill campaign: run.sh [long]. First, that a release build knows nothing of the points at which it kills.
set -eu
cd "$(dirname "$0")/../.."
kills=110
[ "${1:-}" != long ] || kills=1500
out=build/c/faults
flags="-std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -Icsrc"
mkdir -p "$out/with" "$out/without/csrc"

# The same objects, to the byte, as from sources without the points.
cp csrc/*.[ch] "$out/without/csrc"
sed -i '/^ *FAULT_POINT(\w*);$/d; /^#include "fault.h"$/d' "$out"/without/csrc/*.c
for source in $(grep -l 'FAULT_POINT' csrc/*.c); do
    gcc $flags -O2 -c -o "$out/with/object.o" "$source"
    (cd "$out/without" && gcc $flags -O2 -c -o object.o "$source")
    cmp "$out/with/object.o" "$out/without/object.o"
done

sanitize="-fsanitize=address,undefined -fno-sanitize-recover=all"
gcc $flags -Itests/c -O1 -g $sanitize -DCWASI_FAULTS -o "$out/kill_campaign" tests/faults/kill_campaign.c csrc/*.c -pthread
labels=$(sed -n 's/^ *FAULT_POINT(\(\w*\));$/\1/p' csrc/*.c)
exec "$out/kill_campaign" $kills $labels
