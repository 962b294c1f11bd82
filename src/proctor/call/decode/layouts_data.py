"""The layouts of structures that system calls read and fill: the table behind :mod:`proctor.call.decode.layouts`.

``structure: field ...``, each field ``name:type[*count][/how][?][~condition]``:

* *type* is ``i8 u8 i16 u16 i32 u32 i64 u64``, ``long ulong`` (as wide as the caller's pointers),
  ``ptr``, ``char`` (bytes up to a NUL), ``sigset`` (64 signals), another structure of the table, or
  ``fill*N`` (nothing, up to N bytes from the beginning);
* *how* it is written: a family of :mod:`proctor.syscalls.flags`, ``signal``, ``signals`` (a set),
  ``mode``, ``hex``, ``handler``, ``version``, ``limit``, ``errno``, ``sival``, or ``path`` and ``text``:
  a pointer to a string, which is read too;
* ``?``: not written if it is zero; ``~condition``: not written unless another field says so, see
  :func:`proctor.syscalls.flags.when`.  A name that begins with ``_`` is padding, or what only the
  kernel writes.  ``>name`` has that field written there, before others.

``packed=N`` bounds the alignment, ``first=N`` is the size of the first version of a structure that grew
(0: of one that has more than is told here).
A structure that some architectures have otherwise has their names behind an ``@``, or that of their
:data:`~proctor.syscalls.flags_data.MACHINES`.  What only the kernel fills is told for architectures that
have a listener.  Alignment is the
architecture's: on i386 a 64-bit number is aligned to 4.  Sources: the headers of ``include/uapi`` that
the manual pages of the calls name (``asm/stat.h`` and ``asm/statfs.h`` of each architecture), and
``include/linux/compat.h``.
"""

from __future__ import annotations

from typing import Final

