/* ring.pml - the ring's indices and its wait protocol (csrc/ring.c, csrc/wait.c), for spin. See run.sh.
 *
 * What is shown, for the small configurations in run.sh:
 *   - nobody sleeps for ever while what it waits for is there: every end state is one in which all have ended;
 *   - every run ends: there is no cycle at all, so no waiter can spin, whatever the scheduler does. The number of
 *     messages is finite, nothing here is timed and nothing is fair, so neither property depends on the limit that the
 *     product sets to each sleep;
 *   - each receiver gets what was published, whole, once and in order, and all of it before it learns of an end;
 *   - the sender never writes over what a receiver that it counts with has not yet copied out.
 *
 * Promela is sequentially consistent. So is the product where it matters: the words that decide on sleeping and waking
 * (head, tail, the states, stop, parked) are accessed by the `*_ordered` operations of barrier.h, and a futex call or a
 * socket call orders what is around it. The one exception, the relaxed store that clears parked, may become visible
 * later than the look that follows it; LATE_CLEAR is a configuration in which it does. The data are ordered by head and
 * tail, release and acquire being part of sequential consistency.
 *
 * Left out: spinning before the sleep (only more looks), time-outs of the caller, spurious wakes, a hostile peer, the
 * claim of an end, a receiver that joins later. A process that was halted between two steps is merely slow here: while
 * a receiver is halted between its exchange and the call, the sender of a broadcast ring sleeps on, although another
 * receiver has made room too; that is what the limit of a sleep is good for.
 *
 * What the protocol needs beside the steps themselves: each waiter has a bell of its own, which nobody else drains; an
 * end that was stopped, finished or failed is no longer polled, for its bell may be readable for ever.
 *
 * One step below is one access to shared memory or one system call, with the private work around it.
 *
 * Configuration (-D): RECEIVERS of one ring, or RINGS with one common receiver. CAPACITY in units. MESSAGES a ring, of
 * one and two units by turns; message LONG is longer than the ring; SHORT, all are of one unit. WAYS to sleep: 1
 * futex, 2 bell, 3 either each time; SENDER_WAYS where the senders' are others. STOPS by another thread: 1 sender 0, 2
 * receiver 0. DIES, at any point: 1 sender 0, 2 receiver 0; 4 receiver 0 before its first step. CLOSES: receivers may
 * close before the end. IDLES, for ever but alive, so that the stop, which is then sure to come, must do without it: 1
 * sender 0, 2 receiver 0. M_... are mistakes, of which each must be found.
 */
#ifndef RECEIVERS
#define RECEIVERS 1
#endif
#ifndef RINGS
#define RINGS 1
#endif
#ifndef CAPACITY
#define CAPACITY 2
#endif
#ifndef MESSAGES
#define MESSAGES 4
#endif
#ifndef LONG
#define LONG 0
#endif
#ifndef WAYS
#define WAYS 1
#endif
#ifndef SENDER_WAYS
#define SENDER_WAYS WAYS
#endif
#ifndef STOPS
#define STOPS 0
#endif
#ifndef DIES
#define DIES 0
#endif
#ifndef IDLES
#define IDLES 0
#endif
#ifndef CLOSES
#define CLOSES 0
#endif

#define ENDS        (RINGS * RECEIVERS)         /* receiving ends; one process has RINGS of them */
#define RING(e)     ((e) / RECEIVERS)
#define S(r)        (r)                         /* the words of a sending end ... */
#define R(e)        (RINGS + (e))               /* ... and of a receiving end */

/* head and tail are 2^64 wide in the product; what counts is that the capacity divides the modulus and is smaller. */
#ifdef M_NARROW_COUNTERS
#define MODULUS     CAPACITY
#else
#define MODULUS     (2 * CAPACITY)
#endif
#define PLUS(a, b)  (((a) + (b)) % MODULUS)
#define MINUS(a, b) (((a) + MODULUS - (b)) % MODULUS)

