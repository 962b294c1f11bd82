"""What every system call's registers mean: the one table behind decoding.

One line per call, ``name: argument ...``, each argument ``name:role[/Family][@type][?]``:

* *role* and *type* are explained in :mod:`proctor.syscalls.signatures`; a role has a usual type,
  ``@`` gives another one;
* *Family* names constants in :mod:`proctor.syscalls.flags`, a structure in
  :mod:`proctor.call.decode.structures`, or the argument that holds a length;
* of a ``pointer`` it says what a log shows of the memory: ``data*count`` (as many bytes as that
  argument says), ``text`` (up to a NUL), a number's type or a structure of
  :mod:`proctor.call.decode.layouts_data`, with ``*count`` for an array; ``memory``, of a ``ulong`` too, where
  another argument says what it points to; the argument's value is its address;
* ``?`` marks a pointer that may be NULL.

Argument names are those of the manual pages where there is one.  Types follow the kernel's
``SYSCALL_DEFINE`` lines (what the kernel keeps of a register), not libc's prototypes.  Sources:
manual pages (section 2), ``include/linux/syscalls.h``, ``include/linux/compat.h``,
``arch/x86/entry/syscalls/*.tbl``.  Written by hand; the tests hold it to the kernel's own
description (``/sys/kernel/tracing/events/syscalls``) and to the numbers' tables.
"""

from __future__ import annotations

from typing import Final