LAYOUTS: Final = """
timeval: tv_sec:long tv_usec:long
timespec file_time: tv_sec:long tv_nsec:long
timespec@x32 file_time@x32: tv_sec:i64 tv_nsec:i64/nsec
timespec64 file_time64: tv_sec:i64 tv_nsec:i64/nsec
itimerval: it_interval:timeval it_value:timeval
itimerspec: it_interval:timespec it_value:timespec
itimerspec64: it_interval:timespec64 it_value:timespec64
timezone: tz_minuteswest:i32 tz_dsttime:i32
utimbuf: actime:long modtime:long
timex: modes:u32/AdjtimexMode offset:long freq:long maxerror:long esterror:long
 status:i32/TimexStatus constant:long precision:long tolerance:long time:timeval tick:long
 ppsfreq:long jitter:long shift:i32 stabil:long jitcnt:long calcnt:long errcnt:long stbcnt:long
 tai:i32 _reserved:i32*11
timeval64: tv_sec:i64 tv_usec:i64
timex64: modes:u32/AdjtimexMode _pad:u32 offset:i64 freq:i64 maxerror:i64 esterror:i64
 status:i32/TimexStatus _pad2:u32 constant:i64 precision:i64 tolerance:i64 time:timeval64 tick:i64
 ppsfreq:i64 jitter:i64 shift:i32 _pad3:u32 stabil:i64 jitcnt:i64 calcnt:i64 errcnt:i64 stbcnt:i64
 tai:i32 _reserved:i32*11
sigaction: sa_handler:ptr/handler >sa_mask sa_flags:ulong/SigactionFlag
 sa_restorer:ptr?~sa_flags&SA_RESTORER sa_mask:sigset
sigaction@riscv64,loongarch64: sa_handler:ptr/handler >sa_mask sa_flags:ulong/SigactionFlag sa_mask:sigset
sigaction@MIPS: sa_flags:u32/SigactionFlag sa_handler:ptr/handler sa_mask:sigset _above:sigset
old_sigaction: sa_handler:ptr/handler sa_mask:u32/signals sa_flags:u32/SigactionFlag
 sa_restorer:ptr?~sa_flags&SA_RESTORER
sigevent: sigev_value:ulong/sival sigev_signo:i32/signal sigev_notify:i32/SigevNotify
 sigev_notify_thread_id:i32~sigev_notify=SIGEV_THREAD_ID _rest:fill*64
siginfo: si_signo:i32/signal >si_code si_errno:i32/errno? si_code:i32/SiCode _:ulong*0 si_pid:i32
 si_uid:u32 si_value:ulong/sent~si_code _rest:fill*128
open_how: first=24 flags:u64/OpenFlag mode:u64/mode? resolve:u64/ResolveFlag
clone_args: first=64 flags:u64/CloneFlag pidfd:u64/ptr~flags&CLONE_PIDFD
 child_tid:u64/ptr~flags&CLONE_CHILD_SETTID|CLONE_CHILD_CLEARTID
 parent_tid:u64/ptr~flags&CLONE_PARENT_SETTID exit_signal:u64/signal stack:u64/ptr stack_size:u64/hex
 tls:u64/ptr~flags&CLONE_SETTLS set_tid:u64/ptr? set_tid_size:u64?
 cgroup:u64~flags&CLONE_INTO_CGROUP
mount_attr: first=32 attr_set:u64/MountAttr attr_clr:u64/MountAttr propagation:u64/MountFlag
 userns_fd:u64
rlimit: rlim_cur:ulong/limit rlim_max:ulong/limit
rlimit64: rlim_cur:u64/limit rlim_max:u64/limit
epoll_event: events:u32/EpollEvent data:u64/epoll
epoll_event@x86_64,x32: packed=1 events:u32/EpollEvent data:u64/epoll
stack_t: ss_sp:ptr ss_flags:i32/SigaltstackFlag ss_size:ulong
stack_t@MIPS: ss_sp:ptr ss_size:ulong ss_flags:i32/SigaltstackFlag
flock: l_type:i16/LockType l_whence:i16/Whence l_start:long l_len:long l_pid:i32?
flock@mips,mipsel: l_type:i16/LockType l_whence:i16/Whence l_start:long l_len:long _sysid:long
 l_pid:i32? _pad:long*4
flock64: l_type:i16/LockType l_whence:i16/Whence l_start:i64 l_len:i64 l_pid:i32?
f_owner_ex: type:i32/OwnerType pid:i32
cap_user_header: version:u32/CapVersion pid:i32
mq_attr: mq_flags:long/MqFlag mq_maxmsg:long mq_msgsize:long mq_curmsgs:long _reserved:long*4
sched_attr: first=48 size:u32 sched_policy:u32/SchedPolicy sched_flags:u64/SchedAttrFlag sched_nice:i32
 sched_priority:u32 sched_runtime:u64 sched_deadline:u64 sched_period:u64 sched_util_min:u32
 sched_util_max:u32
perf_event_attr: first=64 type:u32/PerfType size:u32 config:u64/hex sample_period:u64
 sample_type:u64/PerfSample read_format:u64/PerfReadFormat bits:u64/PerfAttrBit wakeup_events:u32?
 bp_type:u32? config1:u64/hex? config2:u64/hex? branch_sample_type:u64/hex?
 sample_regs_user:u64/hex? sample_stack_user:u32? clockid:i32/ClockId? sample_regs_intr:u64/hex?
 aux_watermark:u32? sample_max_stack:u16? _reserved:u16 aux_sample_size:u32? _reserved2:u32
 sig_data:u64/hex? config3:u64/hex?
io_uring_params: _sq_entries:u32 cq_entries:u32? flags:u32/IoUringSetupFlag sq_thread_cpu:u32/hex
 sq_thread_idle:u32 _features:u32 wq_fd:u32? _reserved:u32*3 _offsets:u64*10
landlock_ruleset_attr: first=8 handled_access_fs:u64/LandlockFs handled_access_net:u64/LandlockNet?
 scoped:u64/LandlockScope?
landlock_path_beneath_attr: packed=1 allowed_access:u64/LandlockFs parent_fd:i32
landlock_net_port_attr: allowed_access:u64/LandlockNet port:u64
sock_fprog: len:u16 filter:ptr
linger: l_onoff:i32 l_linger:i32
winsize: ws_row:u16 ws_col:u16 ws_xpixel:u16 ws_ypixel:u16
ifreq_name: ifr_name:char*16
ifreq_flags: ifr_name:char*16 ifr_flags:u16/IfFlag
ifreq_tun: ifr_name:char*16 ifr_flags:u16/TunFlag
pollfd: fd:i32 events:i16/PollEvent? _revents:i16
sembuf: sem_num:u16 sem_op:i16 sem_flg:i16/SemFlag
futex_waitv: val:u64/hex uaddr:u64/hex flags:u32/FutexWaitvFlag _reserved:u32
handle_size: handle_bytes:u32
file_handle: handle_bytes:u32 handle_type:i32
mnt_id_req: first=24 size:u32 mnt_ns_fd:u32? mnt_id:u64/hex param:u64/hex mnt_ns_id:u64/hex?
xattr_args: first=16 value:u64/hex size:u32 flags:u32/XattrFlag
file_attr: first=24 fa_xflags:u64/hex fa_extsize:u32 fa_nextents:u32 fa_projid:u32 fa_cowextsize:u32
cachestat_range: off:u64 len:u64
bpf_map_create: first=0 map_type:u32/BpfMapType key_size:u32 value_size:u32 max_entries:u32
 map_flags:u32/BpfMapFlag inner_map_fd:u32 numa_node:u32? map_name:char*16 map_ifindex:u32
 btf_fd:u32? btf_key_type_id:u32? btf_value_type_id:u32? btf_vmlinux_value_type_id:u32?
 map_extra:u64? value_type_btf_obj_fd:i32? map_token_fd:i32?
bpf_map_elem: first=0 map_fd:u32 key:u64/ptr value:u64/ptr flags:u64/BpfElemFlag
bpf_map_get_next_key: first=0 map_fd:u32 key:u64/ptr next_key:u64/ptr
bpf_map_batch: first=0 in_batch:u64/hex out_batch:u64/hex keys:u64/hex values:u64/hex count:u32 map_fd:u32
 elem_flags:u64/BpfElemFlag flags:u64/hex
bpf_prog_load: first=0 prog_type:u32/BpfProgType insn_cnt:u32 insns:u64/ptr license:u64/text log_level:u32
 log_size:u32 log_buf:u64/ptr kern_version:u32/version prog_flags:u32/BpfProgFlag
 prog_name:char*16 prog_ifindex:u32 expected_attach_type:u32/BpfAttachType prog_btf_fd:u32?
 func_info_rec_size:u32? func_info:u64/hex? func_info_cnt:u32? line_info_rec_size:u32?
 line_info:u64/hex? line_info_cnt:u32? attach_btf_id:u32? attach_prog_fd:u32? core_relo_cnt:u32?
 fd_array:u64/hex? core_relos:u64/hex? core_relo_rec_size:u32? log_true_size:u32? prog_token_fd:i32?
bpf_obj: first=0 pathname:u64/path bpf_fd:u32 file_flags:u32/BpfMapFlag path_fd:i32?
bpf_prog_attach: first=0 target_fd:u32 attach_bpf_fd:u32 attach_type:u32/BpfAttachType
 attach_flags:u32/BpfAttachFlag replace_bpf_fd:u32? relative_fd:u32? expected_revision:u64?
bpf_prog_detach: first=0 target_fd:u32 attach_bpf_fd:u32 attach_type:u32/BpfAttachType
bpf_next_id: first=0 start_id:u32 next_id:u32 open_flags:u32/BpfMapFlag
bpf_prog_get_fd_by_id: first=0 prog_id:u32 next_id:u32 open_flags:u32/BpfMapFlag
bpf_map_get_fd_by_id: first=0 map_id:u32 next_id:u32 open_flags:u32/BpfMapFlag
bpf_btf_get_fd_by_id: first=0 btf_id:u32 next_id:u32 open_flags:u32/BpfMapFlag
bpf_link_get_fd_by_id: first=0 link_id:u32 next_id:u32 open_flags:u32/BpfMapFlag
bpf_obj_get_info_by_fd: first=0 bpf_fd:u32 info_len:u32 info:u64/ptr
bpf_prog_query: first=0 target_fd:u32 attach_type:u32/BpfAttachType query_flags:u32/hex
 attach_flags:u32/BpfAttachFlag prog_ids:u64/ptr prog_cnt:u32
bpf_raw_tracepoint_open: first=0 name:u64/text prog_fd:u32 _pad:u32 cookie:u64?
bpf_btf_load: first=0 btf:u64/ptr btf_log_buf:u64/ptr btf_size:u32 btf_log_size:u32 btf_log_level:u32
bpf_map_freeze: first=0 map_fd:u32
bpf_link_create: first=0 prog_fd:u32 target_fd:u32 attach_type:u32/BpfAttachType flags:u32/hex
bpf_link_update: first=0 link_fd:u32 new_prog_fd:u32 flags:u32/hex old_prog_fd:u32
bpf_link_detach: first=0 link_fd:u32
bpf_enable_stats: first=0 type:u32
bpf_iter_create: first=0 link_fd:u32 flags:u32/hex
bpf_prog_bind_map: first=0 prog_fd:u32 map_fd:u32 flags:u32/hex
bpf_token_create: first=0 flags:u32/hex bpffs_fd:u32
iovec: iov_base:ptr iov_len:ulong
msghdr: msg_name:ptr msg_namelen:i32 msg_iov:ptr msg_iovlen:ulong msg_control:ptr
 msg_controllen:ulong msg_flags:u32/MsgFlag
mmsghdr: msg_hdr:msghdr msg_len:u32
cmsghdr: cmsg_len:ulong cmsg_level:i32 cmsg_type:i32
ucred: pid:i32 uid:u32 gid:u32
new_utsname: sysname:char*65 nodename:char*65 release:char*65 version:char*65 machine:char*65
 domainname:char*65
old_utsname: sysname:char*65 nodename:char*65 release:char*65 version:char*65 machine:char*65
oldold_utsname: sysname:char*9 nodename:char*9 release:char*9 version:char*9 machine:char*9
sysinfo: uptime:long loads:ulong*3 totalram:ulong freeram:ulong sharedram:ulong bufferram:ulong
 totalswap:ulong freeswap:ulong procs:u16 _pad:u16 totalhigh:ulong freehigh:ulong mem_unit:u32
 _rest:fill*64
rusage: ru_utime:timeval ru_stime:timeval ru_maxrss:long ru_ixrss:long ru_idrss:long ru_isrss:long
 ru_minflt:long ru_majflt:long ru_nswap:long ru_inblock:long ru_oublock:long ru_msgsnd:long
 ru_msgrcv:long ru_nsignals:long ru_nvcsw:long ru_nivcsw:long
tms: tms_utime:long tms_stime:long tms_cutime:long tms_cstime:long
cap_user_data: effective:u32 permitted:u32 inheritable:u32
cachestat: nr_cache:u64 nr_dirty:u64 nr_writeback:u64 nr_evicted:u64 nr_recently_evicted:u64
statx_timestamp: tv_sec:i64 tv_nsec:u32 _reserved:i32
statx: stx_mask:u32/StatxMask stx_blksize:u32 stx_attributes:u64/hex stx_nlink:u32 stx_uid:u32
 stx_gid:u32 stx_mode:u16/mode _spare:u16 stx_ino:u64 stx_size:u64 stx_blocks:u64
 stx_attributes_mask:u64/hex stx_atime:statx_timestamp stx_btime:statx_timestamp
 stx_ctime:statx_timestamp stx_mtime:statx_timestamp stx_rdev_major:u32 stx_rdev_minor:u32
 stx_dev_major:u32 stx_dev_minor:u32 stx_mnt_id:u64 stx_dio_mem_align:u32 stx_dio_offset_align:u32
 stx_subvol:u64 stx_atomic_write_unit_min:u32 stx_atomic_write_unit_max:u32
 stx_atomic_write_segments_max:u32 stx_dio_read_offset_align:u32
 stx_atomic_write_unit_max_opt:u32 _rest:fill*256
stat@x86_64,x32: st_dev:u64 st_ino:u64 st_nlink:u64 st_mode:u32/mode st_uid:u32 st_gid:u32 _pad:u32
 st_rdev:u64 st_size:i64 st_blksize:i64 st_blocks:i64 st_atime:i64 st_atime_nsec:u64 st_mtime:i64
 st_mtime_nsec:u64 st_ctime:i64 st_ctime_nsec:u64 _rest:fill*144
stat@s390x: st_dev:u64 st_ino:u64 st_nlink:u64 st_mode:u32/mode st_uid:u32 st_gid:u32 _pad:u32
 st_rdev:u64 st_size:i64 st_atime:i64 st_atime_nsec:u64 st_mtime:i64 st_mtime_nsec:u64 st_ctime:i64
 st_ctime_nsec:u64 st_blksize:u64 st_blocks:i64 _rest:fill*144
stat@i386,arm,s390: st_dev:u32 st_ino:u32 st_mode:u16/mode st_nlink:u16 st_uid:u16 st_gid:u16 st_rdev:u32
 st_size:u32 st_blksize:u32 st_blocks:u32 st_atime:u32 st_atime_nsec:u32 st_mtime:u32
 st_mtime_nsec:u32 st_ctime:u32 st_ctime_nsec:u32 _rest:fill*64
stat: st_dev:u64 st_ino:u64 st_mode:u32/mode st_nlink:u32 st_uid:u32 st_gid:u32 st_rdev:u64 _pad:u64
 st_size:i64 st_blksize:i32 _pad2:i32 st_blocks:i64 st_atime:i64 st_atime_nsec:u64 st_mtime:i64
 st_mtime_nsec:u64 st_ctime:i64 st_ctime_nsec:u64 _rest:fill*128
stat64: st_dev:u64 _pad:u32 _st_ino:u32 st_mode:u32/mode st_nlink:u32 st_uid:u32 st_gid:u32
 st_rdev:u64 _pad2:u32 st_size:i64 st_blksize:u32 st_blocks:u64 st_atime:u32 st_atime_nsec:u32
 st_mtime:u32 st_mtime_nsec:u32 st_ctime:u32 st_ctime_nsec:u32 st_ino:u64
old_stat: st_dev:u16 st_ino:u16 st_mode:u16/mode st_nlink:u16 st_uid:u16 st_gid:u16 st_rdev:u16
 st_size:ulong st_atime:ulong st_mtime:ulong st_ctime:ulong
statfs: f_type:ulong/hex f_bsize:ulong f_blocks:ulong f_bfree:ulong f_bavail:ulong f_files:ulong
 f_ffree:ulong f_fsid:i32*2 f_namelen:ulong f_frsize:ulong f_flags:ulong/hex _spare:ulong*4
statfs@s390x: f_type:u32/hex f_bsize:u32 f_blocks:u64 f_bfree:u64 f_bavail:u64 f_files:u64
 f_ffree:u64 f_fsid:i32*2 f_namelen:u32 f_frsize:u32 f_flags:u32/hex _spare:u32*5
statfs64: packed=4 f_type:u32/hex f_bsize:u32 f_blocks:u64 f_bfree:u64 f_bavail:u64 f_files:u64
 f_ffree:u64 f_fsid:i32*2 f_namelen:u32 f_frsize:u32 f_flags:u32/hex _spare:u32*4
"""