/* A message: one unit of header, then its bytes, of which a piece is one unit: no more than half of the ring. */
#ifdef SHORT
#define LENGTH(m)   1
#else
#define LENGTH(m)   ((m) == LONG -> CAPACITY + 1 : 1 + (m) % 2)
#endif
#define UNIT(m, at) ((m) * 8 + (at) + 1)
#ifdef M_LARGE_PIECES
#define PIECE       CAPACITY
#else
#define PIECE       1
#endif
#define REST(m, at) (LENGTH(m) - (at) < PIECE -> LENGTH(m) - (at) : PIECE)

#define OPEN 0          /* sender_state, receiver_state */
#define FINISHED 1
#define FAILED 2

#define NOT_YET 0       /* what a look returns */
#define READY 1
#define AT_END 2        /* -EPIPE */
#define BROKEN 3        /* -ECONNRESET */
#define CANCELED 4      /* -ECANCELED; also a value of stop */
#define GONE 5          /* a value of stop: the peer is dead */

#define AWAKE 0         /* parked */
#define ON_FUTEX 1
#define ON_BELL 2

/* ---- shared: the control page and the data ---- */
byte head[RINGS], tail[ENDS];
byte sender_state[RINGS], receiver_state[ENDS];
byte parked[RINGS + ENDS];
byte slot[RINGS * CAPACITY];

/* ---- in the process of an end, and in the kernel ---- */
byte stop[RINGS + ENDS];
bool receiver_gone[ENDS];       /* the sender's: this receiver is dead */
bool asleep[RINGS + ENDS];      /* queued on the futex */
bool rung[RINGS + ENDS];        /* the bell is readable */
bool shut[RINGS + ENDS];        /* and stays so for ever */

/* ---- for the properties only ---- */
bool sender_killed[RINGS], receiver_killed[ENDS];
byte written[RINGS], published[RINGS], copied[ENDS];    /* units since the start, not modulo anything */

/* ==== waking ==== */

/* The call that follows an exchange which gave v. */
inline ring_or_wake(w)
{
    d_step {
        if
#ifdef M_BELL_FORGOTTEN
        :: v != AWAKE -> asleep[w] = false
#else
        :: v == ON_FUTEX -> asleep[w] = false
        :: v == ON_BELL -> rung[w] = true
#endif
        :: else
        fi;
        v = AWAKE
    }
}

/* wake_parked: after a publication. */
inline wake_parked(w)
{
    if
#ifdef M_LOADED_WAY
    :: d_step { parked[w] != AWAKE -> v = parked[w] };
        parked[w] = AWAKE;
#else
    :: parked[w] != AWAKE ->
        d_step { v = parked[w]; parked[w] = AWAKE };
#endif
        ring_or_wake(w)
    :: else
    fi
}

/* wait_wake of the peer: after a state was stored. Whatever its word says, it is woken; but a bell that it waits for
 * must be rung by who took the word away. */
inline wake_peer(w)
{
#ifndef M_SILENT_END
#ifdef M_PEER_CLEARED
    parked[w] = AWAKE;
#else
    d_step { v = parked[w]; parked[w] = AWAKE };
#endif
    d_step {
        asleep[w] = false;
        rung[w] = (v == ON_BELL -> true : rung[w]);
        v = AWAKE
    }
#else
    skip
#endif
}

/* ==== sleeping: the inside of wait_until ==== */

inline arm(w, ways)
{
    if
    :: d_step { (ways & 1) -> parked[w] = ON_FUTEX; way = ON_FUTEX }
    :: d_step { (ways & 2) -> parked[w] = ON_BELL; way = ON_BELL }
    fi
}

/* wait_sleep, or poll. */
inline sleep(w)
{
#ifdef M_CLEARED_BEFORE_SLEEP
    parked[w] = AWAKE;
#endif
    if
#ifdef M_UNCHECKED_SLEEP
    :: way == ON_FUTEX ->
        asleep[w] = true;
        !asleep[w]
#else
    :: d_step { way == ON_FUTEX && parked[w] == ON_FUTEX -> asleep[w] = true };
        !asleep[w]
    :: way == ON_FUTEX && parked[w] != ON_FUTEX
#endif
#ifdef M_DRAINED_BEFORE_POLL
    :: d_step { way == ON_BELL -> rung[w] = false };
        rung[w] || shut[w]
#else
    :: way == ON_BELL && (rung[w] || shut[w])
#ifndef M_NEVER_DRAINED
        -> rung[w] = false
#endif
#endif
    fi;
    way = AWAKE
}

