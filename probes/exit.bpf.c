/*
 * exit.bpf.c - a traced thread ends. Compiled last, so that whoever keeps
 * something in its record can look at it before it is forgotten.
 */
int on_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];
	struct thread *thread = thread_of(task);

	if (!thread)
		return 0;
#ifdef HAS_TURNS
	end_turns(thread);
#endif
	clear_slot(thread);
	threads.delete(&task);
	return 0;
}
