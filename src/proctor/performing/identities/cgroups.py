"""Which cgroups have a say on devices, and where they are joined.

The kernel asks the device rules of the *opener's* cgroup, and of the maker's for mknod(2).  A
performer is in the monitor's; where the caller's is another one, devices are opened and made by a
short-lived member of the caller's (nothing of ours stays in it, to be frozen with it or to keep it
from being removed).
"""

from __future__ import annotations

import os

from proctor.performing import scarce


def _lines(text: bytes) -> list[bytes]:
    """Lines as the kernel ends them: whoever may make a cgroup or a directory gives it a name with whatever else ends one
    elsewhere, a carriage return, which neither cgroup_mkdir() nor mangle() of fs/proc_namespace.c minds."""
    return text.removesuffix(b"\n").split(b"\n")


def _relevant(text: bytes) -> dict[bytes, bytes]:
    """hierarchy ("" is version 2, or "devices") → path, from ``/proc/TID/cgroup``."""
    found = {}
    for line in _lines(text):
        _, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        if not controllers:
            found[b""] = path
        elif b"devices" in controllers.split(b","):
            found[b"devices"] = path
    return found


def within(inner: bytes, outer: bytes) -> bool:
    """Whether a cgroup is another one, or below it."""
    return outer in (inner, b"/") or inner.startswith(outer + b"/")


def device_groups(caller: bytes, own: bytes) -> list[bytes | None]:
    """``cgroup.procs`` of every cgroup whose rules hold for the caller and not for us.

    :param caller: ``/proc/TID/cgroup``.
    :param own: ``/proc/self/cgroup``.  Rules are inherited downwards: being below is enough.
    :returns: paths; None for one that is mounted nowhere in sight.
    """
    ours = _relevant(own)
    wanted: list[bytes | None] = []
    for hierarchy, path in _relevant(caller).items():
        if hierarchy in ours and within(ours[hierarchy], path):
            continue
        wanted.append(_find(hierarchy, path))
    return wanted


def directories(cgroups: bytes, controller: bytes) -> list[bytes]:
    """The directories of a thread's cgroup and of those above it, as far as they are mounted in sight, the
    innermost first; none of another hierarchy.

    :param cgroups: the text of ``/proc/TID/cgroup``.
    :param controller: of version 1; empty: version 2.
    """
    for line in _lines(cgroups):
        _, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        if controller in controllers.split(b","):
            inner = _find(controller, path)
            outer = _find(controller, b"/")
            if inner is None:
                return []
            place = os.path.dirname(inner)
            top = os.path.dirname(outer) if outer is not None else place
            found = [place]
            while place != top and place.startswith(top):
                place = os.path.dirname(place)
                found.append(place)
            return found
    return []


def _find(hierarchy: bytes, path: bytes) -> bytes | None:
    if b"/.." in path:
        return None  # outside of our cgroup namespace
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = _lines(file.read())
    except OSError as error:
        scarce.pass_on(error)
        return None
    for line in lines:
        before, _, after = line.partition(b" - ")
        fields, kind = before.split(b" "), after.split(b" ")
        root, where = fields[3], fields[4]
        if hierarchy:
            fits = kind[0] == b"cgroup" and hierarchy in kind[2].split(b",")
        else:
            fits = kind[0] == b"cgroup2"
        if fits and within(path, root):
            below = path[len(root.rstrip(b"/")) :].strip(b"/")
            return os.path.join(_unescape(where), below, b"cgroup.procs")
    return None


def _unescape(path: bytes) -> bytes:
    """mountinfo writes space, tab, newline and backslash in octal."""
    for byte in b" \t\n\\":
        path = path.replace(b"\\%03o" % byte, bytes([byte]))
    return path
