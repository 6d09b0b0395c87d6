/*
 * scheduling.bpf.c - how the threads of a traced command get on and off the CPU,
 * by the function that ran on them when they left it. Compiled after
 * threads.bpf.c; the user's side is scheduling.py.
 *
 * The order of events is the kernel's own: leaving, waking and coming back are
 * traced under the lock of the thread's run queue. The lock is let go for a
 * moment while a thread that is about to leave looks for the next one, so that
 * what it waits for may come just before it leaves.
 *
 * A kernel may hide some threads: that they leave a CPU is shown to nobody, so
 * that who comes after one of them comes back unseen (seen: 1 of some thousand
 * switches). A thread that leaves or ends without having come back, or comes
 * back without having left, shows it; such halves are counted apart and their
 * time is not guessed.
 *
 * Given by scheduling.py: TURNS.
 */
#define TASK_DEAD 0x80

BPF_TABLE("percpu_hash", u64, struct turns, turns, TURNS);

/* Runs on the thread that leaves, so that a newborn can still say who it is. */
static __always_inline void leave(struct thread *thread, u32 blocked, u64 now)
{
	struct turns zero = {};
	struct turns *counted;
	u32 unseen = thread->left != 0;

	if (thread->state == NEWBORN)
		identify(thread);
	thread->left_owner = owner_of(thread);
	thread->blocked = blocked;
	thread->woken = 0;
	thread->left = now;
	counted = turns.lookup_or_try_init(&thread->left_owner, &zero);
	if (!counted) {
		count_lost(LOST_TURNS);
		return;
	}
	counted->unseen += unseen;
	if (blocked)
		counted->voluntary += 1;
	else
		counted->involuntary += 1;
}

static __always_inline void come_back(struct thread *thread, u64 now)
{
	/* Preempted, or woken before it left: it could have run all the time. */
	u64 queued = now - (thread->woken ? thread->woken : thread->left);
	u64 off = now - thread->left;
	u32 unseen = !thread->left;
	struct turns *counted;

	if (thread->state != LIVE)	/* its first turn */
		return;
	thread->left = 0;
	if (thread->blocked && !unseen)
		thread->waited += off;
	counted = turns.lookup(&thread->left_owner);
	if (!counted)
		return;
	counted->unseen += unseen;
	if (unseen)
		return;
	counted->off += off;
	counted->queued += queued;
	if (!thread->blocked)
		return;
	counted->wakeups += 1;
	counted->wakeup += queued;
	counted->wakeups_by_time.bucket[bucket_of(queued)] += 1;
}

int on_switch(struct bpf_raw_tracepoint_args *ctx)
{
	u64 prev = ctx->args[1];
	u64 next = ctx->args[2];
	struct thread *thread = thread_of(prev);
	u32 dead = (u32)ctx->args[3] & TASK_DEAD;

	/* One that is about to end may have ended for on_exit: its last turn ends it here. */
	if (!thread && !dead)
		thread = adopt(prev);
	if (thread && dead) {
		threads.delete(&prev);
		thread = 0;
	}
	/* As the kernel counts: one that is preempted while about to wait has not waited. */
	if (thread && thread->state != PENDING)
		leave(thread, !ctx->args[0] && (u32)ctx->args[3], bpf_ktime_get_ns());
	thread = thread_of(next);
	if (thread)
		come_back(thread, bpf_ktime_get_ns());
	return 0;
}

int on_wakeup(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	struct thread *thread = thread_of(task);

	if (thread && thread->left && thread->blocked && !thread->woken)
		thread->woken = bpf_ktime_get_ns();
	return 0;
}

#define HAS_TURNS

/* A thread that ends runs, so it has come back. */
static __always_inline void end_turns(struct thread *thread)
{
	struct turns *counted;

	if (!thread->left)
		return;
	counted = turns.lookup(&thread->left_owner);
	if (counted)
		counted->unseen += 1;
}