#: Calls as every 64-bit architecture has them.
COMMON: Final = """
_sysctl: args:struct
accept: sockfd:fd addr:pointer? addrlen:pointer/i32?
accept4: sockfd:fd addr:pointer? addrlen:pointer/i32? flags:flags/SockFlag
access: path:path mode:flags/AccessMode
acct: path:path?
add_key: type:string description:string payload:pointer? plen:size keyring:cmd/KeySpec@i32
adjtimex: buf:struct/timex
afs_syscall:
alarm: seconds:uint
arch_prctl: op:cmd/ArchPrctl@i32 addr:ulong
bind: sockfd:fd addr:sockaddr/addrlen addrlen:socklen
bpf: cmd:cmd/BpfCmd@i32 attr:struct/bpf_attr size:uint
brk: addr:address
cachestat: fd:fd range:struct/cachestat_range cstat:pointer flags:uint
capget: hdrp:struct/cap_user_header datap:pointer?
capset: hdrp:struct/cap_user_header datap:struct/cap_user_data
chdir: path:path
chmod: path:path mode:mode
chown: path:path owner:uid group:gid
chroot: path:path
clock_adjtime: clockid:clock buf:struct/timex
clock_getres: clockid:clock res:pointer?
clock_gettime: clockid:clock tp:pointer
clock_nanosleep: clockid:clock flags:flags/TimerFlag request:timespec remain:pointer?
clock_settime: clockid:clock tp:timespec
clone: flags:flags/CloneFlag stack:address parent_tid:pointer? child_tid:pointer? tls:ulong
clone3: cl_args:struct/clone_args size:size
close: fd:fd
close_range: first:uint last:uint flags:flags/CloseRangeFlag
connect: sockfd:fd addr:sockaddr/addrlen addrlen:socklen
copy_file_range: fd_in:fd off_in:pointer/i64? fd_out:fd off_out:pointer/i64? len:size flags:uint
creat: path:path mode:mode
create_module: module:string size:size
delete_module: module:string flags:flags/OpenFlag
dup: oldfd:fd
dup2: oldfd:fd newfd:fd
dup3: oldfd:fd newfd:fd flags:flags/OpenFlag
epoll_create: size:int
epoll_create1: flags:flags/EpollFlag
epoll_ctl: epfd:fd op:cmd/EpollOp@i32 fd:fd event:struct/epoll_event?
epoll_ctl_old: epfd:fd op:cmd/EpollOp@i32 fd:fd event:pointer?
epoll_pwait: epfd:fd events:pointer maxevents:int timeout:int sigmask:struct/sigset? sigsetsize:size
epoll_pwait2: epfd:fd events:pointer maxevents:int timeout:timespec? sigmask:struct/sigset? sigsetsize:size
epoll_wait: epfd:fd events:pointer maxevents:int timeout:int
epoll_wait_old: epfd:fd events:pointer maxevents:int timeout:int
eventfd: initval:uint
eventfd2: initval:uint flags:flags/EventFlag
execve: path:path argv:strings? envp:strings?
execveat: dirfd:dirfd path:path argv:strings? envp:strings? flags:flags/AtFlag
exit: status:int
exit_group: status:int
faccessat: dirfd:dirfd path:path mode:flags/AccessMode
faccessat2: dirfd:dirfd path:path mode:flags/AccessMode flags:flags/AtAccessFlag
fadvise64: fd:fd offset:offset len:size advice:cmd/FadviseAdvice@i32
fallocate: fd:fd mode:flags/FallocFlag offset:offset len:offset
fanotify_init: flags:flags/FanInitFlag event_f_flags:flags/OpenFlag
fanotify_mark: fanotify_fd:fd flags:flags/FanMarkFlag mask:flags/FanEvent@u64 dirfd:dirfd path:path?
fchdir: fd:fd
fchmod: fd:fd mode:mode
fchmodat: dirfd:dirfd path:path mode:mode
fchmodat2: dirfd:dirfd path:path mode:mode flags:flags/AtFlag
fchown: fd:fd owner:uid group:gid
fchownat: dirfd:dirfd path:path owner:uid group:gid flags:flags/AtFlag
fcntl: fd:fd op:cmd/FcntlOp arg:ulong/memory
fdatasync: fd:fd
fgetxattr: fd:fd name:string/XattrName value:pointer? size:size
file_getattr: dirfd:dirfd path:path? attr:pointer size:size at_flags:flags/AtFlag
file_setattr: dirfd:dirfd path:path? attr:struct/file_attr size:size at_flags:flags/AtFlag
finit_module: fd:fd param_values:string/ModuleParameters flags:flags/ModuleInitFlag
flistxattr: fd:fd list:pointer? size:size
flock: fd:fd op:flags/FlockOp
fork:
fremovexattr: fd:fd name:string/XattrName
fsconfig: fd:fd cmd:cmd/FsconfigCmd key:string/FsKey? value:pointer/memory? aux:int
fsetxattr: fd:fd name:string/XattrName value:pointer/data*size? size:size flags:flags/XattrFlag
fsmount: fsfd:fd flags:flags/FsmountFlag attr_flags:flags/MountAttr
fsopen: fsname:string flags:flags/FsopenFlag
fspick: dirfd:dirfd path:path flags:flags/FspickFlag
fstat: fd:fd statbuf:pointer
fstatfs: fd:fd buf:pointer
fsync: fd:fd
ftruncate: fd:fd length:offset
futex: uaddr:pointer op:cmd/FutexOp@i32 val:uint timeout:ulong/memory uaddr2:pointer? val3:uint
futex_requeue: waiters:pointer flags:uint nr_wake:int nr_requeue:int
futex_wait: uaddr:pointer val:ulong mask:ulong flags:flags/Futex2Flag timeout:timespec? clockid:clock
futex_waitv: waiters:pointer/futex_waitv*nr_futexes nr_futexes:uint flags:uint timeout:timespec? clockid:clock
futex_wake: uaddr:pointer mask:ulong nr:int flags:flags/Futex2Flag
futimesat: dirfd:dirfd path:path? times:struct/timevals?
get_kernel_syms: table:pointer?
get_mempolicy: mode:pointer? nodemask:pointer? maxnode:ulong addr:address flags:flags/MemPolicyFlag@ulong
get_robust_list: pid:pid head_ptr:pointer len_ptr:pointer
get_thread_area: u_info:pointer
getcpu: cpu:pointer? node:pointer? tcache:pointer?
getcwd: buf:pointer size:size
getdents: fd:fd dirp:pointer count:uint
getdents64: fd:fd dirp:pointer count:uint
getegid:
geteuid:
getgid:
getgroups: size:int list:pointer?
getitimer: which:cmd/ItimerWhich@i32 curr_value:pointer
getpeername: sockfd:fd addr:pointer addrlen:pointer/i32
getpgid: pid:pid
getpgrp:
getpid:
getpmsg:
getppid:
getpriority: which:cmd/PriorityWhich@i32 who:int
getrandom: buf:pointer buflen:size flags:flags/GetrandomFlag
getresgid: rgid:pointer egid:pointer sgid:pointer
getresuid: ruid:pointer euid:pointer suid:pointer
getrlimit: resource:cmd/Rlimit rlim:pointer
getrusage: who:cmd/RusageWho@i32 usage:pointer
getsid: pid:pid
getsockname: sockfd:fd addr:pointer addrlen:pointer/i32
getsockopt: sockfd:fd level:cmd/SocketLevel@i32 optname:int optval:pointer? optlen:pointer/i32
gettid:
gettimeofday: tv:pointer? tz:pointer?
getuid:
getxattr: path:path name:string/XattrName value:pointer? size:size
getxattrat: dirfd:dirfd path:path? at_flags:flags/AtFlag name:string/XattrName args:struct/xattr_args size:size
idle:
init_module: module_image:pointer len:size param_values:string/ModuleParameters
inotify_add_watch: fd:fd path:path mask:flags/InotifyEvent
inotify_init:
inotify_init1: flags:flags/InotifyInitFlag
inotify_rm_watch: fd:fd wd:int
io_cancel: ctx_id:ulong iocb:pointer result:pointer?
io_destroy: ctx_id:ulong
io_getevents: ctx_id:ulong min_nr:long nr:long events:pointer timeout:timespec?
io_pgetevents: ctx_id:ulong min_nr:long nr:long events:pointer timeout:timespec? usig:struct/sigset_argpack?
io_setup: nr_events:uint ctx_idp:pointer
io_submit: ctx_id:ulong nr:long iocbpp:pointer
io_uring_enter: fd:fd to_submit:uint min_complete:uint flags:flags/IoUringEnterFlag argp:pointer? argsz:size
io_uring_register: fd:fd opcode:cmd/IoUringRegisterOp arg:pointer? nr_args:uint
io_uring_setup: entries:uint params:struct/io_uring_params
ioctl: fd:fd op:cmd/IoctlOp arg:ulong/memory
ioperm: from:ulong num:ulong turn_on:int
iopl: level:uint
ioprio_get: which:cmd/IoprioWhich@i32 who:int
ioprio_set: which:cmd/IoprioWhich@i32 who:int ioprio:int
kcmp: pid1:pid pid2:pid type:cmd/KcmpType@i32 idx1:ulong idx2:ulong
kexec_file_load: kernel_fd:fd initrd_fd:fd cmdline_len:size cmdline:pointer/data*cmdline_len? flags:flags/KexecFileFlag@ulong
kexec_load: entry:ulong nr_segments:ulong segments:pointer? flags:flags/KexecFlag@ulong
keyctl: op:cmd/KeyctlOp@i32 arg2:ulong/memory arg3:ulong arg4:ulong arg5:ulong
kill: pid:pid sig:signal
landlock_add_rule: ruleset_fd:fd rule_type:cmd/LandlockRuleType@i32 rule_attr:struct/landlock_rule flags:uint
landlock_create_ruleset: attr:struct/landlock_ruleset_attr? size:size flags:flags/LandlockCreateFlag
landlock_restrict_self: ruleset_fd:fd flags:flags/LandlockRestrictFlag
lchown: path:path owner:uid group:gid
lgetxattr: path:path name:string/XattrName value:pointer? size:size
link: oldpath:path newpath:path
linkat: olddirfd:dirfd oldpath:path newdirfd:dirfd newpath:path flags:flags/AtFlag
listen: sockfd:fd backlog:int
listmount: req:struct/mnt_id_req mnt_ids:pointer nr_mnt_ids:size flags:flags/ListmountFlag
listns: req:pointer ns_ids:pointer nr_ns_ids:size flags:uint
listxattr: path:path list:pointer? size:size
listxattrat: dirfd:dirfd path:path? at_flags:flags/AtFlag list:pointer? size:size
llistxattr: path:path list:pointer? size:size
lookup_dcookie: cookie:u64 buffer:pointer len:size
lremovexattr: path:path name:string/XattrName
lseek: fd:fd offset:offset whence:cmd/Whence
lsetxattr: path:path name:string/XattrName value:pointer/data*size? size:size flags:flags/XattrFlag
lsm_get_self_attr: attr:uint ctx:pointer? size:pointer flags:uint
lsm_list_modules: ids:pointer size:pointer flags:uint
lsm_set_self_attr: attr:uint ctx:pointer size:uint flags:uint
lstat: path:path statbuf:pointer
madvise: addr:address length:size advice:cmd/MadviseAdvice@i32
map_shadow_stack: addr:address size:size flags:flags/ShadowStackFlag
mbind: addr:address len:size mode:cmd/MemPolicy@ulong nodemask:pointer/nodemask*maxnode? maxnode:ulong flags:flags/MbindFlag
membarrier: cmd:cmd/MembarrierCmd@i32 flags:flags/MembarrierFlag cpu_id:int
memfd_create: name:string/MemfdName flags:flags/MemfdFlag
memfd_secret: flags:flags/OpenFlag
migrate_pages: pid:pid maxnode:ulong old_nodes:pointer/nodemask*maxnode new_nodes:pointer/nodemask*maxnode
mincore: addr:address length:size vec:pointer
mkdir: path:path mode:mode
mkdirat: dirfd:dirfd path:path mode:mode
mknod: path:path mode:mode dev:dev
mknodat: dirfd:dirfd path:path mode:mode dev:dev
mlock: addr:address len:size
mlock2: addr:address len:size flags:flags/MlockFlag
mlockall: flags:flags/MlockallFlag
mmap: addr:address length:size prot:flags/Prot@ulong flags:flags/MapFlag@ulong fd:fd offset:ulong
modify_ldt: func:int ptr:pointer bytecount:ulong
mount: source:path? target:path fstype:string? flags:flags/MountFlag@ulong data:pointer/text?
mount_setattr: dirfd:dirfd path:path flags:flags/AtFlag attr:struct/mount_attr size:size
move_mount: from_dirfd:dirfd from_path:path to_dirfd:dirfd to_path:path flags:flags/MoveMountFlag
move_pages: pid:pid count:ulong pages:pointer nodes:pointer? status:pointer flags:flags/MbindFlag
mprotect: addr:address len:size prot:flags/Prot@ulong
mq_getsetattr: mqdes:fd newattr:struct/mq_attr? oldattr:pointer?
mq_notify: mqdes:fd sevp:struct/sigevent?
mq_open: name:string/Path oflag:flags/OpenFlag mode:mode attr:struct/mq_attr?
mq_timedreceive: mqdes:fd msg_ptr:pointer msg_len:size msg_prio:pointer? abs_timeout:timespec?
mq_timedsend: mqdes:fd msg_ptr:pointer/data*msg_len msg_len:size msg_prio:uint abs_timeout:timespec?
mq_unlink: name:string/Path
mremap: old_address:address old_size:size new_size:size flags:flags/MremapFlag@ulong new_address:address
mseal: addr:address size:size flags:ulong
msgctl: msqid:int op:cmd/MsgCmd@i32 buf:pointer?
msgget: key:int msgflg:flags/IpcFlag
msgrcv: msqid:int msgp:pointer msgsz:size msgtyp:long msgflg:flags/MsgRcvFlag
msgsnd: msqid:int msgp:pointer/msgbuf*msgsz msgsz:size msgflg:flags/MsgRcvFlag
msync: addr:address length:size flags:flags/MsyncFlag
munlock: addr:address len:size
munlockall:
munmap: addr:address length:size
name_to_handle_at: dirfd:dirfd path:path handle:pointer/=handle_size mount_id:pointer flags:flags/AtHandleFlag
nanosleep: request:timespec remain:pointer?
newfstatat: dirfd:dirfd path:path? statbuf:pointer flags:flags/AtFlag
nfsservctl: cmd:int argp:pointer resp:pointer
open: path:path flags:flags/OpenFlag mode:mode
open_by_handle_at: mount_fd:dirfd handle:struct/file_handle flags:flags/OpenFlag
open_tree: dirfd:dirfd path:path flags:flags/OpenTreeFlag
open_tree_attr: dirfd:dirfd path:path flags:flags/OpenTreeFlag attr:struct/mount_attr? size:size
openat: dirfd:dirfd path:path flags:flags/OpenFlag mode:mode
openat2: dirfd:dirfd path:path how:struct/open_how size:size
pause:
perf_event_open: attr:struct/perf_event_attr pid:pid cpu:int group_fd:fd flags:flags/PerfFlag@ulong
personality: persona:flags/Personality
pidfd_getfd: pidfd:fd targetfd:int flags:uint
pidfd_open: pid:pid flags:flags/PidfdFlag
pidfd_send_signal: pidfd:fd sig:signal info:struct/siginfo? flags:flags/PidfdSignalFlag
pipe: pipefd:pointer
pipe2: pipefd:pointer flags:flags/OpenFlag
pivot_root: new_root:path put_old:path
pkey_alloc: flags:ulong access_rights:flags/PkeyAccess@ulong
pkey_free: pkey:int
pkey_mprotect: addr:address len:size prot:flags/Prot@ulong pkey:int
poll: fds:pointer/pollfd*nfds nfds:uint timeout:int
ppoll: fds:pointer/pollfd*nfds nfds:uint timeout:timespec? sigmask:struct/sigset? sigsetsize:size
prctl: op:cmd/PrctlOp@i32 arg2:ulong/memory arg3:ulong arg4:ulong arg5:ulong
pread64: fd:fd buf:pointer count:size offset:offset
preadv: fd:fd iov:iovec/iovcnt iovcnt:iovcnt pos_l:ulong pos_h:ulong
preadv2: fd:fd iov:iovec/iovcnt iovcnt:iovcnt pos_l:ulong pos_h:ulong flags:flags/RwFlag
prlimit64: pid:pid resource:cmd/Rlimit new_limit:struct/rlimit64? old_limit:pointer?
process_madvise: pidfd:fd iov:iovec/vlen vlen:iovcnt advice:cmd/MadviseAdvice@i32 flags:uint
process_mrelease: pidfd:fd flags:uint
process_vm_readv: pid:pid local_iov:iovec/liovcnt liovcnt:iovcnt remote_iov:iovec/riovcnt riovcnt:iovcnt flags:ulong
process_vm_writev: pid:pid local_iov:iovec/liovcnt liovcnt:iovcnt remote_iov:iovec/riovcnt riovcnt:iovcnt flags:ulong
pselect6: nfds:int readfds:pointer/fdset*nfds? writefds:pointer/fdset*nfds? exceptfds:pointer/fdset*nfds? timeout:timespec? sigmask:struct/sigset_argpack?
ptrace: op:cmd/PtraceOp@long pid:pid@long addr:ulong data:ulong
putpmsg:
pwrite64: fd:fd buf:pointer/data*count count:size offset:offset
pwritev: fd:fd iov:iovec/iovcnt iovcnt:iovcnt pos_l:ulong pos_h:ulong
pwritev2: fd:fd iov:iovec/iovcnt iovcnt:iovcnt pos_l:ulong pos_h:ulong flags:flags/RwFlag
query_module: name:string? which:int buf:pointer bufsize:size ret:pointer
quotactl: op:uint special:path? id:uint addr:pointer?
quotactl_fd: fd:fd op:uint id:uint addr:pointer?
read: fd:fd buf:pointer count:size
readahead: fd:fd offset:offset count:size
readlink: path:path buf:pointer bufsiz:int
readlinkat: dirfd:dirfd path:path buf:pointer bufsiz:int
readv: fd:fd iov:iovec/iovcnt iovcnt:iovcnt
reboot: magic:cmd/RebootMagic magic2:cmd/RebootMagic op:cmd/RebootOp arg:pointer/memory?
recvfrom: sockfd:fd buf:pointer size:size flags:flags/MsgFlag src_addr:pointer? addrlen:pointer/i32?
recvmmsg: sockfd:fd msgvec:pointer vlen:uint flags:flags/MsgFlag timeout:timespec?
recvmsg: sockfd:fd msg:pointer flags:flags/MsgFlag
remap_file_pages: addr:address size:size prot:flags/Prot@ulong pgoff:ulong flags:flags/MapFlag@ulong
removexattr: path:path name:string/XattrName
removexattrat: dirfd:dirfd path:path? at_flags:flags/AtFlag name:string/XattrName
rename: oldpath:path newpath:path
renameat: olddirfd:dirfd oldpath:path newdirfd:dirfd newpath:path
renameat2: olddirfd:dirfd oldpath:path newdirfd:dirfd newpath:path flags:flags/RenameFlag
request_key: type:string description:string callout_info:string? dest_keyring:cmd/KeySpec@i32
restart_syscall:
rmdir: path:path
rseq: rseq:pointer rseq_len:uint flags:flags/RseqFlag sig:ulong@u32
rseq_slice_yield:
rt_sigaction: signum:signal act:struct/sigaction? oldact:pointer? sigsetsize:size
rt_sigpending: set:pointer sigsetsize:size
rt_sigprocmask: how:cmd/SigmaskHow@i32 set:struct/sigset? oldset:pointer? sigsetsize:size
rt_sigqueueinfo: tgid:pid sig:signal info:struct/siginfo
rt_sigreturn:
rt_sigsuspend: mask:struct/sigset sigsetsize:size
rt_sigtimedwait: set:struct/sigset info:pointer? timeout:timespec? sigsetsize:size
rt_tgsigqueueinfo: tgid:pid tid:pid sig:signal info:struct/siginfo
sched_get_priority_max: policy:cmd/SchedPolicy@i32
sched_get_priority_min: policy:cmd/SchedPolicy@i32
sched_getaffinity: pid:pid cpusetsize:uint mask:pointer
sched_getattr: pid:pid attr:pointer size:uint flags:uint
sched_getparam: pid:pid param:pointer
sched_getscheduler: pid:pid
sched_rr_get_interval: pid:pid tp:pointer
sched_setaffinity: pid:pid cpusetsize:uint mask:pointer/cpuset*cpusetsize
sched_setattr: pid:pid attr:struct/sched_attr flags:uint
sched_setparam: pid:pid param:struct/sched_param
sched_setscheduler: pid:pid policy:cmd/SchedPolicy@i32 param:struct/sched_param
sched_yield:
seccomp: operation:cmd/SeccompOp flags:flags/SeccompFlag args:pointer/memory?
security:
select: nfds:int readfds:pointer/fdset*nfds? writefds:pointer/fdset*nfds? exceptfds:pointer/fdset*nfds? timeout:struct/timeval?
semctl: semid:int semnum:int op:cmd/SemCmd@i32 arg:ulong
semget: key:int nsems:int semflg:flags/IpcFlag
semop: semid:int sops:pointer/sembuf*nsops nsops:uint
semtimedop: semid:int sops:pointer/sembuf*nsops nsops:uint timeout:timespec?
sendfile: out_fd:fd in_fd:fd offset:pointer/long? count:size
sendmmsg: sockfd:fd msgvec:pointer/mmsghdr*vlen vlen:uint flags:flags/MsgFlag
sendmsg: sockfd:fd msg:struct/msghdr flags:flags/MsgFlag
sendto: sockfd:fd buf:pointer/data*size size:size flags:flags/MsgFlag dest_addr:sockaddr/addrlen? addrlen:socklen
set_mempolicy: mode:cmd/MemPolicy@i32 nodemask:pointer/nodemask*maxnode? maxnode:ulong
set_mempolicy_home_node: start:address len:size home_node:ulong flags:ulong
set_robust_list: head:pointer len:size
set_thread_area: u_info:pointer
set_tid_address: tidptr:pointer
setdomainname: name:pointer/data*len len:int
setfsgid: fsgid:gid
setfsuid: fsuid:uid
setgid: gid:gid
setgroups: size:int list:pointer/u32*size?
sethostname: name:pointer/data*len len:int
setitimer: which:cmd/ItimerWhich@i32 new_value:struct/itimerval? old_value:pointer?
setns: fd:fd nstype:flags/CloneFlag
setpgid: pid:pid pgid:pid
setpriority: which:cmd/PriorityWhich@i32 who:int prio:int
setregid: rgid:gid egid:gid
setresgid: rgid:gid egid:gid sgid:gid
setresuid: ruid:uid euid:uid suid:uid
setreuid: ruid:uid euid:uid
setrlimit: resource:cmd/Rlimit rlim:struct/rlimit
setsid:
setsockopt: sockfd:fd level:cmd/SocketLevel@i32 optname:int optval:pointer/memory? optlen:int
settimeofday: tv:struct/timeval? tz:struct/timezone?
setuid: uid:uid
setxattr: path:path name:string/XattrName value:pointer/data*size? size:size flags:flags/XattrFlag
setxattrat: dirfd:dirfd path:path? at_flags:flags/AtFlag name:string/XattrName args:struct/xattr_args size:size
shmat: shmid:int shmaddr:address shmflg:flags/ShmatFlag
shmctl: shmid:int op:cmd/ShmCmd@i32 buf:pointer?
shmdt: shmaddr:address
shmget: key:int size:size shmflg:flags/ShmFlag
shutdown: sockfd:fd how:cmd/ShutdownHow@i32
sigaltstack: ss:struct/stack_t? old_ss:pointer?
signalfd: fd:fd mask:struct/sigset sizemask:size
signalfd4: fd:fd mask:struct/sigset sizemask:size flags:flags/SignalfdFlag
socket: domain:cmd/AddressFamily@i32 type:flags/SockType protocol:int
socketpair: domain:cmd/AddressFamily@i32 type:flags/SockType protocol:int sv:pointer
splice: fd_in:fd off_in:pointer/i64? fd_out:fd off_out:pointer/i64? len:size flags:flags/SpliceFlag
stat: path:path statbuf:pointer
statfs: path:path buf:pointer
statmount: req:struct/mnt_id_req buf:pointer bufsize:size flags:flags/StatmountFlag
statx: dirfd:dirfd path:path? flags:flags/AtStatxFlag mask:flags/StatxMask statxbuf:pointer
swapoff: path:path
swapon: path:path flags:flags/SwapFlag
symlink: target:string/Path linkpath:path
symlinkat: target:string/Path newdirfd:dirfd linkpath:path
sync:
sync_file_range: fd:fd offset:offset nbytes:offset flags:flags/SyncFileRangeFlag
syncfs: fd:fd
sysfs: option:int arg1:ulong arg2:ulong
sysinfo: info:pointer
syslog: type:cmd/SyslogAction@i32 bufp:pointer? len:int
tee: fd_in:fd fd_out:fd len:size flags:flags/SpliceFlag
tgkill: tgid:pid tid:pid sig:signal
time: tloc:pointer?
timer_create: clockid:clock sevp:struct/sigevent? timerid:pointer
timer_delete: timerid:int
timer_getoverrun: timerid:int
timer_gettime: timerid:int curr_value:pointer
timer_settime: timerid:int flags:flags/TimerFlag new_value:struct/itimerspec old_value:pointer?
timerfd_create: clockid:clock flags:flags/TimerfdFlag
timerfd_gettime: fd:fd curr_value:pointer
timerfd_settime: fd:fd flags:flags/TimerfdSetFlag new_value:struct/itimerspec old_value:pointer?
times: buf:pointer?
tkill: tid:pid sig:signal
truncate: path:path length:offset
tuxcall:
umask: mask:mode@u32
umount2: target:path flags:flags/UmountFlag
uname: buf:pointer
unlink: path:path
unlinkat: dirfd:dirfd path:path flags:flags/AtUnlinkFlag
unshare: flags:flags/CloneFlag@ulong
uprobe:
uretprobe:
userfaultfd: flags:flags/UserfaultfdFlag
uselib: library:path
ustat: dev:dev ubuf:pointer
utime: path:path times:struct/utimbuf?
utimensat: dirfd:dirfd path:path? times:struct/file_times? flags:flags/AtFlag
utimes: path:path times:struct/timevals?
vfork:
vhangup:
vmsplice: fd:fd iov:iovec/nr_segs nr_segs:iovcnt flags:flags/SpliceFlag
vserver:
wait4: pid:pid wstatus:pointer? options:flags/WaitFlag rusage:pointer?
waitid: idtype:cmd/WaitIdType@i32 id:pid info:pointer? options:flags/WaitFlag rusage:pointer?
write: fd:fd buf:pointer/data*count count:size
writev: fd:fd iov:iovec/iovcnt iovcnt:iovcnt
"""

