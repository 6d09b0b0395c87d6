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
 * Each host has a map of slots of its own, which nobody else can write: it can
 * misname its own calls only. Threads learn of a join at their next event, by a
 * generation that all of them look at, and children inherit their parent's host.
 * Only joins that came after a thread's birth are its own, since pids are used
 * again.
 *
 * Given by probe.py: SLOTS, HOSTS, FUNCTIONS, THREADS, PROCESSES, ADOPTED,
 * BY_THREAD, PIDNS_DEV, PIDNS_INO and PIDNS_INITIAL.
 */
#include "record.h"

#ifndef __always_inline	/* kernel headers, where there are any, have it */
#define __always_inline inline __attribute__((always_inline))
#endif

BPF_F_TABLE("array", u32, struct slot, no_slots, SLOTS, BPF_F_MMAPABLE);
BPF_ARRAY_OF_MAPS(slots, "no_slots", HOSTS);	/* by place */
BPF_TABLE("array", u32, struct host, hosts, HOSTS);	/* by place; nobody is at 0 */
BPF_TABLE("array", u32, struct function, functions, HOSTS * FUNCTIONS);	/* by place and index */
BPF_TABLE("hash", u32, struct joined, joined, HOSTS);	/* by process */
BPF_TABLE("array", u32, u32, generation, 1);	/* how many have joined */
BPF_TABLE("hash", u64, struct thread, threads, THREADS);
BPF_TABLE("array", u32, u32, marks, MARKS);	/* whether a task_struct about here has ever been traced */
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

static __always_inline u32 joins(void)
{
	u32 first = 0;
	u32 *count = generation.lookup(&first);

	return count ? *(volatile u32 *)count : 0;
}

static __always_inline u32 *mark_of(u64 task)
{
	u32 place = (task >> 8) % MARKS;	/* nearer to each other no two are */

	return marks.lookup(&place);
}

/* The record of a thread, 0 if it is not traced: most are not, and must learn that at once. */
static __always_inline struct thread *thread_of(u64 task)
{
	u32 *mark = mark_of(task);

	return mark && *(volatile u32 *)mark ? threads.lookup(&task) : 0;
}

/* Follow a thread from now on. Returns whether it could not be. */
static __always_inline u32 follow(u64 task, struct thread *thread)
{
	u32 *mark = mark_of(task);

	if (mark)
		*(volatile u32 *)mark = 1;
	if (!threads.update(&task, thread))
		return 0;
	count_lost(LOST_THREADS);
	return 1;
}

/* What the current thread's host calls it: 0 in a pid namespace other than the host's. */
static __always_inline void name_in_host(struct thread *thread)
{
	struct bpf_pidns_info ns = {};
	u32 place = thread->place;
	struct host *host = hosts.lookup(&place);

	if (host && place)
		bpf_get_ns_current_pid_tgid(host->dev, host->ino, &ns, sizeof(ns));
	thread->tid = ns.pid;
}

/* The current thread may have got a host since it looked the last time. */
static __always_inline void find_host(struct thread *thread)
{
	u32 now = joins();
	struct joined *found;

	if (thread->seen == now)
		return;
	found = joined.lookup(&thread->group);
	if (found && found->generation > thread->seen) {
		thread->host = found->owner;
		thread->place = found->place;
		name_in_host(thread);
	}
	thread->seen = now;
}

/* Whether the current thread is one of a host that is there: not of one that has left, or is not let in yet. */
static __always_inline u32 has_host(struct thread *thread)
{
	u32 place;
	struct host *host;

	find_host(thread);
	place = thread->place;
	if (!place)
		return 0;
	host = hosts.lookup(&place);
	return host && *(volatile u64 *)&host->owner == thread->host;
}

/* The slot of the current thread, which has a host, or 0. */
static __always_inline struct slot *slot_of(struct thread *thread)
{
	u32 place = thread->place;
	void *map = slots.lookup(&place);
	struct slot *slot;
	u32 index;

	if (!map || !thread->tid)
		return 0;
#pragma unroll
	for (u32 n = 0; n < PROBES; n++) {
		index = (thread->tid + n) % SLOTS;
		slot = bpf_map_lookup_elem(map, &index);
		if (slot && *(volatile u32 *)&slot->tid == thread->tid)
			return slot;
	}
	return 0;
}