/* ==== the sender ==== */

/* look_for_room: a receiver that has closed or died no longer counts; without any the ring is broken.
 * The two words that say so never go back: reading them in one step is reading them at some moment in between. */
inline look_for_room()
{
    d_step { result = (stop[S(r)] == CANCELED -> CANCELED : NOT_YET) };
    if
    :: d_step { result == NOT_YET -> i = 0; left = 0 };
        do
        :: i < RECEIVERS && dropped[i] -> i++
        :: i < RECEIVERS && !dropped[i] ->
            d_step {
                if
                :: receiver_state[r * RECEIVERS + i] != OPEN -> dropped[i] = true
#ifndef M_DEAD_COUNTED
                :: receiver_gone[r * RECEIVERS + i] -> dropped[i] = true
#endif
                :: else
                fi;
                left = left + !dropped[i];
                i++
            }
        :: i == RECEIVERS ->
            d_step {
                if
                :: left == 0 -> result = BROKEN
                :: left > 0 && CAPACITY - MINUS(cursor, seen) >= want -> result = READY
                :: else
                fi;
                left = 0; i = 0
            };
            break
        od;
        if
        :: d_step { result == NOT_YET -> most = 0; least = CAPACITY };
            do
            :: i < RECEIVERS && dropped[i] -> i++
            :: i < RECEIVERS && !dropped[i] ->
                d_step {
                    assert(MINUS(tail[r * RECEIVERS + i], seen) <= MINUS(head[r], seen));    /* else -EBADMSG */
                    n = MINUS(cursor, tail[r * RECEIVERS + i]);
                    most = (n > most -> n : most);
                    least = (n < least -> n : least);
                    n = 0;
                    i++
                }
            :: i == RECEIVERS ->
                d_step {
#ifdef M_FASTEST_COUNTS
                    seen = MINUS(cursor, least);
#else
                    seen = MINUS(cursor, most);
#endif
                    result = (CAPACITY - MINUS(cursor, seen) >= want -> READY : NOT_YET);
                    i = 0; most = 0; least = 0
                };
                break
            od
        :: else
        fi
    :: else
    fi
}

/* await and wait_until. */
inline await_room()
{
    do
    :: true ->
        look_for_room();
        atomic {
            if
            :: result != NOT_YET -> break
            :: else
            fi;
            arm(S(r), SENDER_WAYS)
        };
#ifndef M_NO_SECOND_LOOK
        look_for_room();
#endif
        if
        :: result == NOT_YET -> sleep(S(r))
        :: else -> way = AWAKE
        fi;
        atomic {
            parked[S(r)] = AWAKE;
            if
            :: result != NOT_YET -> break
            :: else
            fi
        }
    od
}

/* publish: head, then whoever sleeps. */
inline publish_head()
{
#ifndef M_WAKE_FIRST
    d_step { head[r] = cursor; published[r] = written[r] };
#endif
    do
    :: i < RECEIVERS && dropped[i] -> i++
    :: i < RECEIVERS && !dropped[i] -> wake_parked(R(r * RECEIVERS + i)); i++
    :: i == RECEIVERS -> break
    od;
    i = 0;
#ifdef M_WAKE_FIRST
    d_step { head[r] = cursor; published[r] = written[r] };
#endif
}

#define SENDER_PRIVATE byte cursor, seen, want, put, message, at, result, way, v, i, left, n, most, least; \
    bool dropped[RECEIVERS]

