/* The one option that bcc's helpers.h insists on. */
#define CONFIG_BPF_SYSCALL 1
