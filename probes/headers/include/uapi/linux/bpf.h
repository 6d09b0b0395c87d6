/* Empty: bcc embeds its own, newer bpf.h, and two would clash. */
