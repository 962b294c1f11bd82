"""What every system call's registers mean: the one table behind decoding.

``name ...: argument ...``, each argument ``name:role[/Family][*count][@type][?][~condition]``; calls
with the same arguments share a line, and a line that begins with a blank goes on:

* *role* and *type* are explained in :mod:`proctor.syscalls.signatures`; a role has a usual type,
  ``@`` gives another one;
* *Family* names constants in :mod:`proctor.syscalls.flags`, or what a pointer points to: a structure of
  :mod:`proctor.call.decode.layouts_data` or a number's type, ``u32.SeccompAction`` for a number with names;
* *count* is the argument that holds a length or a number of elements, or such a number;
* of a ``pointer`` the family says what a log shows of the memory: ``data`` (as many bytes as that
  argument says), ``text`` (up to a NUL), ``fdset``...; the argument's value is its address;
* ``?`` marks a pointer that may be NULL;
* ``~condition`` says when the kernel looks at the argument at all: :func:`proctor.syscalls.flags.when`.
  Arguments that it never looks at have names that begin with ``unused``.

Argument names are those of the manual pages where there is one.  Types follow the kernel's
``SYSCALL_DEFINE`` lines (what the kernel keeps of a register), not libc's prototypes.  Sources:
manual pages (sections 2 and 2const), ``include/linux/syscalls.h``, ``include/linux/compat.h``,
``arch/x86/entry/syscalls/*.tbl``.  Written by hand; the tests hold it to the kernel's own
description (``/sys/kernel/tracing/events/syscalls``) and to the numbers' tables.
"""

from __future__ import annotations

from typing import Final