/* ring_send, again and again, then ring_finish. */
inline send(r)
{
    do
    :: (IDLES & 1) && r == 0 && at == 0 ->
end_idle:
        false
    :: message < MESSAGES ->
        /* A message that fits waits for all of its room at once, a longer one for each piece. The header goes out
         * with the first piece. */
        d_step {
            put = (at == 0 -> 1 : REST(message, at));
            want = (LENGTH(message) > CAPACITY -> put : (at == 0 -> LENGTH(message) : 0))
        };
        if
        :: want > 0 -> await_room()
        :: else -> result = READY
        fi;
        if
        :: d_step { result != READY ->
                assert(result == CANCELED || RECEIVERS == 1 || (dropped[0] && dropped[RECEIVERS - 1])) };
            goto close
        :: else
        fi;
#ifdef M_HEAD_EARLY
        head[r] = PLUS(cursor, put);
#endif
        do
        :: d_step { put > 0 ->
                for (i : 0 .. RECEIVERS - 1) {
                    assert(dropped[i] || written[r] - copied[r * RECEIVERS + i] < CAPACITY)
                }
                i = 0;
                slot[r * CAPACITY + cursor % CAPACITY] = UNIT(message, at);
                cursor = PLUS(cursor, 1);
                written[r]++;
                at++;
                put--
            }
        :: else -> break
        od;
        if
        :: at > 1 || LENGTH(message) == 1 -> publish_head()
        :: else
        fi;
        d_step {
            if
            :: at == LENGTH(message) -> at = 0; message++
            :: else
            fi
        }
    :: else -> break
    od;
close:
    sender_state[r] = (result == READY -> FINISHED : FAILED);
    do
    :: i < RECEIVERS -> wake_peer(R(r * RECEIVERS + i)); i++
    :: else -> break
    od
}

proctype Sender(byte r)
{
    SENDER_PRIVATE;
    send(r)
}

/* Apart, because spin takes no step inside an unless for private, and so has more of them to interleave. */
#if DIES & 1
proctype MortalSender(byte r)
{
    SENDER_PRIVATE;
    { send(r) } unless { sender_killed[r] }
}
#endif

/* ==== the receiver: its private words are arrays, for it may have an end of several rings ==== */

#define HAS(k, units) (MINUS(seen[k], cursor[k]) >= (units))

