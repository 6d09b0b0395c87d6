/* Included by bcc; the probes use nothing of it. */