#: Calls as every 64-bit architecture has them.
COMMON: Final = """
_sysctl: args:struct
accept: sockfd:fd addr:out/sockaddr*addrlen? addrlen:inout/i32?
accept4: sockfd:fd addr:out/sockaddr*addrlen? addrlen:inout/i32? flags:flags/SockFlag
access: path:path mode:flags/AccessMode
acct: path:path?
add_key: type:string/KeyType description:string payload:pointer? plen:size keyring:key
adjtimex: buf:struct/timex
afs_syscall fork getegid geteuid getgid getpgrp getpid getpmsg getppid gettid getuid idle
 inotify_init munlockall pause putpmsg restart_syscall rseq_slice_yield rt_sigreturn sched_yield
 security setsid sync tuxcall uprobe uretprobe vfork vhangup vserver:
alarm: seconds:uint
arch_prctl: op:cmd/ArchPrctl@i32 addr:ulong
bind connect: sockfd:fd addr:sockaddr*addrlen addrlen:socklen
bpf: cmd:cmd/BpfCmd@i32 attr:address size:uint
brk: addr:address
cachestat: fd:fd range:struct/cachestat_range cstat:out/cachestat flags:uint
capget: hdrp:struct/cap_user_header datap:out/cap_user_data*2?
capset: hdrp:struct/cap_user_header datap:struct/cap_user_data
chdir chroot rmdir swapoff unlink: path:path
chmod creat mkdir: path:path mode:mode
chown lchown: path:path owner:uid group:gid
clock_adjtime: clockid:clock buf:struct/timex
clock_getres: clockid:clock res:out/timespec?
clock_gettime: clockid:clock tp:out/timespec
clock_nanosleep: clockid:clock flags:flags/TimerFlag request:struct/timespec remain:out/timespec?
clock_settime: clockid:clock tp:struct/timespec
clone: flags:flags/CloneWord stack:address parent_tid:out/i32?~flags&CLONE_PARENT_SETTID|CLONE_PIDFD
 child_tid:out/i32?~flags&CLONE_CHILD_SETTID|CLONE_CHILD_CLEARTID tls:address~flags&CLONE_SETTLS
clone3: cl_args:struct/clone_args*size size:size
close fchdir fdatasync fsync syncfs: fd:fd
close_range: first:uint last:uint flags:flags/CloseRangeFlag
copy_file_range: fd_in:fd off_in:inout/i64? fd_out:fd off_out:inout/i64? len:size flags:uint
create_module: module:string size:size
delete_module: module:string flags:flags/DescriptorFlag
dup: oldfd:fd
dup2: oldfd:fd newfd:fd
dup3: oldfd:fd newfd:fd flags:flags/DescriptorFlag
epoll_create: size:int
epoll_create1: flags:flags/EpollFlag
epoll_ctl: epfd:fd op:cmd/EpollOp@i32 fd:fd event:struct/epoll_event?
epoll_ctl_old: epfd:fd op:cmd/EpollOp@i32 fd:fd event:pointer?
epoll_pwait: epfd:fd events:out/epoll_event*maxevents maxevents:int timeout:int sigmask:struct/sigset? sigsetsize:size
epoll_pwait2: epfd:fd events:out/epoll_event*maxevents maxevents:int timeout:struct/timespec?
 sigmask:struct/sigset? sigsetsize:size
epoll_wait: epfd:fd events:out/epoll_event*maxevents maxevents:int timeout:int
epoll_wait_old: epfd:fd events:pointer maxevents:int timeout:int
eventfd: initval:uint
eventfd2: initval:uint flags:flags/EventFlag
execve: path:path argv:strings? envp:strings?
execveat: dirfd:dirfd path:path argv:strings? envp:strings? flags:flags/AtFlag
exit exit_group: status:int
faccessat: dirfd:dirfd path:path mode:flags/AccessMode
faccessat2: dirfd:dirfd path:path mode:flags/AccessMode flags:flags/AtAccessFlag
fadvise64: fd:fd offset:offset len:size advice:cmd/FadviseAdvice@i32
fallocate: fd:fd mode:flags/FallocFlag offset:offset len:offset
fanotify_init: flags:flags/FanInitFlag event_f_flags:flags/OpenFlag
fanotify_mark: fanotify_fd:fd flags:flags/FanMarkFlag mask:flags/FanEvent@u64 dirfd:dirfd path:path?
fchmod: fd:fd mode:mode
fchmodat mkdirat: dirfd:dirfd path:path mode:mode
fchmodat2: dirfd:dirfd path:path mode:mode flags:flags/AtFlag
fchown: fd:fd owner:uid group:gid
fchownat: dirfd:dirfd path:path owner:uid group:gid flags:flags/AtFlag
fcntl: fd:fd op:cmd/FcntlOp arg:hex@ulong
fgetxattr: fd:fd name:string/XattrName value:out/data*size? size:size
file_getattr: dirfd:dirfd path:path? attr:out/file_attr*size size:size at_flags:flags/AtFlag
file_setattr: dirfd:dirfd path:path? attr:struct/file_attr*size size:size at_flags:flags/AtFlag
finit_module: fd:fd param_values:string/ModuleParameters flags:flags/ModuleInitFlag
flistxattr: fd:fd list:out/data*size? size:size
flock: fd:fd op:flags/FlockOp
fremovexattr: fd:fd name:string/XattrName
fsconfig: fd:fd cmd:cmd/FsconfigCmd key:string/FsKey? value:pointer? aux:int
fsetxattr: fd:fd name:string/XattrName value:pointer/data*size? size:size flags:flags/XattrFlag
fsmount: fsfd:fd flags:flags/FsmountFlag attr_flags:flags/MountAttr
fsopen: fsname:string flags:flags/FsopenFlag
fspick: dirfd:dirfd path:path flags:flags/FspickFlag
fstat: fd:fd statbuf:out/stat
fstatfs: fd:fd buf:out/statfs
ftruncate: fd:fd length:offset
futex: uaddr:pointer op:flags/FutexOp@i32 val:uint timeout:hex@ulong uaddr2:pointer? val3:hex
futex_requeue: waiters:pointer flags:uint nr_wake:int nr_requeue:int
futex_wait: uaddr:pointer val:ulong mask:ulong flags:flags/Futex2Flag timeout:struct/timespec? clockid:clock
futex_waitv: waiters:array/futex_waitv*nr_futexes nr_futexes:uint flags:uint timeout:struct/timespec? clockid:clock
futex_wake: uaddr:pointer mask:ulong nr:int flags:flags/Futex2Flag
futimesat: dirfd:dirfd path:path? times:array/timeval*2?
get_kernel_syms: table:pointer?
get_mempolicy: mode:pointer? nodemask:pointer? maxnode:ulong addr:address flags:flags/MemPolicyFlag@ulong
get_robust_list: pid:pid head_ptr:pointer len_ptr:pointer
get_thread_area set_thread_area: u_info:pointer
getcpu: cpu:out/u32? node:out/u32? tcache:pointer?
getcwd: buf:out/data*size size:size
getdents getdents64: fd:fd dirp:out/data*count count:uint
getgroups: size:int list:out/u32*size?
getitimer: which:cmd/ItimerWhich@i32 curr_value:out/itimerval
getpeername getsockname: sockfd:fd addr:out/sockaddr*addrlen addrlen:inout/i32
getpgid getsid sched_getscheduler: pid:pid
getpriority: which:cmd/PriorityWhich@i32 who:int
getrandom: buf:out/data*buflen buflen:size flags:flags/GetrandomFlag
getresgid: rgid:out/u32 egid:out/u32 sgid:out/u32
getresuid: ruid:out/u32 euid:out/u32 suid:out/u32
getrlimit: resource:cmd/Rlimit rlim:out/rlimit
getrusage: who:cmd/RusageWho@i32 usage:out/rusage
getsockopt: sockfd:fd level:cmd/SocketLevel@i32 optname:int optval:out/data*optlen? optlen:inout/i32
gettimeofday: tv:out/timeval? tz:out/timezone?
getxattr lgetxattr: path:path name:string/XattrName value:out/data*size? size:size
getxattrat setxattrat: dirfd:dirfd path:path? at_flags:flags/AtFlag name:string/XattrName
 args:struct/xattr_args*size size:size
init_module: module_image:pointer len:size param_values:string/ModuleParameters
inotify_add_watch: fd:fd path:path mask:flags/InotifyEvent
inotify_init1: flags:flags/InotifyInitFlag
inotify_rm_watch: fd:fd wd:int
io_cancel: ctx_id:ulong iocb:pointer result:pointer?
io_destroy: ctx_id:ulong
io_getevents: ctx_id:ulong min_nr:long nr:long events:pointer timeout:struct/timespec?
io_pgetevents: ctx_id:ulong min_nr:long nr:long events:pointer timeout:struct/timespec? usig:struct/sigset_argpack?
io_setup: nr_events:uint ctx_idp:pointer
io_submit: ctx_id:ulong nr:long iocbpp:pointer
io_uring_enter: fd:fd to_submit:uint min_complete:uint flags:flags/IoUringEnterFlag argp:pointer? argsz:size
io_uring_register: fd:fd opcode:flags/IoUringRegisterWord arg:pointer? nr_args:uint
io_uring_setup: entries:uint params:struct/io_uring_params
ioctl: fd:fd op:cmd/IoctlOp arg:hex@ulong
ioperm: from:ulong num:ulong turn_on:int
iopl: level:uint
ioprio_get: which:cmd/IoprioWhich@i32 who:int
ioprio_set: which:cmd/IoprioWhich@i32 who:int ioprio:flags/IoPriority@i32
kcmp: pid1:pid pid2:pid type:cmd/KcmpType@i32 idx1:ulong~type=KCMP_FILE|KCMP_EPOLL_TFD
 idx2:ulong~type=KCMP_FILE|KCMP_EPOLL_TFD
kexec_file_load: kernel_fd:fd initrd_fd:fd cmdline_len:size cmdline:pointer/data*cmdline_len?
 flags:flags/KexecFileFlag@ulong
kexec_load: entry:ulong nr_segments:ulong segments:pointer? flags:flags/KexecFlag@ulong
keyctl: op:cmd/KeyctlOp@i32 arg2:hex@ulong arg3:hex@ulong arg4:hex@ulong arg5:hex@ulong
kill: pid:pid sig:signal
landlock_add_rule: ruleset_fd:fd rule_type:cmd/LandlockRuleType@i32 rule_attr:address flags:uint
landlock_create_ruleset: attr:struct/landlock_ruleset_attr*size? size:size flags:flags/LandlockCreateFlag
landlock_restrict_self: ruleset_fd:fd flags:flags/LandlockRestrictFlag
link rename: oldpath:path newpath:path
linkat: olddirfd:dirfd oldpath:path newdirfd:dirfd newpath:path flags:flags/AtFlag
listen: sockfd:fd backlog:int
listmount: req:struct/mnt_id_req mnt_ids:pointer nr_mnt_ids:size flags:flags/ListmountFlag
listns: req:pointer ns_ids:pointer nr_ns_ids:size flags:uint
listxattr llistxattr: path:path list:out/data*size? size:size
listxattrat: dirfd:dirfd path:path? at_flags:flags/AtFlag list:out/data*size? size:size
lookup_dcookie: cookie:u64 buffer:pointer len:size
lremovexattr removexattr: path:path name:string/XattrName
lseek: fd:fd offset:offset whence:cmd/Whence
lsetxattr setxattr: path:path name:string/XattrName value:pointer/data*size? size:size flags:flags/XattrFlag
lsm_get_self_attr: attr:uint ctx:pointer? size:pointer flags:uint
lsm_list_modules: ids:pointer size:pointer flags:uint
lsm_set_self_attr: attr:uint ctx:pointer size:uint flags:uint
lstat stat: path:path statbuf:out/stat
madvise: addr:address length:size advice:cmd/MadviseAdvice@i32
map_shadow_stack: addr:address size:size flags:flags/ShadowStackFlag
mbind: addr:address len:size mode:flags/MemPolicyWord@i32 nodemask:pointer/nodemask*maxnode?
 maxnode:ulong flags:flags/MbindFlag
membarrier: cmd:cmd/MembarrierCmd@i32 flags:flags/MembarrierFlag cpu_id:int~flags
memfd_create: name:string/MemfdName flags:flags/MemfdFlag
memfd_secret: flags:flags/DescriptorFlag
migrate_pages: pid:pid maxnode:ulong old_nodes:pointer/nodemask*maxnode new_nodes:pointer/nodemask*maxnode
mincore: addr:address length:size vec:pointer
mknod: path:path mode:mode dev:dev~mode&0o170000=S_IFCHR|S_IFBLK
mknodat: dirfd:dirfd path:path mode:mode dev:dev~mode&0o170000=S_IFCHR|S_IFBLK
mlock munlock: addr:address len:size
mlock2: addr:address len:size flags:flags/MlockFlag
mlockall: flags:flags/MlockallFlag
mmap: addr:address length:size prot:flags/Prot@ulong flags:flags/MapFlag@ulong fd:fd offset:hex@ulong
modify_ldt: func:int ptr:pointer bytecount:ulong
mount: source:path? target:path fstype:string? flags:flags/MountFlag@ulong data:pointer/text?
mount_setattr: dirfd:dirfd path:path flags:flags/AtFlag attr:struct/mount_attr*size size:size
move_mount: from_dirfd:dirfd from_path:path to_dirfd:dirfd to_path:path flags:flags/MoveMountFlag
move_pages: pid:pid count:ulong pages:pointer nodes:pointer? status:pointer flags:flags/MbindFlag
mprotect: addr:address len:size prot:flags/Prot@ulong
mq_getsetattr: mqdes:fd newattr:struct/mq_attr? oldattr:out/mq_attr?
mq_notify: mqdes:fd sevp:struct/sigevent?
mq_open: name:string/Path oflag:flags/OpenFlag mode:mode~oflag&O_CREAT attr:struct/mq_attr?~oflag&O_CREAT
mq_timedreceive: mqdes:fd msg_ptr:out/data*msg_len msg_len:size msg_prio:out/u32? abs_timeout:struct/timespec?
mq_timedsend: mqdes:fd msg_ptr:pointer/data*msg_len msg_len:size msg_prio:uint abs_timeout:struct/timespec?
mq_unlink: name:string/Path
mremap: old_address:address old_size:size new_size:size flags:flags/MremapFlag@ulong
 new_address:address~flags&MREMAP_FIXED|MREMAP_DONTUNMAP
mseal: addr:address size:size flags:ulong
msgctl: msqid:int op:flags/MsgOp@i32 buf:pointer?
msgget: key:cmd/IpcKey@i32 msgflg:flags/IpcFlag
msgrcv: msqid:int msgp:out/msgbuf*msgsz msgsz:size msgtyp:long msgflg:flags/MsgRcvFlag
msgsnd: msqid:int msgp:pointer/msgbuf*msgsz msgsz:size msgflg:flags/MsgRcvFlag
msync: addr:address length:size flags:flags/MsyncFlag
munmap: addr:address length:size
name_to_handle_at: dirfd:dirfd path:path handle:inout/handle_size mount_id:out/i32 flags:flags/AtHandleFlag
nanosleep: request:struct/timespec remain:out/timespec?
newfstatat: dirfd:dirfd path:path? statbuf:out/stat flags:flags/AtFlag
nfsservctl: cmd:int argp:pointer resp:pointer
open: path:path flags:flags/OpenFlag mode:mode~flags&O_CREAT|0o20000000
open_by_handle_at: mount_fd:dirfd handle:struct/file_handle flags:flags/OpenFlag
open_tree: dirfd:dirfd path:path flags:flags/OpenTreeFlag
open_tree_attr: dirfd:dirfd path:path flags:flags/OpenTreeFlag attr:struct/mount_attr*size? size:size
openat: dirfd:dirfd path:path flags:flags/OpenFlag mode:mode~flags&O_CREAT|0o20000000
openat2: dirfd:dirfd path:path how:struct/open_how*size size:size
perf_event_open: attr:struct/perf_event_attr pid:pid cpu:int group_fd:fd flags:flags/PerfFlag@ulong
personality: persona:flags/Personality
pidfd_getfd: pidfd:fd targetfd:int flags:uint
pidfd_open: pid:pid flags:flags/PidfdFlag
pidfd_send_signal: pidfd:fd sig:signal info:struct/siginfo? flags:flags/PidfdSignalFlag
pipe: pipefd:out/i32*2
pipe2: pipefd:out/i32*2 flags:flags/DescriptorFlag
pivot_root: new_root:path put_old:path
pkey_alloc: flags:ulong access_rights:flags/PkeyAccess@ulong
pkey_free: pkey:int
pkey_mprotect: addr:address len:size prot:flags/Prot@ulong pkey:int
poll: fds:array/pollfd*nfds nfds:uint timeout:int
ppoll: fds:array/pollfd*nfds nfds:uint timeout:struct/timespec? sigmask:struct/sigset? sigsetsize:size
prctl: op:cmd/PrctlOp@i32 arg2:hex@ulong arg3:hex@ulong arg4:hex@ulong arg5:hex@ulong
pread64: fd:fd buf:out/data*count count:size offset:offset
preadv: fd:fd iov:iovec*iovcnt iovcnt:iovcnt offset:offset@position
pwritev: fd:fd iov:iovec/data*iovcnt iovcnt:iovcnt offset:offset@position
preadv2: fd:fd iov:iovec*iovcnt iovcnt:iovcnt offset:offset@position flags:flags/RwFlag
pwritev2: fd:fd iov:iovec/data*iovcnt iovcnt:iovcnt offset:offset@position flags:flags/RwFlag
prlimit64: pid:pid resource:cmd/Rlimit new_limit:struct/rlimit64? old_limit:out/rlimit64?
process_madvise: pidfd:fd iov:iovec*vlen vlen:iovcnt advice:cmd/MadviseAdvice@i32 flags:uint
process_mrelease: pidfd:fd flags:uint
process_vm_readv: pid:pid local_iov:iovec*liovcnt liovcnt:iovcnt remote_iov:iovec*riovcnt riovcnt:iovcnt flags:ulong
process_vm_writev: pid:pid local_iov:iovec/data*liovcnt liovcnt:iovcnt
 remote_iov:iovec*riovcnt riovcnt:iovcnt flags:ulong
pselect6: nfds:int readfds:pointer/fdset*nfds? writefds:pointer/fdset*nfds?
 exceptfds:pointer/fdset*nfds? timeout:struct/timespec? sigmask:struct/sigset_argpack?
ptrace: op:cmd/PtraceOp@long pid:pid addr:address data:address
pwrite64: fd:fd buf:pointer/data*count count:size offset:offset
query_module: name:string? which:int buf:pointer bufsize:size ret:pointer
quotactl: op:flags/QuotaOp special:path? id:uint addr:pointer?
quotactl_fd: fd:fd op:flags/QuotaOp id:uint addr:pointer?
read: fd:fd buf:out/data*count count:size
readahead: fd:fd offset:offset count:size
readlink: path:path buf:out/data*bufsiz bufsiz:int
readlinkat: dirfd:dirfd path:path buf:out/data*bufsiz bufsiz:int
readv: fd:fd iov:iovec*iovcnt iovcnt:iovcnt
writev: fd:fd iov:iovec/data*iovcnt iovcnt:iovcnt
reboot: magic:cmd/RebootMagic magic2:cmd/RebootMagic op:cmd/RebootOp arg:address~op=LINUX_REBOOT_CMD_RESTART2
recvfrom: sockfd:fd buf:out/data*size size:size flags:flags/MsgFlag src_addr:out/sockaddr*addrlen?
 addrlen:inout/i32?
recvmmsg: sockfd:fd msgvec:inout/mmsghdr*vlen vlen:uint flags:flags/MsgFlag timeout:struct/timespec?
recvmsg: sockfd:fd msg:inout/msghdr flags:flags/MsgFlag
remap_file_pages: addr:address size:size prot:flags/Prot@ulong pgoff:ulong flags:flags/MapFlag@ulong
removexattrat: dirfd:dirfd path:path? at_flags:flags/AtFlag name:string/XattrName
renameat: olddirfd:dirfd oldpath:path newdirfd:dirfd newpath:path
renameat2: olddirfd:dirfd oldpath:path newdirfd:dirfd newpath:path flags:flags/RenameFlag
request_key: type:string/KeyType description:string callout_info:string? dest_keyring:key
rseq: rseq:pointer rseq_len:uint flags:flags/RseqFlag sig:ulong@u32
rt_sigaction: signum:signal act:struct/sigaction? oldact:out/sigaction? sigsetsize:size
rt_sigpending: set:out/sigset sigsetsize:size
rt_sigprocmask: how:cmd/SigmaskHow@i32 set:struct/sigset? oldset:out/sigset? sigsetsize:size
rt_sigqueueinfo: tgid:pid sig:signal info:struct/siginfo
rt_sigsuspend: mask:struct/sigset sigsetsize:size
rt_sigtimedwait: set:struct/sigset info:out/siginfo? timeout:struct/timespec? sigsetsize:size
rt_tgsigqueueinfo: tgid:pid tid:pid sig:signal info:struct/siginfo
sched_get_priority_max sched_get_priority_min: policy:cmd/SchedPolicy@i32
sched_getaffinity: pid:pid cpusetsize:uint mask:out/data*cpusetsize
sched_getattr: pid:pid attr:out/sched_attr*size size:uint flags:uint
sched_getparam: pid:pid param:out/i32
sched_rr_get_interval: pid:pid tp:out/timespec
sched_setaffinity: pid:pid cpusetsize:uint mask:pointer/cpuset*cpusetsize
sched_setattr: pid:pid attr:struct/sched_attr flags:uint
sched_setparam: pid:pid param:struct/i32
sched_setscheduler: pid:pid policy:flags/SchedWord@i32 param:struct/i32
seccomp: operation:cmd/SeccompOp flags:flags/SeccompFlag args:address
select: nfds:int readfds:pointer/fdset*nfds? writefds:pointer/fdset*nfds?
 exceptfds:pointer/fdset*nfds? timeout:struct/timeval?
semctl: semid:int semnum:int op:flags/SemOp@i32 arg:address
semget: key:cmd/IpcKey@i32 nsems:int semflg:flags/IpcFlag
semop: semid:int sops:array/sembuf*nsops nsops:uint
semtimedop: semid:int sops:array/sembuf*nsops nsops:uint timeout:struct/timespec?
sendfile: out_fd:fd in_fd:fd offset:inout/long? count:size
sendmmsg: sockfd:fd msgvec:array/mmsghdr*vlen vlen:uint flags:flags/MsgFlag
sendmsg: sockfd:fd msg:struct/msghdr flags:flags/MsgFlag
sendto: sockfd:fd buf:pointer/data*size size:size flags:flags/MsgFlag dest_addr:sockaddr*addrlen? addrlen:socklen
set_mempolicy: mode:flags/MemPolicyWord@i32 nodemask:pointer/nodemask*maxnode? maxnode:ulong
set_mempolicy_home_node: start:address len:size home_node:ulong flags:ulong
set_robust_list: head:pointer len:size
set_tid_address: tidptr:pointer
setdomainname sethostname: name:pointer/data*len len:int
setfsgid: fsgid:gid
setfsuid: fsuid:uid
setgid: gid:gid
setgroups: size:int list:array/u32*size
setitimer: which:cmd/ItimerWhich@i32 new_value:struct/itimerval? old_value:out/itimerval?
setns: fd:fd nstype:flags/CloneFlag
setpgid: pid:pid pgid:pid
setpriority: which:cmd/PriorityWhich@i32 who:int prio:int
setregid: rgid:gid egid:gid
setresgid: rgid:gid egid:gid sgid:gid
setresuid: ruid:uid euid:uid suid:uid
setreuid: ruid:uid euid:uid
setrlimit: resource:cmd/Rlimit rlim:struct/rlimit
setsockopt: sockfd:fd level:cmd/SocketLevel@i32 optname:int optval:pointer/option*optlen? optlen:int
settimeofday: tv:struct/timeval? tz:struct/timezone?
setuid: uid:uid
shmat: shmid:int shmaddr:address shmflg:flags/ShmatFlag
shmctl: shmid:int op:flags/ShmOp@i32 buf:pointer?
shmdt: shmaddr:address
shmget: key:cmd/IpcKey@i32 size:size shmflg:flags/ShmFlag
shutdown: sockfd:fd how:cmd/ShutdownHow@i32
sigaltstack: ss:struct/stack_t? old_ss:out/stack_t?
signalfd: fd:fd mask:struct/sigset sizemask:size
signalfd4: fd:fd mask:struct/sigset sizemask:size flags:flags/SignalfdFlag
socket: domain:cmd/AddressFamily@i32 type:flags/SockType protocol:int
socketpair: domain:cmd/AddressFamily@i32 type:flags/SockType protocol:int sv:out/i32*2
splice: fd_in:fd off_in:inout/i64? fd_out:fd off_out:inout/i64? len:size flags:flags/SpliceFlag
statfs: path:path buf:out/statfs
statmount: req:struct/mnt_id_req buf:pointer bufsize:size flags:flags/StatmountFlag
statx: dirfd:dirfd path:path? flags:flags/AtStatxFlag mask:flags/StatxMask statxbuf:out/statx
swapon: path:path flags:flags/SwapFlag
symlink: target:string/Path linkpath:path
symlinkat: target:string/Path newdirfd:dirfd linkpath:path
sync_file_range: fd:fd offset:offset nbytes:offset flags:flags/SyncFileRangeFlag
sysfs: option:int arg1:ulong arg2:ulong
sysinfo: info:out/sysinfo
syslog: type:cmd/SyslogAction@i32 bufp:out/data*len? len:int
tee: fd_in:fd fd_out:fd len:size flags:flags/SpliceFlag
tgkill: tgid:pid tid:pid sig:signal
time: tloc:out/long?
timer_create: clockid:clock sevp:struct/sigevent? timerid:out/i32
timer_delete timer_getoverrun: timerid:int
timer_gettime: timerid:int curr_value:out/itimerspec
timer_settime: timerid:int flags:flags/TimerFlag new_value:struct/itimerspec old_value:out/itimerspec?
timerfd_create: clockid:clock flags:flags/TimerfdFlag
timerfd_gettime: fd:fd curr_value:out/itimerspec
timerfd_settime: fd:fd flags:flags/TimerfdSetFlag new_value:struct/itimerspec old_value:out/itimerspec?
times: buf:out/tms?
tkill: tid:pid sig:signal
truncate: path:path length:offset
umask: mask:mode@u32
umount2: target:path flags:flags/UmountFlag
uname: buf:out/new_utsname
unlinkat: dirfd:dirfd path:path flags:flags/AtUnlinkFlag
unshare: flags:flags/CloneFlag@ulong
uselib: library:path
userfaultfd: flags:flags/UserfaultfdFlag
ustat: dev:dev ubuf:pointer
utime: path:path times:struct/utimbuf?
utimensat: dirfd:dirfd path:path? times:array/file_time*2? flags:flags/AtFlag
utimes: path:path times:array/timeval*2?
vmsplice: fd:fd iov:iovec/data*nr_segs nr_segs:iovcnt flags:flags/SpliceFlag
wait4: pid:pid wstatus:out/i32? options:flags/WaitFlag rusage:out/rusage?
waitid: idtype:cmd/WaitIdType@i32 id:pid info:out/siginfo? options:flags/WaitFlag rusage:out/rusage?
write: fd:fd buf:pointer/data*count count:size
"""