#: Calls of 32-bit architectures that COMMON does not have, or that take other registers there.
#: ``@pair`` is a 64-bit value in two registers, in the architecture's byte order, from an even one on
#: where the calling convention says so (arm, PowerPC, MIPS).
WORD32: Final = """
_llseek: fd:fd offset_high:ulong offset_low:ulong result:pointer whence:cmd/Whence
_newselect: nfds:int readfds:pointer/fdset*nfds? writefds:pointer/fdset*nfds? exceptfds:pointer/fdset*nfds? timeout:struct/timeval?
arm_fadvise64_64: fd:fd advice:cmd/FadviseAdvice@i32 offset:offset@pair len:offset@pair
arm_sync_file_range: fd:fd flags:flags/SyncFileRangeFlag offset:offset@pair nbytes:offset@pair
bdflush: func:int data:long
break:
chown32: path:path owner:uid group:gid
clock_adjtime64: clockid:clock buf:struct/timex64
clock_getres_time64: clockid:clock res:pointer?
clock_gettime64: clockid:clock tp:pointer
clock_nanosleep_time64: clockid:clock flags:flags/TimerFlag request:timespec/timespec64 remain:pointer?
clock_settime64: clockid:clock tp:timespec/timespec64
clone: flags:flags/CloneFlag stack:address parent_tid:pointer? tls:ulong child_tid:pointer?
fadvise64: fd:fd offset:offset@pair len:size advice:cmd/FadviseAdvice@i32
fadvise64_64: fd:fd offset:offset@pair len:offset@pair advice:cmd/FadviseAdvice@i32
fallocate: fd:fd mode:flags/FallocFlag offset:offset@pair len:offset@pair
fanotify_mark: fanotify_fd:fd flags:flags/FanMarkFlag mask:flags/FanEvent@pair dirfd:dirfd path:path?
fchown32: fd:fd owner:uid group:gid
fcntl64: fd:fd op:cmd/FcntlOp arg:ulong/memory
fstat64: fd:fd statbuf:pointer
fstatat64: dirfd:dirfd path:path? statbuf:pointer flags:flags/AtFlag
fstatfs64: fd:fd size:size buf:pointer
ftime:
ftruncate64: fd:fd length:offset@pair
futex_time64: uaddr:pointer op:cmd/FutexOp@i32 val:uint timeout:ulong/memory uaddr2:pointer? val3:uint
getegid32:
geteuid32:
getgid32:
getgroups32: size:int list:pointer?
getresgid32: rgid:pointer egid:pointer sgid:pointer
getresuid32: ruid:pointer euid:pointer suid:pointer
getuid32:
gtty:
io_pgetevents_time64: ctx_id:ulong min_nr:long nr:long events:pointer timeout:timespec/timespec64? usig:struct/sigset_argpack?
ipc: call:cmd/IpcCall first:int second:ulong third:ulong ptr:ulong/memory fifth:ulong
lchown32: path:path owner:uid group:gid
lock:
lookup_dcookie: cookie:u64@pair buffer:pointer len:size
lstat64: path:path statbuf:pointer
mmap2: addr:address length:size prot:flags/Prot@ulong flags:flags/MapFlag@ulong fd:fd pgoffset:ulong
mpx:
mq_timedreceive_time64: mqdes:fd msg_ptr:pointer msg_len:size msg_prio:pointer? abs_timeout:timespec/timespec64?
mq_timedsend_time64: mqdes:fd msg_ptr:pointer/data*msg_len msg_len:size msg_prio:uint abs_timeout:timespec/timespec64?
nice: inc:int
oldfstat: fd:fd statbuf:pointer
oldlstat: path:path statbuf:pointer
oldolduname: buf:pointer
oldstat: path:path statbuf:pointer
olduname: buf:pointer
ppoll_time64: fds:pointer/pollfd*nfds nfds:uint timeout:timespec/timespec64? sigmask:struct/sigset? sigsetsize:size
pread64: fd:fd buf:pointer count:size offset:offset@pair
prof:
profil:
pselect6_time64: nfds:int readfds:pointer/fdset*nfds? writefds:pointer/fdset*nfds? exceptfds:pointer/fdset*nfds? timeout:timespec/timespec64? sigmask:struct/sigset_argpack?
pwrite64: fd:fd buf:pointer/data*count count:size offset:offset@pair
readahead: fd:fd offset:offset@pair count:size
readdir: fd:fd dirp:pointer count:uint
recv: sockfd:fd buf:pointer size:size flags:flags/MsgFlag
recvmmsg_time64: sockfd:fd msgvec:pointer vlen:uint flags:flags/MsgFlag timeout:timespec/timespec64?
rt_sigtimedwait_time64: set:struct/sigset info:pointer? timeout:timespec/timespec64? sigsetsize:size
sched_rr_get_interval_time64: pid:pid tp:pointer
semtimedop_time64: semid:int sops:pointer/sembuf*nsops nsops:uint timeout:timespec/timespec64?
send: sockfd:fd buf:pointer/data*size size:size flags:flags/MsgFlag
sendfile64: out_fd:fd in_fd:fd offset:pointer/i64? count:size
setfsgid32: fsgid:gid
setfsuid32: fsuid:uid
setgid32: gid:gid
setgroups32: size:int list:pointer/u32*size?
setregid32: rgid:gid egid:gid
setresgid32: rgid:gid egid:gid sgid:gid
setresuid32: ruid:uid euid:uid suid:uid
setreuid32: ruid:uid euid:uid
setuid32: uid:uid
sgetmask:
sigaction: signum:signal act:struct/old_sigaction? oldact:pointer?
signal: signum:signal handler:address
sigpending: set:pointer
sigprocmask: how:cmd/SigmaskHow@i32 set:struct/old_sigset? oldset:pointer?
sigreturn:
sigsuspend: history0:int history1:int mask:ulong
socketcall: call:cmd/SocketCall@i32 args:pointer/memory
ssetmask: newmask:int
stat64: path:path statbuf:pointer
statfs64: path:path size:size buf:pointer
stime: tptr:pointer/long
stty:
sync_file_range: fd:fd offset:offset@pair nbytes:offset@pair flags:flags/SyncFileRangeFlag
sync_file_range2: fd:fd flags:flags/SyncFileRangeFlag offset:offset@pair nbytes:offset@pair
timer_gettime64: timerid:int curr_value:pointer
timer_settime64: timerid:int flags:flags/TimerFlag new_value:struct/itimerspec64 old_value:pointer?
timerfd_gettime64: fd:fd curr_value:pointer
timerfd_settime64: fd:fd flags:flags/TimerfdSetFlag new_value:struct/itimerspec64 old_value:pointer?
truncate64: path:path length:offset@pair
ugetrlimit: resource:cmd/Rlimit rlim:pointer
ulimit:
umount: target:path
utimensat_time64: dirfd:dirfd path:path? times:struct/file_times64? flags:flags/AtFlag
vm86: cmd:ulong arg:ulong
vm86old: user_vm86:pointer
waitpid: pid:pid wstatus:pointer? options:flags/WaitFlag
"""

