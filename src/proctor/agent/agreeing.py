"""Whether a container's filter notifies what its policy decides."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

import msgspec

from proctor.errors import FilterError, PolicyError
from proctor.filter.actions import NOTIFY
from proctor.filter.profiles import oci
from proctor.words import printable

if TYPE_CHECKING:
    from proctor.filter.profiles.profile import Profile
    from proctor.policy import Policy

#: Bytes of a bundle's configuration.
_LONGEST: Final = 4 << 20
#: Calls that are named.
_SHOWN: Final = 8


def profile_of(bundle: str) -> Profile | None:
    """The seccomp profile of an OCI bundle; None if it has none, or cannot be read.

    :param bundle: as root's runtime says; of others it would have us open what they choose.
    """
    text = _config(bundle)
    try:
        return None if text is None else oci.load(text.decode("utf-8", "replace"))
    except FilterError:
        return None


class _Namespace(msgspec.Struct):
    type: str


class _Linux(msgspec.Struct):
    namespaces: list[_Namespace] = []


class _Config(msgspec.Struct):
    linux: _Linux = msgspec.field(default_factory=_Linux)


def makes_userns(bundle: str) -> bool:
    """Whether an OCI bundle gives its container a user namespace; False if it cannot be read.

    :param bundle: as for :func:`profile_of`.
    """
    try:
        config = msgspec.json.decode(_config(bundle) or b"", type=_Config)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return any(each.type == "user" for each in config.linux.namespaces)


def _config(bundle: str) -> bytes | None:
    try:
        fd = os.open(
            os.path.join(bundle, "config.json"),
            os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
        )
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    with open(fd, "rb") as file:
        try:
            text = file.read(_LONGEST + 1)
        except OSError:
            return None
    return None if len(text) > _LONGEST else text


def disagreements(policy: Policy, profile: Profile) -> list[str]:
    """Sentences about calls that the policy decides and the filter does not notify, or the other way
    round; none for those that fit."""
    try:
        wanted = {
            str(name)
            for rule in policy.filter().rules
            if rule.action == NOTIFY
            for name in rule.names
        }
    except PolicyError:
        return []  # it is too large for a filter: it was not made for one
    notified = {
        str(name) for entry in profile.entries if entry.action == NOTIFY for name in entry.names
    }
    if profile.default == NOTIFY:
        notified |= wanted
    decided = {name: entry.action for entry in profile.entries for name in entry.names}
    found = []
    unseen = sorted(wanted - notified)
    if unseen:
        said = {str(decided.get(name, profile.default)) for name in unseen}
        found.append(
            f"its filter does not notify {_listed(unseen)} ({' or '.join(sorted(said))} there), which "
            f"{policy.name} decides; proctor profile writes a filter that does"
        )
    needless = sorted(notified - wanted)
    if needless:
        found.append(
            f"its filter notifies {_listed(needless)}, of which {policy.name} has nothing to see: "
            "each such call waits for an answer that is always the same"
        )
    return found


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return printable(", ".join(names[:_SHOWN])) + more
