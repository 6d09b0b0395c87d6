/*
 * syscalls.bpf.c - system calls of a traced command, counted by the function
 * that made them. Compiled after threads.bpf.c; the user's side is syscalls.py.
 *
 * Given by syscalls.py: COUNTS, TIMES and CALLS.
 */
#define MAX_ERRNO 4095

BPF_TABLE("percpu_hash", struct call, struct total, counts, COUNTS);
BPF_TABLE("percpu_hash", struct class, struct times, times, TIMES);
BPF_TABLE("array", u32, u32, classes, CALLS);

int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct thread *thread = current_thread();

	if (!thread)
		return 0;
	thread->owner = owner_of(thread);
	thread->nr = ctx->args[1];
	thread->waited = 0;
	thread->started = bpf_ktime_get_ns();
	return 0;
}

static __always_inline void count_time(u64 owner, u32 nr, u64 ns)
{
	struct class class = {.owner = owner};
	u32 *number = classes.lookup(&nr);
	struct times zero = {};
	struct times *counted;

	if (number)	/* else 0, which is what belongs to no class */
		class.number = *number;
	counted = times.lookup_or_try_init(&class, &zero);
	if (counted)
		counted->bucket[bucket_of(ns)] += 1;
	else
		count_lost(LOST_TIMES);
}

int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = bpf_get_current_task();
	struct thread *thread = thread_of(task);
	struct total zero = {};
	struct call call = {};
	struct total *total;
	s64 result = ctx->args[1];
	u64 ns;

	/* A call whose enter was not seen: the end of a fork or of the first exec. */
	if (!thread || !thread->started)
		return 0;
	ns = bpf_ktime_get_ns() - thread->started;
	call.owner = thread->owner;
	call.nr = thread->nr;
	thread->started = 0;
	total = counts.lookup_or_try_init(&call, &zero);
	if (!total) {
		count_lost(LOST_CALLS);
		return 0;
	}
	total->count += 1;
	total->ns += ns;
	if (result > 0)
		total->result += result;
	if (result < 0 && result >= -MAX_ERRNO) {
		total->failed += 1;
		total->failed_ns += ns;
	}
	count_time(call.owner, call.nr, ns);
	return 0;
}