#: i386 and s390 (31 bits): arguments through a structure.
STRUCTURED: Final = """
mmap: arg:struct/mmap_arg_struct
select: arg:struct/sel_arg_struct
"""

#: i386, arm and s390 (31 bits): ids have 16 bits, and ``chown32``... are the calls with 32.
UID16: Final = """
chown: path:path owner:uid@u16 group:gid@u16
fchown: fd:fd owner:uid@u16 group:gid@u16
lchown: path:path owner:uid@u16 group:gid@u16
setfsgid: fsgid:gid@u16
setfsuid: fsuid:uid@u16
setgid: gid:gid@u16
setgroups: size:int list:pointer/u16*size?
setregid: rgid:gid@u16 egid:gid@u16
setresgid: rgid:gid@u16 egid:gid@u16 sgid:gid@u16
setresuid: ruid:uid@u16 euid:uid@u16 suid:uid@u16
setreuid: ruid:uid@u16 euid:uid@u16
setuid: uid:uid@u16
"""

#: arm (EABI): its own calls (numbers from 0x0f0000).
ARM: Final = """
breakpoint:
cacheflush: start:address end:address flags:int
get_tls:
pciconfig_iobase: which:long bus:ulong devfn:ulong
pciconfig_read: bus:ulong dfn:ulong off:ulong len:ulong buf:pointer
pciconfig_write: bus:ulong dfn:ulong off:ulong len:ulong buf:pointer
set_tls: value:ulong
usr26:
usr32:
"""

