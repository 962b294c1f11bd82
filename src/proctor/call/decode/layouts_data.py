"""The layouts of structures that system calls read: the table behind :mod:`proctor.call.decode.layouts`.

``structure: field ...``, each field ``name:type[*count][/how][?]``:

* *type* is ``i8 u8 i16 u16 i32 u32 i64 u64``, ``long ulong`` (as wide as the caller's pointers),
  ``ptr``, ``char`` (bytes up to a NUL), ``sigset`` (64 signals), or another structure of the table;
* *how* it is written: a family of :mod:`proctor.syscalls.flags`, ``signal``, ``signals`` (a set),
  ``mode``, ``hex``, ``handler``, ``version``, or ``path`` and ``text``: a pointer to a string, which is
  read too;
* ``?``: not written if it is zero.  A name that begins with ``_`` is padding, or what only the kernel
  writes.

A structure of one architecture has its name behind an ``@``.  Alignment is the architecture's: on
i386 a 64-bit number is aligned to 4.  Sources: the headers of ``include/uapi`` that the manual pages
of the calls name, and ``include/linux/compat.h``.
"""

from __future__ import annotations

from typing import Final

LAYOUTS: Final = """
timeval: tv_sec:long tv_usec:long
timespec: tv_sec:long tv_nsec:long
timespec64: tv_sec:i64 tv_nsec:i64
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
sigaction: sa_handler:ptr/handler sa_flags:ulong/SigactionFlag sa_restorer:ptr? sa_mask:sigset/signals
sigaction@riscv64: sa_handler:ptr/handler sa_flags:ulong/SigactionFlag sa_mask:sigset/signals
old_sigaction: sa_handler:ptr/handler sa_mask:u32/signals sa_flags:u32/SigactionFlag sa_restorer:ptr?
stack_t: ss_sp:ptr ss_flags:i32/SigaltstackFlag ss_size:ulong
flock: l_type:i16/LockType l_whence:i16/Whence l_start:long l_len:long l_pid:i32?
flock64: l_type:i16/LockType l_whence:i16/Whence l_start:i64 l_len:i64 l_pid:i32?
f_owner_ex: type:i32/OwnerType pid:i32
cap_user_header: version:u32/CapVersion pid:i32
mq_attr: mq_flags:long/MqFlag mq_maxmsg:long mq_msgsize:long mq_curmsgs:long _reserved:long*4
sched_attr: size:u32 sched_policy:u32/SchedPolicy sched_flags:u64/SchedAttrFlag sched_nice:i32
 sched_priority:u32 sched_runtime:u64 sched_deadline:u64 sched_period:u64 sched_util_min:u32
 sched_util_max:u32
perf_event_attr: type:u32/PerfType size:u32 config:u64/hex sample_period:u64
 sample_type:u64/PerfSample read_format:u64/PerfReadFormat bits:u64/PerfAttrBit wakeup_events:u32?
 bp_type:u32? config1:u64/hex? config2:u64/hex? branch_sample_type:u64/hex?
 sample_regs_user:u64/hex? sample_stack_user:u32? clockid:i32/ClockId? sample_regs_intr:u64/hex?
 aux_watermark:u32? sample_max_stack:u16? _reserved:u16 aux_sample_size:u32? _reserved2:u32
 sig_data:u64/hex? config3:u64/hex?
io_uring_params: _sq_entries:u32 cq_entries:u32? flags:u32/IoUringSetupFlag sq_thread_cpu:u32/hex
 sq_thread_idle:u32 _features:u32 wq_fd:u32? _reserved:u32*3 _offsets:u64*10
landlock_ruleset_attr: handled_access_fs:u64/LandlockFs handled_access_net:u64/LandlockNet?
 scoped:u64/LandlockScope?
landlock_path_beneath_attr@packed: allowed_access:u64/LandlockFs parent_fd:i32
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
mnt_id_req: size:u32 mnt_ns_fd:u32? mnt_id:u64/hex param:u64/hex mnt_ns_id:u64/hex?
xattr_args: value:u64/hex size:u32 flags:u32/XattrFlag
file_attr: fa_xflags:u64/hex fa_extsize:u32 fa_nextents:u32 fa_projid:u32 fa_cowextsize:u32
cachestat_range: off:u64 len:u64
bpf_map_create: map_type:u32/BpfMapType key_size:u32 value_size:u32 max_entries:u32
 map_flags:u32/BpfMapFlag inner_map_fd:u32 numa_node:u32? map_name:char*16 map_ifindex:u32
 btf_fd:u32? btf_key_type_id:u32? btf_value_type_id:u32? btf_vmlinux_value_type_id:u32?
 map_extra:u64? value_type_btf_obj_fd:i32? map_token_fd:i32?
bpf_map_elem: map_fd:u32 key:u64/ptr value:u64/ptr flags:u64/BpfElemFlag
bpf_map_next_key: map_fd:u32 key:u64/ptr next_key:u64/ptr
bpf_map_batch: in_batch:u64/hex out_batch:u64/hex keys:u64/hex values:u64/hex count:u32 map_fd:u32
 elem_flags:u64/BpfElemFlag flags:u64/hex
bpf_prog_load: prog_type:u32/BpfProgType insn_cnt:u32 insns:u64/ptr license:u64/text log_level:u32
 log_size:u32 log_buf:u64/ptr kern_version:u32/version prog_flags:u32/BpfProgFlag
 prog_name:char*16 prog_ifindex:u32 expected_attach_type:u32/BpfAttachType prog_btf_fd:u32?
 func_info_rec_size:u32? func_info:u64/hex? func_info_cnt:u32? line_info_rec_size:u32?
 line_info:u64/hex? line_info_cnt:u32? attach_btf_id:u32? attach_prog_fd:u32? core_relo_cnt:u32?
 fd_array:u64/hex? core_relos:u64/hex? core_relo_rec_size:u32? log_true_size:u32? prog_token_fd:i32?
bpf_obj: pathname:u64/path bpf_fd:u32 file_flags:u32/BpfMapFlag path_fd:i32?
bpf_prog_attach: target_fd:u32 attach_bpf_fd:u32 attach_type:u32/BpfAttachType
 attach_flags:u32/BpfAttachFlag replace_bpf_fd:u32? relative_fd:u32? expected_revision:u64?
bpf_prog_detach: target_fd:u32 attach_bpf_fd:u32 attach_type:u32/BpfAttachType
bpf_next_id: start_id:u32 next_id:u32 open_flags:u32/BpfMapFlag
bpf_prog_fd: prog_id:u32 next_id:u32 open_flags:u32/BpfMapFlag
bpf_map_fd: map_id:u32 next_id:u32 open_flags:u32/BpfMapFlag
bpf_btf_fd: btf_id:u32 next_id:u32 open_flags:u32/BpfMapFlag
bpf_link_fd: link_id:u32 next_id:u32 open_flags:u32/BpfMapFlag
bpf_info: bpf_fd:u32 info_len:u32 info:u64/ptr
bpf_prog_query: target_fd:u32 attach_type:u32/BpfAttachType query_flags:u32/hex
 attach_flags:u32/BpfAttachFlag prog_ids:u64/ptr prog_cnt:u32
bpf_raw_tracepoint: name:u64/text prog_fd:u32 _pad:u32 cookie:u64?
bpf_btf_load: btf:u64/ptr btf_log_buf:u64/ptr btf_size:u32 btf_log_size:u32 btf_log_level:u32
bpf_freeze: map_fd:u32
bpf_link_create: prog_fd:u32 target_fd:u32 attach_type:u32/BpfAttachType flags:u32/hex
bpf_link_update: link_fd:u32 new_prog_fd:u32 flags:u32/hex old_prog_fd:u32
bpf_link_detach: link_fd:u32
bpf_enable_stats: type:u32
bpf_iter_create: link_fd:u32 flags:u32/hex
bpf_prog_bind_map: prog_fd:u32 map_fd:u32 flags:u32/hex
bpf_token_create: flags:u32/hex bpffs_fd:u32
"""

#: What ``union bpf_attr`` is for each command of bpf(2).
BPF_COMMANDS: Final = (
    "map_create", "map_elem", "map_elem", "map_elem", "map_next_key", "prog_load", "obj", "obj",
    "prog_attach", "prog_detach", "", "next_id", "next_id", "prog_fd", "map_fd", "info",
    "prog_query", "raw_tracepoint", "btf_load", "btf_fd", "", "map_elem", "freeze", "next_id",
    "map_batch", "map_batch", "map_batch", "map_batch", "link_create", "link_update", "link_fd",
    "next_id", "enable_stats", "iter_create", "link_detach", "prog_bind_map", "token_create",
)  # fmt: skip