#: Calls of 32-bit architectures that COMMON does not have, or that take other registers there.
#: What ends in ``32``, ``_time64`` or ``64`` and is not listed is COMMON's call without that, with
#: 64-bit times.  ``@pair`` is a 64-bit value in two registers, in the architecture's byte order, from an
#: even one on where the calling convention says so (arm, PowerPC, MIPS); ``@halves`` one whose upper half
#: comes first everywhere.
WORD32: Final = """
_llseek: fd:fd offset:offset@halves result:out/i64 whence:cmd/Whence
_newselect: nfds:int readfds:pointer/fdset*nfds? writefds:pointer/fdset*nfds?
 exceptfds:pointer/fdset*nfds? timeout:struct/timeval?
arm_fadvise64_64: fd:fd advice:cmd/FadviseAdvice@i32 offset:offset@pair len:offset@pair
arm_sync_file_range sync_file_range2: fd:fd flags:flags/SyncFileRangeFlag offset:offset@pair nbytes:offset@pair
bdflush: func:int data:long
break ftime gtty lock mpx prof profil sgetmask sigreturn stty ulimit:
fadvise64: fd:fd offset:offset@pair len:size advice:cmd/FadviseAdvice@i32
fadvise64_64: fd:fd offset:offset@pair len:offset@pair advice:cmd/FadviseAdvice@i32
fallocate: fd:fd mode:flags/FallocFlag offset:offset@pair len:offset@pair
fanotify_mark: fanotify_fd:fd flags:flags/FanMarkFlag mask:flags/FanEvent@pair dirfd:dirfd path:path?
fcntl64: fd:fd op:cmd/FcntlOp arg:hex@ulong
fstat64: fd:fd statbuf:out/stat64
fstatat64: dirfd:dirfd path:path? statbuf:out/stat64 flags:flags/AtFlag
fstatfs64: fd:fd size:size buf:out/statfs64
ftruncate64: fd:fd length:offset@pair
ipc: call:cmd/IpcCall first:int second:ulong third:ulong ptr:address fifth:ulong
lookup_dcookie: cookie:u64@pair buffer:pointer len:size
lstat64 stat64: path:path statbuf:out/stat64
mmap2: addr:address length:size prot:flags/Prot@ulong flags:flags/MapFlag@ulong fd:fd pgoffset:pages
nice: inc:int
oldfstat: fd:fd statbuf:out/old_stat
oldlstat oldstat: path:path statbuf:out/old_stat
oldolduname: buf:out/oldold_utsname
olduname: buf:out/old_utsname
pread64: fd:fd buf:out/data*count count:size offset:offset@pair
pwrite64: fd:fd buf:pointer/data*count count:size offset:offset@pair
readahead: fd:fd offset:offset@pair count:size
readdir: fd:fd dirp:pointer count:uint
recv: sockfd:fd buf:out/data*size size:size flags:flags/MsgFlag
send: sockfd:fd buf:pointer/data*size size:size flags:flags/MsgFlag
sendfile64: out_fd:fd in_fd:fd offset:inout/i64? count:size
sigaction: signum:signal act:struct/old_sigaction? oldact:out/old_sigaction?
signal: signum:signal handler:cmd/SigHandler@ulong
sigpending: set:out/old_sigset
sigprocmask: how:cmd/SigmaskHow@i32 set:struct/old_sigset? oldset:out/old_sigset?
sigsuspend: unused1:int unused2:int mask:sigset
socketcall: call:cmd/SocketCall@i32 args:address
ssetmask: newmask:sigset
statfs64: path:path size:size buf:out/statfs64
stime: tptr:struct/long
sync_file_range: fd:fd offset:offset@pair nbytes:offset@pair flags:flags/SyncFileRangeFlag
truncate64: path:path length:offset@pair
ugetrlimit: resource:cmd/Rlimit rlim:out/rlimit
umount: target:path
vm86: cmd:ulong arg:ulong
vm86old: user_vm86:pointer
waitpid: pid:pid wstatus:out/i32? options:flags/WaitFlag
"""