/* look_for_data: the end is read before head. */
inline look_for_data(e, k)
{
    d_step {
        ended = stop[R(e)];
        result = (ended == CANCELED -> CANCELED : (HAS(k, want) -> READY : NOT_YET))
    };
    if
#ifdef M_END_AFTER_HEAD
    :: d_step { result == NOT_YET -> seen[k] = head[RING(e)] };
        d_step {
            state = sender_state[RING(e)];
#else
    :: d_step { result == NOT_YET -> state = sender_state[RING(e)] };
        d_step {
            seen[k] = head[RING(e)];
#endif
            if
            :: HAS(k, want) -> result = READY
            :: !HAS(k, want) && state == FINISHED -> assert(seen[k] == cursor[k]); result = AT_END
            :: !HAS(k, want) && state != FINISHED && (state == FAILED || ended == GONE) -> result = BROKEN
            :: else
            fi;
            state = OPEN
        }
    :: else
    fi;
    ended = 0
}

/* await and wait_until. */
inline await_data(e, k)
{
    do
    :: true ->
        look_for_data(e, k);
        atomic {
            if
            :: result != NOT_YET -> break
            :: else
            fi;
            arm(R(e), WAYS)
        };
#ifndef M_NO_SECOND_LOOK
        look_for_data(e, k);
#endif
        if
        :: result == NOT_YET -> sleep(R(e))
        :: else -> way = AWAKE
        fi;
#ifndef LATE_CLEAR
        atomic {
            parked[R(e)] = AWAKE;
            if
            :: result != NOT_YET -> break
            :: else
            fi
        }
#else
        if
        :: result != NOT_YET -> parked[R(e)] = AWAKE; break
        :: else -> look_for_data(e, k)
        fi;
        parked[R(e)] = AWAKE;
        if
        :: result != NOT_YET -> break
        :: else
        fi
#endif
    od
}

/* publish: tail, then the sender if it sleeps. */
inline publish_tail(e, k)
{
#ifdef M_WAKE_FIRST
    wake_parked(S(RING(e)));
    tail[e] = cursor[k]
#else
    tail[e] = cursor[k];
    wake_parked(S(RING(e)))
#endif
}

/* The rest of ring_peek and ring_take: `want` units are there. */
inline copy_out(e, k)
{
#ifdef M_TAIL_EARLY
    tail[e] = PLUS(cursor[k], want);
#endif
    do
    :: d_step { want > 0 ->
            assert(slot[RING(e) * CAPACITY + cursor[k] % CAPACITY] == UNIT(message[k], at[k]));
            cursor[k] = PLUS(cursor[k], 1);
            copied[e]++;
            at[k]++;
            want--
        }
    :: else -> break
    od;
    if
    :: at[k] > 1 || LENGTH(message[k]) == 1 -> publish_tail(e, k)
    :: else
    fi;
    d_step {
        if
        :: at[k] == LENGTH(message[k]) -> at[k] = 0; message[k]++
        :: else
        fi
    }
}

/* ring_finish. The reason for it must be true, and nothing may be left that could have been read. */
inline close_receiver(e, k)
{
    d_step {
        assert(result != AT_END || (copied[e] == written[RING(e)] && message[k] == MESSAGES));
        assert(result != BROKEN || published[RING(e)] - copied[e] < want);
        assert(result != BROKEN || sender_state[RING(e)] == FAILED || sender_killed[RING(e)]);
        assert(result != CANCELED || stop[R(e)] == CANCELED);
        want = 0
    };
    receiver_state[e] = (result == AT_END || result == READY -> FINISHED : FAILED);
    wake_peer(S(RING(e)))
}

#define RECEIVER_PRIVATE byte cursor[1], seen[1], message[1], at[1], want, result = READY, way, v, ended, state

/* ring_peek and ring_take, again and again, then ring_finish. */
inline receive(e)
{
    do
    :: (IDLES & 2) && e == 0 && at[0] == 0 ->
end_idle:
        false
    :: CLOSES && at[0] == 0 -> break
    :: true ->
        want = (at[0] == 0 -> 1 : REST(message[0], at[0]));
        await_data(e, 0);
        if
        :: result == READY -> copy_out(e, 0)
        :: else -> break
        fi
    od;
    close_receiver(e, 0)
}

proctype Receiver(byte e)
{
    RECEIVER_PRIVATE;
    receive(e)
}

#if DIES & 2
proctype MortalReceiver(byte e)
{
    RECEIVER_PRIVATE;
    { receive(e) } unless { receiver_killed[e] }
}
#endif

#if RINGS > 1
/* ==== waiting on several rings at once: arm all, look at all, poll the bells, drain them, disarm all ==== */

/* result and on: of the first ring that has something, data or an end. */
inline look_at_all()
{
    on = 0;
    do
    :: on < RINGS && !closed[on] ->
        look_for_data(on, on);
        if
        :: result != NOT_YET -> break
        :: else -> on++
        fi
    :: on < RINGS && closed[on] -> on++
    :: on == RINGS -> break
    od
}

inline set_all(value)
{
    i = 0;
    do
    :: i < RINGS && !closed[i] -> parked[R(i)] = value; i++
    :: i < RINGS && closed[i] -> i++
    :: i == RINGS -> break
    od;
    i = 0
}

#define READABLE(e) (!closed[e] && (rung[R(e)] || shut[R(e)]))

inline await_any()
{
    do
    :: true ->
        result = NOT_YET;
        look_at_all();
        if
        :: result != NOT_YET -> break
        :: else
        fi;
        set_all(ON_BELL);
#ifndef M_NO_SECOND_LOOK
        look_at_all();
#endif
        if
        :: result == NOT_YET ->
#ifdef M_DRAINED_BEFORE_POLL
            rung[R(0)] = false;
            rung[R(1)] = false;
#endif
            READABLE(0) || READABLE(1);
#if !defined(M_DRAINED_BEFORE_POLL) && !defined(M_NEVER_DRAINED)
            rung[R(0)] = false;
            rung[R(1)] = false
#endif
        :: else
        fi;
        set_all(AWAKE);
        if
        :: result != NOT_YET -> break
        :: else
        fi
    od
}

/* A message begins on whichever ring has one; its pieces are waited for on that ring alone. */
proctype ReceiverOfAll()
{
    byte cursor[RINGS], seen[RINGS], message[RINGS], at[RINGS];
    byte want, result = READY, way, v, ended, state, on, i, count;
    bool closed[RINGS];
    do
    :: count < RINGS ->
        want = 1;
        await_any();
        do
        :: result != READY ->
            close_receiver(on, on);
            closed[on] = true;
            count++;
            break
        :: else ->
            copy_out(on, on);
            if
            :: at[on] == 0 -> break
            :: else ->
                want = REST(message[on], at[on]);
                await_data(on, on)
            fi
        od
    :: else -> break
    od
}
#endif

/* ==== from outside ==== */

#ifdef M_STOP_CLEARS_PEER
#define WAKE_OTHER(w) parked[w] = AWAKE
#else
#define WAKE_OTHER(w) wake_peer(w)
#endif

/* cwasi_channel_stop, by any thread of the process that has the end: its own words are cleared and its own bell is
 * shut; the other side is woken too, as ring_wake does. */
proctype Stop(byte w)
{
    byte v, i;
    if
    :: !IDLES
    :: true ->
#ifdef M_STOP_LATE
        parked[w] = AWAKE;
        d_step { asleep[w] = false; shut[w] = true };
        stop[w] = CANCELED;
#else
        stop[w] = CANCELED;
        parked[w] = AWAKE;
        d_step { asleep[w] = false; shut[w] = true };
#endif
        if
        :: w < RINGS ->
            do
            :: i < RECEIVERS -> WAKE_OTHER(R(w * RECEIVERS + i)); i++
            :: else -> break
            od
        :: else -> WAKE_OTHER(S(RING(w - RINGS)))
        fi
    fi
}

/* What a watcher does after it has set its word. The dead one may have taken the parked word away and not called yet:
 * so both calls are made whatever the word says. The bell is rung, not shut: a sender with another receiver goes on
 * waiting with it. */
inline wake_survivor(w)
{
#ifdef M_DEATH_WAKES_PARKED
    wake_parked(w)
#else
    parked[w] = AWAKE;
#ifdef M_DEATH_SHUTS
    d_step { asleep[w] = false; shut[w] = true }
#else
    d_step { asleep[w] = false; rung[w] = true }
#endif
#endif
}

/* A process dies between any two of its steps, or after its last. Then the watchers in the others see it. */
proctype DeathOfSender(byte r)
{
    byte v, i;
    if
    :: true
    :: true ->
        sender_killed[r] = true;
        do
        :: i < RECEIVERS ->
            d_step {
                if
                :: stop[R(r * RECEIVERS + i)] == 0 -> stop[R(r * RECEIVERS + i)] = GONE
                :: else
                fi
            };
            wake_survivor(R(r * RECEIVERS + i));
            i++
        :: else -> break
        od
    fi
}

proctype DeathOfReceiver(byte e)
{
    byte v;
    if
    :: !(DIES & 4)
    :: true ->
        receiver_killed[e] = true;
        receiver_gone[e] = true;
        wake_survivor(S(RING(e)))
    fi
}

#if DIES & 1
#define FIRST_SENDER MortalSender
#else
#define FIRST_SENDER Sender
#endif
#if DIES & 2
#define FIRST_RECEIVER MortalReceiver
#else
#define FIRST_RECEIVER Receiver
#endif

init
{
    atomic {
        run FIRST_SENDER(0);
#if RINGS > 1
        run Sender(1);
        run ReceiverOfAll();
#else
#if DIES & 4
        receiver_killed[0] = true;
#else
        run FIRST_RECEIVER(0);
#endif
#if RECEIVERS > 1
        run Receiver(1);
#endif
#endif
#if STOPS & 1
        run Stop(S(0));
#endif
#if STOPS & 2
        run Stop(R(0));
#endif
#if DIES & 1
        run DeathOfSender(0);
#endif
#if DIES & 6
        run DeathOfReceiver(0);
#endif
    }
}
