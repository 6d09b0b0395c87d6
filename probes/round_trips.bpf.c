/*
 * round_trips.bpf.c - smoothed round-trip times and congestion windows of TCP
 * connections, by function. Compiled after network.bpf.c; the user's side is
 * round_trips.py.
 *
 * The raw tracepoint has only pointers, so this is the one program that wants
 * the record of an ordinary one. Where its fields lie is read from tracefs.
 *
 * Given by round_trips.py: PROBE_SKADDR, PROBE_SRTT and PROBE_SND_CWND, as
 * numbers of 4-byte words.
 */
struct record {
	u32 word[256];
};

/* Runs when a segment has come, on any thread. */
int on_tcp_probe(struct record *ctx)
{
	u64 sk = ctx->word[PROBE_SKADDR] | (u64)ctx->word[PROBE_SKADDR + 1] << 32;
	u32 srtt = ctx->word[PROBE_SRTT];
	u32 cwnd = ctx->word[PROBE_SND_CWND];
	struct socket *socket = sockets.lookup(&sk);
	struct traffic *counted;

	if (!socket || !socket->owner || socket->state != OPEN)
		return 0;
	socket->tcp = 1;	/* also one that is older than the trace */
	counted = traffic_of(socket->owner, 1);
	if (!counted)
		return 0;
	counted->samples += 1;
	counted->srtt += srtt;
	counted->cwnd += cwnd;
	return 0;
}