#: Calls whose arguments depend on a command: below ``call ... argument`` what follows that argument
#: for each of its words, in place of what follows it otherwise; ``...`` is what is not written anew, and
#: ``{}`` the word in small letters.
#: ``unused`` arguments keep registers free.  ``=call R ...`` is another call, made with these registers.
COMMANDS: Final = """
arch_prctl op
 ARCH_SET_GS ARCH_SET_FS: addr:address
 ARCH_GET_FS ARCH_GET_GS ARCH_GET_XCOMP_SUPP ARCH_GET_XCOMP_PERM ARCH_SHSTK_STATUS: addr:out/ulong
bpf cmd
 BPF_MAP_LOOKUP_ELEM BPF_MAP_UPDATE_ELEM BPF_MAP_DELETE_ELEM BPF_MAP_LOOKUP_AND_DELETE_ELEM:
  attr:struct/bpf_map_elem*size ...
 BPF_OBJ_PIN BPF_OBJ_GET: attr:struct/bpf_obj*size ...
 BPF_PROG_GET_NEXT_ID BPF_MAP_GET_NEXT_ID BPF_BTF_GET_NEXT_ID BPF_LINK_GET_NEXT_ID:
  attr:struct/bpf_next_id*size ...
 BPF_MAP_LOOKUP_BATCH BPF_MAP_LOOKUP_AND_DELETE_BATCH BPF_MAP_UPDATE_BATCH BPF_MAP_DELETE_BATCH:
  attr:struct/bpf_map_batch*size ...
 BPF_MAP_CREATE BPF_MAP_GET_NEXT_KEY BPF_PROG_LOAD BPF_PROG_ATTACH BPF_PROG_DETACH BPF_PROG_QUERY
  BPF_PROG_GET_FD_BY_ID BPF_MAP_GET_FD_BY_ID BPF_BTF_GET_FD_BY_ID BPF_LINK_GET_FD_BY_ID
  BPF_OBJ_GET_INFO_BY_FD BPF_RAW_TRACEPOINT_OPEN BPF_BTF_LOAD BPF_MAP_FREEZE BPF_LINK_CREATE
  BPF_LINK_UPDATE BPF_LINK_DETACH BPF_ENABLE_STATS BPF_ITER_CREATE BPF_PROG_BIND_MAP
  BPF_TOKEN_CREATE: attr:struct/{}*size ...
epoll_ctl op
 EPOLL_CTL_DEL: fd:fd event:address
fcntl fcntl64 op
 F_DUPFD F_DUPFD_CLOEXEC: arg:int
 F_DUPFD_QUERY: fd2:fd
 F_GETFD F_GETFL F_GETOWN F_GETSIG F_GETLEASE F_GETPIPE_SZ F_GET_SEALS F_CREATED_QUERY:
 F_SETFD: flags:flags/FdFlag
 F_SETFL: flags:flags/OpenFlag
 F_GETLK F_SETLK F_SETLKW: flock:struct/flock
 F_GETLK64 F_SETLK64 F_SETLKW64 F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW: flock:struct/flock64
 F_SETOWN: pid:pid
 F_SETSIG: sig:signal
 F_SETOWN_EX: owner:struct/f_owner_ex
 F_GETOWN_EX: owner:out/f_owner_ex
 F_GETOWNER_UIDS: uids:out/u32*2
 F_SETLEASE: type:cmd/LockType
 F_NOTIFY: events:flags/NotifyFlag
 F_SETPIPE_SZ: size:int
 F_ADD_SEALS: seals:flags/SealFlag
 F_GET_RW_HINT F_GET_FILE_RW_HINT: hint:out/u64
 F_SET_RW_HINT F_SET_FILE_RW_HINT F_GETDELEG F_SETDELEG: hint:address
fsconfig cmd
 FSCONFIG_SET_STRING: key:string/FsKey value:string/FsKey aux:int
 FSCONFIG_SET_BINARY: key:string/FsKey value:pointer/data*aux aux:int
 FSCONFIG_SET_PATH FSCONFIG_SET_PATH_EMPTY: key:string/FsKey value:path aux:dirfd
 FSCONFIG_SET_FD: key:string/FsKey value:address aux:fd
futex op
 FUTEX_WAIT: val:uint timeout:struct/timespec?
 FUTEX_WAKE FUTEX_FD: val:uint
 FUTEX_REQUEUE: val:uint val2:int uaddr2:pointer
 FUTEX_CMP_REQUEUE FUTEX_CMP_REQUEUE_PI: val:uint val2:int uaddr2:pointer val3:uint
 FUTEX_WAKE_OP: val:uint val2:int uaddr2:pointer val3:flags/FutexWakeOp
 FUTEX_LOCK_PI FUTEX_LOCK_PI2: unused:uint timeout:struct/timespec?
 FUTEX_UNLOCK_PI FUTEX_TRYLOCK_PI:
 FUTEX_WAIT_BITSET: val:uint timeout:struct/timespec? unused:ulong val3:flags/FutexBitset
 FUTEX_WAKE_BITSET: val:uint unused1:ulong unused2:ulong val3:flags/FutexBitset
 FUTEX_WAIT_REQUEUE_PI: val:uint timeout:struct/timespec? uaddr2:pointer
getsockopt level
 SOL_SOCKET: optname:cmd/SockOpt@i32 optval:out/i32 ...
 SOL_IP: optname:cmd/IpOpt@i32 ...
 SOL_TCP: optname:cmd/TcpOpt@i32 ...
 SOL_IPV6: optname:cmd/Ipv6Opt@i32 ...
getsockopt optname
 SO_LINGER: optval:out/linger ...
 SO_PEERCRED: optval:out/ucred ...
 SO_RCVTIMEO_OLD SO_SNDTIMEO_OLD: optval:out/timeval ...
 SO_RCVTIMEO_NEW SO_SNDTIMEO_NEW: optval:out/timeval64 ...
 SO_BINDTODEVICE SO_PEERSEC SO_PEERNAME SO_PEERGROUPS SO_MEMINFO SO_COOKIE SO_NETNS_COOKIE
  SO_MAX_PACING_RATE SO_TXTIME SO_ATTACH_FILTER: optval:out/data*optlen ...
ioctl op
 TIOCSTI: argp:pointer/data*1
 TIOCGWINSZ: argp:out/winsize
 TIOCSWINSZ: argp:struct/winsize
 FIONBIO FIOASYNC TIOCSETD TIOCSPGRP TIOCSPTLCK FS_IOC_SETFLAGS: argp:struct/i32
 FIONREAD TIOCOUTQ TIOCGPGRP TIOCGSID TIOCGETD TIOCGPTN FS_IOC_GETFLAGS: argp:out/i32
 FIOCLEX FIONCLEX TIOCEXCL TIOCNXCL TIOCCONS TIOCNOTTY LOOP_CLR_FD:
 TCSBRK TCXONC TCFLSH TIOCSCTTY: arg:int
 FICLONE LOOP_SET_FD: fd2:fd
 SIOCGIFFLAGS SIOCGIFADDR SIOCGIFHWADDR SIOCGIFINDEX: ifr:struct/ifreq_name
 SIOCSIFFLAGS: ifr:struct/ifreq_flags
 TUNSETIFF: ifr:struct/ifreq_tun
ipc call
 SEMOP: =semop 1 4 2
 SEMGET: =semget 1 2 3
 SEMTIMEDOP: =semtimedop 1 4 2 5
 MSGSND: =msgsnd 1 4 2 3
 MSGGET: =msgget 1 2
 MSGCTL: =msgctl 1 2 4
 SHMAT: =shmat 1 4 2
 SHMDT: =shmdt 4
 SHMGET: =shmget 1 2 3
 SHMCTL: =shmctl 1 2 4
keyctl op
 KEYCTL_GET_KEYRING_ID: key:key create:int
 KEYCTL_JOIN_SESSION_KEYRING: name:string?
 KEYCTL_UPDATE: key:key payload:pointer plen:int
 KEYCTL_REVOKE KEYCTL_CLEAR KEYCTL_ASSUME_AUTHORITY KEYCTL_INVALIDATE: key:key
 KEYCTL_CHOWN: key:key uid:uid gid:gid
 KEYCTL_SETPERM: key:key perm:flags/KeyPermission
 KEYCTL_DESCRIBE KEYCTL_READ KEYCTL_GET_SECURITY: key:key buffer:out/data*buflen buflen:int
 KEYCTL_LINK KEYCTL_UNLINK: key:key keyring:key
 KEYCTL_SEARCH: keyring:key type:string/KeyType description:string dest_keyring:key
 KEYCTL_INSTANTIATE KEYCTL_INSTANTIATE_IOV: key:key payload:pointer plen:int keyring:key
 KEYCTL_NEGATE: key:key timeout:int keyring:key
 KEYCTL_SET_REQKEY_KEYRING: reqkey_defl:int
 KEYCTL_SET_TIMEOUT: key:key timeout:int
 KEYCTL_SESSION_TO_PARENT:
 KEYCTL_REJECT: key:key timeout:int error:int keyring:key
 KEYCTL_GET_PERSISTENT: uid:uid keyring:key
 KEYCTL_RESTRICT_KEYRING: keyring:key type:string/KeyType? restriction:string?
 KEYCTL_MOVE: key:key from_keyring:key to_keyring:key flags:hex@u32
 KEYCTL_CAPABILITIES: buffer:out/data*buflen buflen:int
 KEYCTL_WATCH_KEY: key:key watch_queue_fd:int watch_id:int
landlock_add_rule rule_type
 LANDLOCK_RULE_PATH_BENEATH: rule_attr:struct/landlock_path_beneath_attr ...
 LANDLOCK_RULE_NET_PORT: rule_attr:struct/landlock_net_port_attr ...
prctl op
 PR_SET_PDEATHSIG: sig:signal@ulong
 PR_GET_PDEATHSIG PR_GET_UNALIGN PR_GET_FPEMU PR_GET_FPEXC PR_GET_ENDIAN PR_GET_TSC
  PR_GET_CHILD_SUBREAPER: arg2:out/i32
 PR_GET_DUMPABLE PR_GET_KEEPCAPS PR_GET_TIMING PR_GET_SECCOMP PR_GET_SECUREBITS PR_GET_TIMERSLACK
  PR_TASK_PERF_EVENTS_DISABLE PR_TASK_PERF_EVENTS_ENABLE:
 PR_SET_DUMPABLE: dumpable:cmd/PrDumpable@ulong
 PR_SET_UNALIGN PR_SET_KEEPCAPS PR_SET_TIMING PR_SET_TSC: arg2:int
 PR_SET_NAME: name:string/Comm
 PR_GET_NAME: name:out/data*16
 PR_SET_SECCOMP: mode:cmd/SeccompMode@ulong
 PR_CAPBSET_READ PR_CAPBSET_DROP: cap:cmd/Capability@ulong
 PR_SET_SECUREBITS: flags:flags/PrSecurebits@ulong
 PR_SET_TIMERSLACK PR_SET_CHILD_SUBREAPER: arg2:u64@ulong
 PR_SET_MM: opt:cmd/PrMm@ulong addr:address arg4:hex@ulong arg5:hex@ulong
 PR_SET_NO_NEW_PRIVS PR_GET_NO_NEW_PRIVS PR_SET_THP_DISABLE PR_GET_THP_DISABLE: arg2:u64@ulong
  arg3:u64@ulong arg4:u64@ulong arg5:u64@ulong
 PR_GET_TID_ADDRESS: addrp:out/ulong
 PR_CAP_AMBIENT: option:cmd/PrCapAmbient@ulong cap:cmd/Capability@ulong arg4:u64@ulong
  arg5:u64@ulong
 PR_GET_SPECULATION_CTRL: misfeature:cmd/PrSpeculation@ulong
 PR_SET_SPECULATION_CTRL: misfeature:cmd/PrSpeculation@ulong val:flags/PrSpeculationCtrl@ulong
 PR_SCHED_CORE: option:cmd/PrSchedCore@ulong pid:pid type:int cookie:address
 PR_SET_VMA: attr:cmd/PrVma@ulong addr:address size:u64@ulong name:string/VmaName?
 PR_SET_PTRACER: pid:cmd/Tracer@long
prctl mode
 SECCOMP_MODE_FILTER: filter:struct/sock_fprog
ptrace op
 PTRACE_TRACEME:
 PTRACE_ATTACH PTRACE_INTERRUPT PTRACE_LISTEN: pid:pid@long
 PTRACE_SETOPTIONS PTRACE_SEIZE: pid:pid@long addr:address data:flags/PtraceOption@ulong
 PTRACE_CONT PTRACE_SINGLESTEP PTRACE_DETACH PTRACE_SYSCALL: pid:pid@long addr:address
  data:signal@ulong
reboot op
 LINUX_REBOOT_CMD_RESTART2: arg:string/RebootArg
seccomp operation
 SECCOMP_SET_MODE_FILTER: flags:flags/SeccompFlag args:struct/sock_fprog
 SECCOMP_GET_ACTION_AVAIL: flags:hex@u32 args:struct/u32.SeccompAction
 SECCOMP_SET_MODE_STRICT SECCOMP_GET_NOTIF_SIZES: flags:hex@u32 args:address
setsockopt level
 SOL_SOCKET: optname:cmd/SockOpt@i32 optval:struct/i32*optlen ...
 SOL_IP: optname:cmd/IpOpt@i32 ...
 SOL_TCP: optname:cmd/TcpOpt@i32 optval:struct/i32*optlen ...
 SOL_IPV6: optname:cmd/Ipv6Opt@i32 ...
setsockopt optname
 SO_LINGER: optval:struct/linger*optlen ...
 SO_ATTACH_FILTER SO_ATTACH_REUSEPORT_CBPF: optval:struct/sock_fprog*optlen ...
 SO_RCVTIMEO_OLD SO_SNDTIMEO_OLD: optval:struct/timeval*optlen ...
 SO_RCVTIMEO_NEW SO_SNDTIMEO_NEW: optval:struct/timeval64*optlen ...
 SO_BINDTODEVICE TCP_CONGESTION TCP_ULP: optval:bytes/15*optlen ...
 SO_MAX_PACING_RATE SO_TXTIME SO_TIMESTAMPING_OLD SO_TIMESTAMPING_NEW TCP_MD5SIG TCP_MD5SIG_EXT
  TCP_REPAIR_OPTIONS TCP_REPAIR_WINDOW TCP_FASTOPEN_KEY: optval:pointer/option*optlen ...
socket socketpair domain
 AF_INET AF_INET6: type:flags/SockType protocol:cmd/IpProtocol@i32 ...
 AF_NETLINK: type:flags/SockType protocol:cmd/NetlinkProtocol@i32 ...
 AF_CAN: type:flags/SockType protocol:cmd/CanProtocol@i32 ...
 AF_PACKET: type:flags/SockType protocol:htons/EtherType ...
"""

