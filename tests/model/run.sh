#!/bin/bash
# Verifies ring.pml in small configurations, exhaustively, and that each mistake it knows is found in it.
# 0: all as it must be; 1: not; 77: spin is missing, nothing was verified.
set -u
cd "$(dirname "$0")/../.."
if ! command -v spin >/dev/null; then
    echo "tests/model: NOT VERIFIED: spin is missing (Debian: apt-get install spin)" >&2
    exit 77
fi
MODEL=$PWD/tests/model/ring.pml
export MODEL
rm -rf build/model
mkdir -p build/model
cd build/model || exit 1

# search NAME KIND FLAG...: one search in a directory of its own. KIND: ends (end states and assertions) or cycles (that
# there is none: with no progress labels in the model, every cycle is one without progress).
search() {
    local name=$1 kind=$2 mode=-DSAFETY option= level=-O1 table=24
    shift 2
    [ "$kind" = ends ] || { mode=-DNP; option=-l; }
    # Where gcc would take longer than the search. (SMALL says only this; the model does not know it.)
    [[ ! $* =~ -DM_|-DSMALL ]] || { level=-O0; table=18; }
    mkdir -p "$name.$kind" && cd "$name.$kind" || return 1
    spin -a "$@" "$MODEL" >spin.log 2>&1 && [ -e pan.c ] || { cat spin.log; return 1; }
    gcc "$level" -w "$mode" -DNOFAIR -DMEMLIM=900 -o pan pan.c || return 1
    ./pan $option -m20000 -w$table >pan.log 2>&1
}

# verify NAME KIND FLAG...: the search must end and find nothing.
verify() {
    local result=FAILED start=$(date +%s%N)
    search "$@"
    if grep -q 'errors: 0$' pan.log && ! grep -Eq 'not completed|too small|^error|^pan:1' pan.log; then
        result=ok
    fi
    printf '%-28s %-7s %-7s %9s states %6d ms\n' "$1" "$2" "$result" \
        "$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' pan.log)" $((($(date +%s%N) - start) / 1000000))
    [ "$result" = ok ] || { echo "    spin ${*:3}"; grep -E '^pan|^error|not completed|too small' pan.log; false; }
}

# refute NAME REASON MISTAKE FLAG...: the search must find that very thing.
refute() {
    local name=$1 reason=$2 kind=ends text result=FOUND
    shift 2
    case $reason in
        sleeps) text='invalid end state' ;;
        asserts) text='assertion violated' ;;
        cycles) text='non-progress cycle'; kind=cycles ;;
    esac
    search "$name" "$kind" "$@"
    grep -q "^pan:1: $text" pan.log || result="NOT FOUND"
    printf '%-28s %-7s %s\n' "$name" "$reason" "$result"
    [ "$result" = FOUND ] || { echo "    spin $*"; grep -E '^pan|errors:' pan.log; false; }
}
export -f search verify refute

# At most two at a time: together they stay below 2 GB. The long ones first.
jobs=$(nproc)
in_parallel() {
    xargs -P $((jobs > 2 ? 2 : jobs)) -I LINE bash -c 'set -u; LINE'
}

