"""The kernel mechanism, and nothing of what system calls mean.

* a listener: :mod:`.seccomp` and :mod:`.abi` are the interface, :mod:`.notification` what comes by :mod:`.listener`;
  :mod:`.engine` waits for many, with :mod:`.killable` and :mod:`.stalls`, and :mod:`.journal` remembers;
* a target: :mod:`.plan` says how it is begun, :mod:`.start` and :mod:`.launch` begin it, :mod:`.target` waits for it;
* a caller: :mod:`.thread` are its files in /proc, :mod:`.pidfd` is it itself, :mod:`.standing`, :mod:`.standings` and
  :mod:`.alikes` know it again, :mod:`.nudging` has it look at its signals; :mod:`.address_space` and :mod:`.memory` read
  and write what is its;
* what outlives a monitor: :mod:`.progress` and :mod:`.mounts` beside the journal, in memory of :mod:`.sealing`;
* what there is: :mod:`.probe` and :mod:`.probe_addfd` try it out, :mod:`.support` is what they say;
* below all that: :mod:`.raw`, :mod:`.scm`, :mod:`.threads`, :mod:`.closing`; and the native core, :mod:`._core`, whose C is
  in ``core/`` (the head of ``core/core.c`` says where what is).
"""