#: i386, arm and s390 (31 bits): ids have 16 bits, and ``chown32``... are the calls with 32.
UID16: Final = """
chown lchown: path:path owner:uid@u16 group:gid@u16
fchown: fd:fd owner:uid@u16 group:gid@u16
getgroups: size:int list:out/u16*size?
getresgid: rgid:out/u16 egid:out/u16 sgid:out/u16
getresuid: ruid:out/u16 euid:out/u16 suid:out/u16
setfsgid: fsgid:gid@u16
setfsuid: fsuid:uid@u16
setgid: gid:gid@u16
setgroups: size:int list:array/u16*size
setregid: rgid:gid@u16 egid:gid@u16
setresgid: rgid:gid@u16 egid:gid@u16 sgid:gid@u16
setresuid: ruid:uid@u16 euid:uid@u16 suid:uid@u16
setreuid: ruid:uid@u16 euid:uid@u16
setuid: uid:uid@u16
"""

#: i386 and s390 (31 bits): arguments through a structure.
STRUCTURED: Final = """
mmap: arg:registers/mmap
select: arg:registers/select
"""

#: arm (EABI): its own calls (numbers from 0x0f0000).
ARM: Final = """
breakpoint get_tls usr26 usr32:
cacheflush: start:address end:address flags:int
pciconfig_iobase: which:long bus:ulong devfn:ulong
pciconfig_read pciconfig_write: bus:ulong dfn:ulong off:ulong len:ulong buf:pointer
set_tls: value:ulong
"""

