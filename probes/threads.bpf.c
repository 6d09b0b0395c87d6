/*
 * threads.bpf.c - whom the probes follow, and which function runs on each thread.
 * The user's side is probe.py, the records are in record.h. The other x.bpf.c are
 * compiled after this one, in one text with it, and use its maps.
 *
 * Raw tracepoints only, so tracefs is not needed, and no kernel structure is
 * read, so neither are kernel headers. A task_struct's address is a key and
 * nothing else: it names a thread from its fork to its exit, the same in every
 * pid namespace and across an exec by a thread that is not the leader.
 *
 * A thread's record is written by that thread alone (by its parent before it
 * runs; what scheduling.bpf.c keeps, under the lock of the thread's run queue),
 * and a per-CPU total by one program at a time: no atomics are needed.
 *
 * Given by probe.py: SLOTS, FUNCTIONS, THREADS, PROCESSES, ADOPTED, BY_THREAD,
 * PIDNS_DEV, PIDNS_INO and PIDNS_INITIAL.
 */
#include "record.h"

#ifndef __always_inline	/* kernel headers, where there are any, have it */
#define __always_inline inline __attribute__((always_inline))
#endif

BPF_F_TABLE("array", u32, struct slot_pair, slots, SLOTS / 2, BPF_F_MMAPABLE);
BPF_TABLE("hash", u64, struct thread, threads, THREADS);
BPF_TABLE("hash", u64, struct process, processes, PROCESSES);
BPF_TABLE("percpu_array", u32, u64, lost, LOST_KINDS);
BPF_TABLE("array", u32, struct order, orders, 1);
BPF_TABLE("hash", u32, u64, adopted, ADOPTED);	/* by process, the key of its struct process */

static __always_inline void count_lost(u32 kind)
{
	u64 *n = lost.lookup(&kind);

	if (n)
		*n += 1;
}

static __always_inline u32 bucket_of(u64 ns)
{
	u32 bits = bpf_log2l(ns | 1);	/* 1 for 1 */

	return bits > BUCKETS ? BUCKETS - 1 : (bits - 1) & (BUCKETS - 1);
}

/* The function on a thread, 0 for none. Hosts write what they like: clamp it. */
static __always_inline u32 running_function(u32 slot)
{
	u32 index = slot / 2;
	struct slot_pair *pair = slots.lookup(&index);
	u32 id;

	if (!slot || !pair)
		return 0;
	id = *(volatile u32 *)&pair->id[slot & 1];
	return id < FUNCTIONS ? id : FUNCTIONS - 1;
}

/* A tid is used again: what its last owner left must not be the next one's. */
static __always_inline void clear_slot(u32 slot)
{
	u32 index = slot / 2;
	struct slot_pair *pair = slots.lookup(&index);

	if (slot && pair)
		pair->id[slot & 1] = 0;
}

static __always_inline void name_process(struct thread *thread)
{
	struct process process = {.self = thread->self, .pid = thread->pid, .tid = thread->slot};

	bpf_get_current_comm(process.comm, sizeof(process.comm));
	/* A process that does not fit is shown without a name, but counted. */
	processes.update(&thread->process, &process);
}

/*
 * Fill in who the current thread is. Pids are used again, so a process's key
 * is its tgid above the millisecond it was first seen in. With BY_THREAD every
 * thread is what a process is otherwise.
 */
static __always_inline void identify(struct thread *thread)
{
	struct bpf_pidns_info ns = {};
	u64 both = bpf_get_current_pid_tgid();
	u32 self = BY_THREAD ? (u32)both : both >> 32;

	/* Fails, and leaves zeros, in a pid namespace other than the tracer's. */
	bpf_get_ns_current_pid_tgid(PIDNS_DEV, PIDNS_INO, &ns, sizeof(ns));
	thread->slot = ns.pid;
	thread->pid = ns.tgid;
	thread->state = LIVE;
	if (thread->self == self)
		return;
	thread->self = self;
	thread->process = (u64)self << 32 | (u32)(bpf_ktime_get_ns() >> 20);
	name_process(thread);
}

/*
 * The record of the current thread, which has none, if it is of a process that
 * the tracer was pointed at while it ran. Until its first event of any kind
 * after that, nobody can tell its task from others.
 */
static __always_inline struct thread *adopt(u64 task)
{
	struct bpf_pidns_info ns = {};
	struct thread fresh = {.state = NEWBORN};
	u32 first = 0;
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u32 pid = tgid;
	struct order *order = orders.lookup(&first);
	u64 *process;

	if (!order || !order->adopts)
		return 0;
	if (!PIDNS_INITIAL) {
		bpf_get_ns_current_pid_tgid(PIDNS_DEV, PIDNS_INO, &ns, sizeof(ns));
		pid = ns.tgid;
	}
	process = adopted.lookup(&pid);
	if (!process)
		return 0;
	if (!BY_THREAD) {	/* its threads share a key that none of them makes */
		fresh.process = *process;
		fresh.self = tgid;
	}
	if (threads.update(&task, &fresh)) {
		count_lost(LOST_THREADS);
		return 0;
	}
	return threads.lookup(&task);
}

/* The current thread's record if it is traced; says who it is if it has not yet. */
static __always_inline struct thread *current_thread(void)
{
	u64 task = bpf_get_current_task();
	struct thread *thread = threads.lookup(&task);

	if (!thread)
		thread = adopt(task);
	if (!thread || thread->state == PENDING)
		return 0;
	if (thread->state == NEWBORN)
		identify(thread);
	return thread;
}

/* Whom what a thread does now is charged to, as in struct call. */
static __always_inline u64 owner_of(struct thread *thread)
{
	u32 function = running_function(thread->slot);

	return function ? function : thread->process;
}

/* The state that a child of an untraced thread starts in: orders are for one fork. */
static __always_inline u32 ordered_state(void)
{
	struct bpf_pidns_info ns = {};
	u32 first = 0;
	struct order *order = orders.lookup(&first);

	if (!order || !order->spawner)
		return UNTRACED;
	if (bpf_get_ns_current_pid_tgid(PIDNS_DEV, PIDNS_INO, &ns, sizeof(ns)) || ns.pid != order->spawner)
		return UNTRACED;
	order->spawner = 0;
	return order->state;
}

/* Runs in the parent, before the child does. */
int on_fork(struct bpf_raw_tracepoint_args *ctx)
{
	u64 parent_task = ctx->args[0];
	u64 child_task = ctx->args[1];
	struct thread *parent = threads.lookup(&parent_task);
	struct thread child = {};

	if (!parent)
		parent = adopt(parent_task);
	if (parent) {
		child.process = parent->process;
		child.self = parent->self;
		child.state = parent->state == PENDING ? PENDING : NEWBORN;
	} else {
		child.state = ordered_state();
	}
	if (child.state == UNTRACED)
		threads.delete(&child_task);	/* of who had the address before */
	else if (threads.update(&child_task, &child))
		count_lost(LOST_THREADS);
	return 0;
}

/* The mapping that slots were stored through is gone, so nobody else can clear one. */
int on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	struct thread *thread = threads.lookup(&task);

	if (!thread)
		return 0;
	clear_slot(thread->slot);
	identify(thread);
	name_process(thread);
	return 0;
}