#: Architectures whose clone(2) takes tls before child_tid (CONFIG_CLONE_BACKWARDS).
BACKWARDS_CLONE: Final = """
clone: flags:flags/CloneFlag stack:address parent_tid:pointer? tls:ulong child_tid:pointer?
"""

RISCV64: Final = """
riscv_flush_icache: start:address end:address flags:ulong
riscv_hwprobe: pairs:pointer pair_count:size cpusetsize:size cpus:pointer? flags:uint
"""

#: PowerPC, of either width.
POWERPC: Final = """
fadvise64_64: fd:fd advice:cmd/FadviseAdvice@i32 offset:offset@pair len:offset@pair
multiplexer:
pciconfig_iobase: which:long bus:ulong devfn:ulong
pciconfig_read: bus:ulong dfn:ulong off:ulong len:ulong buf:pointer
pciconfig_write: bus:ulong dfn:ulong off:ulong len:ulong buf:pointer
rtas: uargs:pointer
spu_create: path:path flags:uint mode:mode neighbor_fd:fd
spu_run: fd:fd npc:pointer status:pointer?
subpage_prot: addr:address len:ulong map:pointer?
swapcontext: old_ctx:pointer? new_ctx:pointer? ctx_size:long
switch_endian:
sys_debug_setcontext: ctx:pointer ndbg:int dbg:pointer
"""