#: Architectures whose clone(2) takes tls before child_tid (CONFIG_CLONE_BACKWARDS).
BACKWARDS_CLONE: Final = """
clone: flags:flags/CloneWord stack:address parent_tid:out/i32?~flags&CLONE_PARENT_SETTID|CLONE_PIDFD
 tls:address~flags&CLONE_SETTLS child_tid:out/i32?~flags&CLONE_CHILD_SETTID|CLONE_CHILD_CLEARTID
"""

RISCV64: Final = """
riscv_flush_icache: start:address end:address flags:ulong
riscv_hwprobe: pairs:pointer pair_count:size cpusetsize:size cpus:pointer? flags:uint
"""

#: PowerPC, of either width.
POWERPC: Final = """
fadvise64_64: fd:fd advice:cmd/FadviseAdvice@i32 offset:offset@pair len:offset@pair
multiplexer switch_endian:
pciconfig_iobase: which:long bus:ulong devfn:ulong
pciconfig_read pciconfig_write: bus:ulong dfn:ulong off:ulong len:ulong buf:pointer
rtas: uargs:pointer
spu_create: path:path flags:uint mode:mode neighbor_fd:fd
spu_run: fd:fd npc:pointer status:pointer?
subpage_prot: addr:address len:ulong map:pointer?
swapcontext: old_ctx:pointer? new_ctx:pointer? ctx_size:long
sys_debug_setcontext: ctx:pointer ndbg:int dbg:pointer
"""

