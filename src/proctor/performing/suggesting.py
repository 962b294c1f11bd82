"""What a rule says of how a call is performed, for that call to be: options without which its family would not.

Policies have it in what they say of a refused call (:mod:`proctor.policy.explain`).  It is what the caller said, shown to whoever writes policies; nothing is decided by it.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from typing import TYPE_CHECKING, Any, Final

from proctor.call import passwords
from proctor.errors import CallGone, ProctorError
from proctor.performing.registry import family, options

if TYPE_CHECKING:
    from collections.abc import Callable

    from proctor.call.call import Call

#: Of an image of a module's, where its name is looked for.
_LOOKED_AT: Final = 1 << 20
_NAME: Final = re.compile(rb"\0name=([A-Za-z0-9_]{1,55})\0")
_FLAGS_OF: Final = {0x40086602: 0, 0x40046602: 0, 0x401C5820: 1}
_SET_STRING: Final = 1  # FSCONFIG_SET_STRING
#: File systems that are mounted from no device and no file.
_REMOTE: Final = frozenset(("9p", "afs", "ceph", "cifs", "nfs", "nfs4", "smb3", "virtiofs"))
_NEWUSER: Final = 0x10000000
_LOOP_MAJOR: Final = 7


def needed(call: Call) -> dict[str, Any] | None:
    """Options of its family by which a call would be performed: empty if none is needed, None if a rule for it has to
    say what no call says (the log that ``write`` goes to).

    :raises CallGone: the caller is gone."""
    kind = family(call.name)
    if kind == "streams":
        return None
    found = _BY.get(kind)
    try:
        needs = {} if found is None else found(call)
        if needs:
            options([call.name], needs)  # or no policy would be read with them in it
        return needs
    except CallGone:
        raise
    except (OSError, ProctorError, ValueError, struct.error):
        return {}  # what cannot be read is no call that succeeds


def looks_at(name: str) -> frozenset[str]:
    """Of which arguments of a call :func:`needed` says more than their registers do: by name, ``*`` for any."""
    kind = family(name)
    if kind == "open":
        return frozenset(("path",))
    return frozenset(("*",) if kind in _BY and kind not in _BY_REGISTERS else ())


def _text(value: bytes | None) -> str:
    """:raises ValueError: it is none."""
    return (value or b"").decode()


def _mount(call: Call) -> dict[str, Any]:
    from proctor.performing.families import mount
    from proctor.performing.mounts import mount_words
    from proctor.syscalls.architectures import PAGE_SIZE

    kind, source = _text(call.args["fstype"]), _text(call.args["source"])
    if not kind or not mount_words.is_new(call.registers[3]) or kind in mount.KERNELS_OWN:
        return {}
    if kind in _REMOTE:
        at = call.args["data"]
        given = call.copied(at, PAGE_SIZE, some=True).partition(b"\0")[0] if at else b""
        source = _text(passwords.source(os.fsencode(source)))
        return {"remote": {source: {"type": kind, "options": _text(passwords.hidden(given))}}}
    return {"filesystems": [kind]} | _source(call, source)


def _source(call: Call, source: str) -> dict[str, Any]:
    """A device by its number: what has its name on the host, by which a rule finds it, may be another one."""
    with call.caller.locate(os.fsencode(source)) as located:
        status = located.stat
    if status is None:
        return {}
    device = os.major(status.st_rdev), os.minor(status.st_rdev)
    if stat.S_ISBLK(status.st_mode) and device[0] != _LOOP_MAJOR:
        return {"devices": ["{}:{}".format(*device)]}
    return {"images": True}


def _fsmount(call: Call) -> dict[str, Any]:
    from proctor.performing.families import mount

    if call.name == "fsopen":
        kind = _text(call.args["fsname"])
        return {} if kind in mount.KERNELS_OWN else {"filesystems": [kind]}
    sets = call.name == "fsconfig" and call.registers[1] & 0xFFFFFFFF == _SET_STRING
    if not sets or _text(call.args["key"]) != "source":
        return {}
    return _source(call, _text(call.args["value"]))


def _modules(call: Call) -> dict[str, Any]:
    if call.name == "delete_module":
        return {"modules": [_text(call.args["module"])], "unload": True}
    if call.name == "finit_module":
        name = _text(call.caller.fd_path(call.registers[0] & 0x7FFFFFFF)).rpartition("/")[2]
        name = name.partition(".ko")[0].replace("-", "_")
    else:
        image = call.copied(call.args["module_image"], min(call.args["len"], _LOOKED_AT), some=True)
        found = _NAME.search(image)
        name = found[1].decode() if found else ""
    if not name:
        return {}
    given = dict.fromkeys(
        f"{name}.{each.partition('=')[0]}" for each in _text(call.args["param_values"]).split()
    )
    return {"modules": [name]} | ({"parameters": list(given)} if given else {})


def _xattr(call: Call) -> dict[str, Any]:
    if "list" in call.name:
        return {}
    name = _text(call.args["name"])
    known = name.startswith(("trusted.overlay.", "trusted.proctor."))
    # a rule would take a * for any others, and has no way to say that it is none
    return (
        {"names": [name]} if name.startswith("trusted.") and not known and "*" not in name else {}
    )


def _loop(call: Call) -> dict[str, Any]:
    """Of ioctl(2): what sets flags of files is another family's."""
    from proctor.performing.families import fsflags

    which = _FLAGS_OF.get(call.registers[1] & 0xFFFFFFFF)
    return {} if which is None else _flags(fsflags, call.copied(call.words[2], 4), which)


def _fsflags(call: Call) -> dict[str, Any]:
    from proctor.performing.families import fsflags

    return _flags(fsflags, call.copied(call.words[2], 4), 1)


def _flags(fsflags: Any, data: bytes, which: int) -> dict[str, Any]:
    (flags,) = struct.unpack("=I", data)
    chosen = [name for name, numbers in fsflags.FLAGS.items() if flags & numbers[which]]
    return {"flags": chosen}


def _perf(call: Call) -> dict[str, Any]:
    from proctor.performing.families import perf

    event = struct.unpack("=I4xQ", call.copied(call.words[0], 16))
    return {"events": [name for name, each in perf.EVENTS.items() if each == event]}


def _quota(call: Call) -> dict[str, Any]:
    from proctor.performing.families import quota

    command = (call.registers[0 if call.name == "quotactl" else 1] & 0xFFFFFFFF) >> 8
    name = next((name for name, form in quota.COMMANDS.items() if form.command == command), "")
    return {"commands": [name]} if name and name not in quota.READING else {}


def _scheduling(call: Call) -> dict[str, Any]:
    from proctor.performing.families import scheduling

    return scheduling.needed(call)


def _userns(call: Call) -> dict[str, Any]:
    return {"most": 1} if call.name != "clone3" and call.registers[0] & _NEWUSER else {}


def _open(call: Call) -> dict[str, Any]:
    loops = os.fsdecode(call.args["path"]).startswith("/dev/loop")
    return {"loops": True} if loops else {}


_BY: Final[dict[str, Callable[[Call], dict[str, Any]]]] = {
    "fsflags": _fsflags, "fsmount": _fsmount, "loop": _loop, "modules": _modules, "mount": _mount, "open": _open,
    "perf": _perf, "quota": _quota, "scheduling": _scheduling, "userns": _userns, "xattr": _xattr,
}  # fmt: skip
#: Of these the registers say all.
_BY_REGISTERS: Final = frozenset(("quota", "userns"))
