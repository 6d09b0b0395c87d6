/*
 * network.bpf.c - what goes through the sockets of a traced command, by function.
 * Compiled after threads.bpf.c; the user's side is network.py.
 *
 * Sends, receives and connects happen on the thread that asked for them, so the
 * thread says whose they are. Retransmissions happen on any: the socket says it,
 * who is charged to whoever used it last. A sock's address is a key and nothing
 * else; its protocol is learnt from the states it goes through, which only TCP's
 * kin has, so a connection that is older than the trace is TRAFFIC_OTHER.
 *
 * Given by network.py: SOCKETS and TRAFFIC.
 */
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_CLOSE 7
#define MSG_PEEK 0x2
#define MSG_ERRQUEUE 0x2000

BPF_TABLE("lru_hash", u64, struct socket, sockets, SOCKETS);
BPF_TABLE("percpu_hash", struct traffic_key, struct traffic, traffic, TRAFFIC);

static __always_inline struct traffic *traffic_of(u64 owner, u32 tcp)
{
	struct traffic_key key = {.owner = owner, .kind = tcp ? TRAFFIC_TCP : TRAFFIC_OTHER};
	struct traffic zero = {};
	struct traffic *counted = traffic.lookup_or_try_init(&key, &zero);

	if (!counted)
		count_lost(LOST_TRAFFIC);
	return counted;
}

/* The traffic of the current thread through a socket, which is its from now on. */
static __always_inline struct traffic *current_traffic(struct thread *thread, u64 sk, u32 sends)
{
	struct socket fresh = {.owner = owner_of(thread)};
	struct socket *socket = sockets.lookup(&sk);
	u32 tcp = 0;

	if (socket && socket->state != ENDED) {
		socket->owner = fresh.owner;
		tcp = socket->tcp;
		/* The send that the peer's reset answered is reported after it, and is the last. */
		if (socket->state == CLOSED && sends)
			socket->state = ENDED;
	} else if (!socket || sends) {
		/* What has ended cannot send: the address is another socket's now. */
		sockets.update(&sk, &fresh);
	} else {
		tcp = socket->tcp;
	}
	return traffic_of(fresh.owner, tcp);
}

static __always_inline void add_blocked(struct traffic *counted, struct thread *thread)
{
	if (!thread->started)	/* what came before this call is not known to be its */
		return;
	counted->blocked += thread->waited;
	thread->waited = 0;
}

int on_send(struct bpf_raw_tracepoint_args *ctx)
{
	struct thread *thread = current_thread();
	int result = ctx->args[1];
	struct traffic *counted;

	if (!thread)
		return 0;
	counted = current_traffic(thread, ctx->args[0], result > 0);
	if (!counted)
		return 0;
	add_blocked(counted, thread);
	if (result > 0) {
		counted->sends += 1;
		counted->sent += result;
	}
	return 0;
}

int on_receive(struct bpf_raw_tracepoint_args *ctx)
{
	struct thread *thread = current_thread();
	int result = ctx->args[1];
	struct traffic *counted;

	if (!thread)
		return 0;
	counted = current_traffic(thread, ctx->args[0], 0);
	if (!counted)
		return 0;
	add_blocked(counted, thread);
	if (result > 0 && !(ctx->args[2] & (MSG_PEEK | MSG_ERRQUEUE))) {
		counted->receives += 1;
		counted->received += result;
	}
	return 0;
}

/* Called by the thread that connects: nobody else brings a socket into SYN_SENT. */
static __always_inline void connecting(u64 sk)
{
	struct thread *thread = current_thread();
	struct socket socket = {.tcp = 1};
	struct traffic *counted;

	if (!thread) {
		sockets.delete(&sk);	/* of who had the address before */
		return;
	}
	socket.owner = owner_of(thread);
	sockets.update(&sk, &socket);
	counted = traffic_of(socket.owner, 1);
	if (counted)
		counted->connects += 1;
}

int on_state(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0];
	u32 state = ctx->args[2];
	struct socket accepted = {.tcp = 1};
	struct socket *socket;

	if (state == TCP_SYN_SENT) {
		connecting(sk);
	} else if (state == TCP_SYN_RECV) {
		sockets.update(&sk, &accepted);
	} else if (state == TCP_CLOSE) {
		/* What has come may still be received: forget it only when the address is used again. */
		socket = sockets.lookup(&sk);
		if (socket)
			socket->state = CLOSED;
	}
	return 0;
}

int on_retransmit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0];
	struct socket *socket = sockets.lookup(&sk);
	struct traffic *counted;

	if (!socket || !socket->owner || socket->state != OPEN)
		return 0;
	counted = traffic_of(socket->owner, 1);
	if (counted)
		counted->retransmits += 1;
	return 0;
}