#: s390 of either width: clone with the stack first (CONFIG_CLONE_BACKWARDS2), mmap through a
#: structure, its own calls.
S390X: Final = """
clone: stack:address flags:flags/CloneWord parent_tid:out/i32?~flags&CLONE_PARENT_SETTID|CLONE_PIDFD
 child_tid:out/i32?~flags&CLONE_CHILD_SETTID|CLONE_CHILD_CLEARTID tls:address~flags&CLONE_SETTLS
mmap: arg:registers/mmap
s390_guarded_storage: command:int gs_cb:pointer?
s390_pci_mmio_read s390_pci_mmio_write: mmio_addr:ulong buf:pointer length:size
s390_runtime_instr: command:int signum:int
s390_sthyi: function_code:ulong buffer:pointer return_code:pointer flags:ulong
timerfd:
"""

#: s390 of 31 bits (``arch/s390/kernel/compat_linux.c`` 5.10).
S390: Final = """
fadvise64_64: args:pointer
mmap2: arg:registers/mmap2
"""

#: MIPS, of all ABIs (``arch/mips/kernel/syscall.c`` 6.16); pipe(2) answers in two registers.
MIPS: Final = """
cachectl: addr:address nbytes:int op:int
cacheflush: addr:address bytes:ulong cache:uint
pipe timerfd:
set_thread_area: addr:ulong
syscall: number:ulong
sysmips: cmd:long arg1:long arg2:long
"""

