/*
 * The oldest kernel that the probes load on, not the running one: bcc's
 * helpers.h compares against it, and no probe depends on a later layout.
 */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