failed=0
echo "== the protocol: nobody sleeps for ever (ends), nobody spins for ever (cycles)"
in_parallel <<'LIST' || failed=1
verify two-receivers-one-dies ends -DRECEIVERS=2 -DSENDER_WAYS=2 -DDIES=2 -DMESSAGES=2 -DLONG=9
verify two-receivers-stop ends -DRECEIVERS=2 -DSTOPS=2 -DMESSAGES=2 -DLONG=9
verify rings-sender-dies ends -DRINGS=2 -DWAYS=2 -DSENDER_WAYS=1 -DDIES=1 -DMESSAGES=1 -DLONG=9
verify two-receivers ends -DRECEIVERS=2 -DWAYS=3 -DMESSAGES=1
verify rings-stop ends -DRINGS=2 -DWAYS=2 -DSENDER_WAYS=1 -DSTOPS=2 -DIDLES=1 -DMESSAGES=1 -DLONG=9
verify rings ends -DRINGS=2 -DWAYS=3 -DSENDER_WAYS=1 -DMESSAGES=1
verify rings cycles -DRINGS=2 -DWAYS=2 -DSENDER_WAYS=1 -DMESSAGES=1
verify two-receivers-one-dead cycles -DSMALL -DRECEIVERS=2 -DSENDER_WAYS=3 -DDIES=4 -DMESSAGES=3
verify two-receivers-sender-dies ends -DRECEIVERS=2 -DDIES=1 -DMESSAGES=1 -DLONG=9
verify two-receivers-close ends -DRECEIVERS=2 -DSENDER_WAYS=2 -DCLOSES=1 -DMESSAGES=2 -DLONG=9
verify two-receivers-short ends -DSMALL -DRECEIVERS=2 -DMESSAGES=2 -DLONG=9
verify two-receivers-short cycles -DSMALL -DRECEIVERS=2 -DMESSAGES=2 -DLONG=9
verify stop-sender ends -DWAYS=3 -DSTOPS=1 -DIDLES=2 -DMESSAGES=3
verify stop-sender cycles -DWAYS=3 -DSTOPS=1 -DIDLES=2 -DMESSAGES=2
verify stop-receiver ends -DWAYS=3 -DSTOPS=2 -DIDLES=1 -DMESSAGES=3
verify stop-receiver cycles -DWAYS=3 -DSTOPS=2 -DIDLES=1 -DMESSAGES=2
verify sender-dies ends -DWAYS=3 -DDIES=1 -DMESSAGES=3
verify sender-dies cycles -DWAYS=3 -DDIES=1 -DMESSAGES=2
verify receiver-dies ends -DWAYS=3 -DDIES=2 -DMESSAGES=3
verify receiver-dies cycles -DWAYS=3 -DDIES=2 -DMESSAGES=2
verify receiver-closes ends -DSMALL -DWAYS=3 -DCLOSES=1
verify receiver-closes cycles -DSMALL -DWAYS=3 -DCLOSES=1
verify three-units ends -DSMALL -DWAYS=3 -DCAPACITY=3
verify three-units cycles -DSMALL -DWAYS=3 -DCAPACITY=3
verify late-clear ends -DSMALL -DWAYS=3 -DLATE_CLEAR
verify late-clear cycles -DSMALL -DWAYS=3 -DLATE_CLEAR
verify one-receiver ends -DSMALL -DWAYS=3
verify one-receiver cycles -DSMALL -DWAYS=3
LIST

echo "== mistakes: each must be found"
in_parallel <<'LIST' || failed=1
refute no-second-look-futex sleeps -DM_NO_SECOND_LOOK
refute no-second-look-bell sleeps -DM_NO_SECOND_LOOK -DWAYS=2
refute no-second-look-rings sleeps -DM_NO_SECOND_LOOK -DRINGS=2 -DWAYS=2 -DMESSAGES=1
refute wake-before-publish sleeps -DM_WAKE_FIRST
refute sleep-unchecked sleeps -DM_UNCHECKED_SLEEP
refute cleared-too-soon-bell sleeps -DM_CLEARED_BEFORE_SLEEP -DWAYS=2
refute cleared-too-soon-futex cycles -DM_CLEARED_BEFORE_SLEEP
refute way-as-loaded sleeps -DM_LOADED_WAY -DWAYS=3
refute bell-forgotten sleeps -DM_BELL_FORGOTTEN -DWAYS=2
refute drained-before-poll sleeps -DM_DRAINED_BEFORE_POLL -DWAYS=2
refute drained-before-poll-rings sleeps -DM_DRAINED_BEFORE_POLL -DRINGS=2 -DWAYS=2 -DMESSAGES=1
refute never-drained cycles -DM_NEVER_DRAINED -DWAYS=2
refute end-read-after-head asserts -DM_END_AFTER_HEAD
refute end-wakes-nobody sleeps -DM_SILENT_END
refute end-clears-peer-unrung sleeps -DM_PEER_CLEARED -DWAYS=2
refute stop-clears-peer-unrung sleeps -DM_STOP_CLEARS_PEER -DWAYS=2 -DSTOPS=2 -DMESSAGES=1
refute stop-after-waking sleeps -DM_STOP_LATE -DSTOPS=2 -DIDLES=1
refute death-wakes-parked-futex sleeps -DM_DEATH_WAKES_PARKED -DDIES=1
refute death-wakes-parked-bell sleeps -DM_DEATH_WAKES_PARKED -DDIES=1 -DWAYS=2
refute death-shuts-bell cycles -DM_DEATH_SHUTS -DRECEIVERS=2 -DSENDER_WAYS=2 -DDIES=4
refute dead-one-counted sleeps -DM_DEAD_COUNTED -DRECEIVERS=2 -DDIES=2 -DMESSAGES=1
refute fastest-reader-counts asserts -DM_FASTEST_COUNTS -DRECEIVERS=2 -DMESSAGES=1
refute head-before-data asserts -DM_HEAD_EARLY
refute tail-before-copy asserts -DM_TAIL_EARLY
refute piece-over-half sleeps -DM_LARGE_PIECES
refute modulus-of-capacity asserts -DM_NARROW_COUNTERS
LIST

[ $failed = 0 ] && echo "model: ok" || echo "model: FAILED"
exit $failed