#: s390 of either width: clone with the stack first (CONFIG_CLONE_BACKWARDS2), mmap through a
#: structure, its own calls.
S390X: Final = """
clone: stack:address flags:flags/CloneFlag parent_tid:pointer? child_tid:pointer? tls:ulong
mmap: arg:struct/mmap_arg_struct
s390_guarded_storage: command:int gs_cb:pointer?
s390_pci_mmio_read: mmio_addr:ulong buf:pointer length:size
s390_pci_mmio_write: mmio_addr:ulong buf:pointer length:size
s390_runtime_instr: command:int signum:int
s390_sthyi: function_code:ulong buffer:pointer return_code:pointer flags:ulong
timerfd:
"""

#: s390 of 31 bits (``arch/s390/kernel/compat_linux.c`` 5.10).
S390: Final = """
fadvise64_64: args:pointer
mmap2: arg:struct/mmap_arg_struct
"""

#: MIPS, of all ABIs (``arch/mips/kernel/syscall.c`` 6.16); pipe(2) answers in two registers.
MIPS: Final = """
cachectl: addr:address nbytes:int op:int
cacheflush: addr:address bytes:ulong cache:uint
pipe:
set_thread_area: addr:ulong
syscall: number:ulong
sysmips: cmd:long arg1:long arg2:long
timerfd:
"""

#: MIPS o32: its fadvise64 is fadvise64_64.
MIPS_O32: Final = """
fadvise64: fd:fd offset:offset@pair len:offset@pair advice:cmd/FadviseAdvice@i32
"""

#: x32: a 64-bit position in one register where compat calls take two.
ONE_REGISTER: Final = """
preadv: fd:fd iov:iovec/iovcnt iovcnt:iovcnt offset:offset@i64
preadv2: fd:fd iov:iovec/iovcnt iovcnt:iovcnt offset:offset@i64 flags:flags/RwFlag
pwritev: fd:fd iov:iovec/iovcnt iovcnt:iovcnt offset:offset@i64
pwritev2: fd:fd iov:iovec/iovcnt iovcnt:iovcnt offset:offset@i64 flags:flags/RwFlag
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