#: MIPS o32: its fadvise64 is fadvise64_64.
MIPS_O32: Final = """
fadvise64: fd:fd offset:offset@pair len:offset@pair advice:cmd/FadviseAdvice@i32
"""

#: x32: a 64-bit position in one register where compat calls take two.
ONE_REGISTER: Final = """
preadv: fd:fd iov:iovec*iovcnt iovcnt:iovcnt offset:offset@i64
pwritev: fd:fd iov:iovec/data*iovcnt iovcnt:iovcnt offset:offset@i64
preadv2: fd:fd iov:iovec*iovcnt iovcnt:iovcnt offset:offset@i64 flags:flags/RwFlag
pwritev2: fd:fd iov:iovec/data*iovcnt iovcnt:iovcnt offset:offset@i64 flags:flags/RwFlag
"""

_N32_COMPAT: Final = frozenset(
    """rt_sigaction rt_sigprocmask ioctl readv writev _newselect shmctl nanosleep getitimer setitimer
    sendfile recvfrom sendmsg recvmsg execve wait4 semctl msgsnd msgrcv msgctl fcntl getdents
    gettimeofday getrlimit getrusage sysinfo times ptrace rt_sigpending rt_sigtimedwait
    rt_sigqueueinfo rt_sigsuspend sigaltstack utime ustat statfs fstatfs sched_rr_get_interval
    adjtimex setrlimit settimeofday futex sched_setaffinity sched_getaffinity io_setup io_getevents
    io_submit fcntl64 semtimedop statfs64 fstatfs64 timer_create timer_settime timer_gettime
    clock_settime clock_gettime clock_getres clock_nanosleep utimes mbind get_mempolicy set_mempolicy
    mq_open mq_timedsend mq_timedreceive mq_notify mq_getsetattr waitid keyctl migrate_pages futimesat
    pselect6 ppoll vmsplice move_pages set_robust_list get_robust_list kexec_load epoll_pwait
    utimensat signalfd timerfd_gettime timerfd_settime signalfd4 preadv pwritev rt_tgsigqueueinfo
    recvmmsg clock_adjtime sendmmsg process_vm_readv process_vm_writev execveat preadv2 pwritev2
    io_pgetevents pselect6_time64 ppoll_time64 recvmmsg_time64 rt_sigtimedwait_time64
    """.split()  # noqa: SIM905
)

#: Calls of x32 and n32 that enter the kernel by its compat side, so that pointers and longs are 32
#: bits wide and structures have the 32-bit layout: on x32 those with numbers of their own (512 and
#: above), of n32 see ``arch/mips/kernel/syscalls/syscall_n32.tbl`` (compat and ``time32`` entries).
COMPAT: Final = {
    "mips64n32": _N32_COMPAT,
    "mipsel64n32": _N32_COMPAT,
    "x32": frozenset(
        """rt_sigaction rt_sigreturn ioctl readv writev recvfrom sendmsg recvmsg execve ptrace
        rt_sigpending rt_sigtimedwait rt_sigqueueinfo sigaltstack timer_create mq_notify kexec_load
        waitid set_robust_list get_robust_list vmsplice move_pages preadv pwritev rt_tgsigqueueinfo
        recvmmsg sendmmsg process_vm_readv process_vm_writev setsockopt getsockopt io_setup
        io_submit execveat preadv2 pwritev2""".split()  # noqa: SIM905
    ),
}
