/*
 * The records that the probes keep in BPF maps. bcc derives the Python side's
 * ctypes from these, so that there is one definition of each.
 */
#ifndef CWASI_PROBES_RECORD_H
#define CWASI_PROBES_RECORD_H

/*
 * Which function a thread runs, as its host says it in a map that only this
 * host has. The thread is named by its id in the host's pid namespace; its slot
 * is the first free one of PROBES from that number on, modulo SLOTS.
 */
struct slot {
	u32 tid;
	u32 id;
};

/*
 * A function of a host, at its index in the host's part of the table; written by
 * the tracer alone. A slot with the same index, but of a function that had it
 * before, has another number.
 */
struct function {
	u32 number;	/* as the host stores it: the index below a generation */
	u32 owner;	/* whom it is charged to, as in struct call */
};

#define PROBES 4

/* Workers that wasmtime starts for WASI name themselves so, after tokio, which they run. */
#define POOL_NAME 0x74722d6f696b6f74ULL	/* "tokio-rt", as a number */

/* A host, at its place; written by the tracer alone. */
struct host {
	u64 owner;	/* of what has no owner of its own, below 2^32; its pool's is the next. 0 while nobody is here */
	u64 dev;	/* of its pid namespace */
	u64 ino;
};

/* That a process has become a host. */
struct joined {
	u64 owner;
	u32 place;
	u32 generation;	/* which of all joins it was */
};

enum thread_state {
	UNTRACED,	/* never stored: a thread that is not in the map */
	PENDING,	/* forked by the tracer, counted from its next exec on */
	NEWBORN,	/* a child that has not yet said who it is */
	LIVE,
};

/* A traced thread, keyed by the address of its task_struct. */
struct thread {
	u64 started;	/* ns of bpf_ktime_get_ns at sys_enter, 0 outside a system call */
	u64 owner;	/* whom the call in flight is charged to, as in struct call */
	u64 process;	/* the key of its struct process */
	u32 nr;		/* number of the call in flight */
	u32 state;	/* enum thread_state */
	u32 self;	/* the process (by thread: the thread) in the initial pid namespace; in a newborn the parent's */
	u32 pid;	/* the process in the tracer's pid namespace, 0 if it is in another */
	u32 group;	/* the process in the initial pid namespace */
	u32 blocked;	/* whether it left the CPU to wait for something */
	u64 left;	/* when it left the CPU, 0 while it runs or where that was not seen */
	u64 left_owner;	/* who ran on it then, as in struct call */
	u64 waited;	/* ns that it was blocked since the call in flight began */
	u64 woken;	/* when what it waited for came, 0 before, and if that was before it left */
	u64 host;	/* the owner of its struct host, 0 if it has none */
	u32 place;	/* of that host */
	u32 tid;	/* the thread in the host's pid namespace */
	u32 seen;	/* joins up to this generation are known to it */
	u32 tid_here;	/* the thread in the tracer's pid namespace, 0 if it is in another */
	u32 reserved;
	u32 in_pool;	/* whether it has turned out to be a worker of wasmtime's WASI */
};

/* Task_structs that share a mark. A power of two: a mark costs 8 bytes. */
#define MARKS 16384

/* A traced process; kept when it has exited, so that its calls keep a name. */
struct process {
	u64 cgroup;	/* the number of its group of v2, 0 if the tracer did not see that */
	u32 self;	/* the process (by thread: the thread) in the initial pid namespace */
	u32 pid;	/* in the tracer's pid namespace, 0 if it is in another */
	u32 tid;	/* the thread that was seen first, likewise */
	u32 reserved;
	char comm[16];
};

struct call {
	u64 owner;	/* a function (below 2^32) or a process's key (above) */
	u32 nr;
	u32 reserved;	/* keys are compared as bytes: no hidden padding */
};

struct total {
	u64 count;
	u64 ns;
	u64 result;	/* sum of the positive return values: bytes, if the call moves any */
	u64 failed;	/* those that returned an error */
	u64 failed_ns;
};

/* A class of system calls as one owner made them. */
struct class {
	u64 owner;	/* as in struct call */
	u32 number;	/* of the class, as syscall_classes.py has them */
	u32 reserved;
};

#define BUCKETS 32

/* How many took so long: bucket n from 2^n ns on, the first from 0, the last without an end. */
struct times {
	u64 bucket[BUCKETS];
};

/* How an owner, whose key is as in struct call, got on and off the CPU. */
struct turns {
	u64 voluntary;
	u64 involuntary;
	u64 off;	/* ns from leaving the CPU to the next turn */
	u64 queued;	/* ns of these in which it could have run */
	u64 unseen;	/* halves of switches whose other half was not traced */
	u64 wakeups;
	u64 wakeup;	/* ns from the wake-up to running */
	struct times wakeups_by_time;
};

enum socket_state {
	OPEN,
	CLOSED,	/* by its states; what has come may still be received */
	ENDED,	/* it has sent for the last time */
};

/* A socket, keyed by the address of its struct sock. */
struct socket {
	u64 owner;	/* who used it last, as in struct call; 0 if it was not traced */
	u32 tcp;	/* whether it is known to be one of TCP */
	u32 state;	/* enum socket_state */
};

enum traffic_kind {
	TRAFFIC_OTHER,
	TRAFFIC_TCP,
};

struct traffic_key {
	u64 owner;
	u32 kind;	/* enum traffic_kind */
	u32 reserved;
};

/* What went through the sockets of an owner. */
struct traffic {
	u64 sends;
	u64 sent;	/* bytes */
	u64 receives;
	u64 received;	/* bytes */
	u64 blocked;	/* ns, inside the calls that sent and received */
	u64 connects;
	u64 retransmits;	/* packets, each of a segment or several */
	u64 samples;	/* of the two below */
	u64 srtt;	/* sum of us */
	u64 cwnd;	/* sum of segments */
};

/* What the tracer is about to fork. */
struct order {
	u32 spawner;	/* its thread that will fork, in its pid namespace; 0 for none */
	u32 state;	/* enum thread_state that the child starts in */
	u32 adopts;	/* whether there is anything in the map `adopted` */
	u32 reserved;
};

enum lost {
	LOST_THREADS,
	LOST_CALLS,
	LOST_TIMES,
	LOST_TURNS,
	LOST_TRAFFIC,
	LOST_KINDS,
};

#endif