/* A tid is used again: what its last owner left must not be the next one's. */
static __always_inline void clear_slot(struct thread *thread)
{
	struct slot *slot = has_host(thread) ? slot_of(thread) : 0;

	if (slot)
		*(volatile u64 *)slot = 0;
}

static __always_inline void name_process(struct thread *thread)
{
	struct process process = {.self = thread->self, .pid = thread->pid, .tid = thread->tid_here};

	process.cgroup = bpf_get_current_cgroup_id();
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
	thread->pid = ns.tgid;
	thread->tid_here = ns.pid;
	thread->group = both >> 32;
	thread->state = LIVE;
	name_in_host(thread);
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
	struct thread fresh = {.state = NEWBORN};	/* may have become a host's before it was met */
	u32 first = 0;
	struct order *order = orders.lookup(&first);
	u32 tgid, pid;
	u64 *process;

	/* Where all that are not traced leave: nothing before this may take time. */
	if (!order || !order->adopts)
		return 0;
	tgid = bpf_get_current_pid_tgid() >> 32;
	pid = tgid;
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
	return follow(task, &fresh) ? 0 : threads.lookup(&task);
}

/* The current thread's record if it is traced; says who it is if it has not yet. */
static __always_inline struct thread *current_thread(void)
{
	u64 task = bpf_get_current_task();
	struct thread *thread = thread_of(task);

	if (!thread)
		thread = adopt(task);
	if (!thread || thread->state == PENDING)
		return 0;
	if (thread->state == NEWBORN)
		identify(thread);
	return thread;
}

/* Whether the current thread, which is a host's, is one of wasmtime's workers. */
static __always_inline u32 in_pool(struct thread *thread)
{
	union {
		char comm[16];
		u64 begin;
	} name = {};

	if (thread->in_pool)
		return 1;
	bpf_get_current_comm(name.comm, sizeof(name.comm));
	thread->in_pool = name.begin == POOL_NAME;
	return thread->in_pool;
}

/*
 * Who a number is that the host of a thread has stored: they write what they
 * like. Owners are never given out again, so that what is left of a host that
 * was at this place before is older than this one.
 */
static __always_inline u64 function_of(struct thread *thread, u32 number)
{
	u32 index = thread->place * FUNCTIONS + number % FUNCTIONS;
	struct function *found = functions.lookup(&index);
	union {
		u64 word;
		struct function function;
	} read = {};

	if (found)
		read.word = *(volatile u64 *)found;	/* as it is written */
	if (read.function.number == number && read.function.owner > thread->host)
		return read.function.owner;
	return thread->host;
}

/* Whom what a thread does now is charged to, as in struct call. */
static __always_inline u64 owner_of(struct thread *thread)
{
	struct slot *slot;
	u32 id;

	if (!has_host(thread))
		return thread->process;
	slot = slot_of(thread);
	if (!slot)
		return in_pool(thread) ? thread->host + 1 : thread->process;
	id = *(volatile u32 *)&slot->id;
	return id ? function_of(thread, id) : thread->process;
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
	struct thread *parent = thread_of(parent_task);
	struct thread child = {};

	if (!parent)
		parent = adopt(parent_task);
	if (parent) {
		if (parent->state == NEWBORN)
			identify(parent);
		find_host(parent);
		child.host = parent->host;
		child.place = parent->place;
		child.process = parent->process;
		child.self = parent->self;
		child.state = parent->state == PENDING ? PENDING : NEWBORN;
	} else {
		child.state = ordered_state();
	}
	child.seen = joins();
	if (child.state == UNTRACED)
		threads.delete(&child_task);	/* of who had the address before */
	else
		follow(child_task, &child);
	return 0;
}

/* The mapping that slots were stored through is gone, so nobody else can clear one. */
int on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	struct thread *thread = thread_of(task);

	if (!thread)
		return 0;
	clear_slot(thread);
	thread->place = 0;
	thread->seen = joins();
	identify(thread);
	name_process(thread);
	return 0;
}
