"""Classes of system calls: what a call is for, whatever the descriptor that it is given."""

from __future__ import annotations

_CLASSES = {
    "io": """
        read write pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 sendfile splice tee vmsplice
        copy_file_range process_vm_readv process_vm_writev io_setup io_destroy io_submit io_cancel io_getevents
        io_pgetevents io_uring_setup io_uring_enter io_uring_register
    """,
    "wait": """
        futex futex_waitv futex_wait futex_wake futex_requeue poll ppoll select pselect6 epoll_wait epoll_pwait
        epoll_pwait2 epoll_ctl epoll_create epoll_create1 eventfd eventfd2 timerfd_create timerfd_settime
        timerfd_gettime nanosleep clock_nanosleep pause rt_sigsuspend rt_sigtimedwait sched_yield restart_syscall
        semop semtimedop
    """,
    "network": """
        socket socketpair bind listen accept accept4 connect shutdown sendto recvfrom sendmsg recvmsg sendmmsg
        recvmmsg getsockname getpeername setsockopt getsockopt
    """,
    "file": """
        open openat openat2 open_by_handle_at name_to_handle_at creat close close_range stat fstat lstat newfstatat
        statx statfs fstatfs access faccessat faccessat2 lseek dup dup2 dup3 fcntl ioctl flock fsync fdatasync sync
        syncfs sync_file_range truncate ftruncate fallocate fadvise64 readahead cachestat getdents getdents64 getcwd
        chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink symlinkat
        readlink readlinkat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask utime utimes utimensat
        futimesat mknod mknodat pipe pipe2 memfd_create memfd_secret inotify_init inotify_init1 inotify_add_watch
        inotify_rm_watch fanotify_init fanotify_mark setxattr lsetxattr fsetxattr setxattrat getxattr lgetxattr
        fgetxattr getxattrat listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr
        removexattrat file_getattr file_setattr
    """,
    "memory": """
        mmap munmap mremap mprotect pkey_mprotect pkey_alloc pkey_free madvise process_madvise mincore msync brk mlock
        mlock2 munlock mlockall munlockall mbind get_mempolicy set_mempolicy set_mempolicy_home_node migrate_pages
        move_pages membarrier remap_file_pages userfaultfd mseal map_shadow_stack shmget shmat shmdt shmctl
    """,
    "process": """
        clone clone3 fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open
        pidfd_getfd pidfd_send_signal getpid getppid gettid getuid geteuid getgid getegid getpgid getpgrp setpgid
        getsid setsid getgroups setuid setgid setreuid setregid setresuid getresuid setresgid getresgid setgroups
        setfsuid setfsgid capget capset prctl arch_prctl seccomp prlimit64 getrlimit setrlimit getrusage times
        getpriority setpriority ioprio_get ioprio_set sched_getaffinity sched_setaffinity sched_setscheduler
        sched_getscheduler sched_setparam sched_getparam sched_setattr sched_getattr sched_get_priority_max
        sched_get_priority_min sched_rr_get_interval set_tid_address set_robust_list get_robust_list rseq unshare
        setns kcmp process_mrelease rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo rt_tgsigqueueinfo
        rt_sigreturn sigaltstack signalfd signalfd4 alarm getitimer setitimer timer_create timer_settime
        timer_gettime timer_getoverrun timer_delete
    """,
}
CLASSES = ("other", *_CLASSES)
"""Their names by number. What stands in none, and what is not known yet, is `other`."""

_NUMBERS = {name: CLASSES.index(kind) for kind, names in _CLASSES.items() for name in names.split()}


def class_number(syscall: str) -> int:
    """The number of the class that a system call belongs to."""
    return _NUMBERS.get(syscall, 0)


def syscall_class(syscall: str) -> str:
    """The name of the class that a system call belongs to."""
    return CLASSES[class_number(syscall)]
