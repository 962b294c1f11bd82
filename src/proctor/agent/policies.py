"""Which policy a container has: a directory of policy files, and a table that says which is whose.

``containers.toml`` in that directory is the table; every other ``NAME.toml`` is a policy (docs/agent.md).
What changes on disk is taken once it has stayed as it is from one look to the next, so that a file that
is just being written is left alone; what is then no policy is refused, and what held before still holds.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from proctor.agent.facts import Facts
from proctor.errors import PolicyError
from proctor.policy import Policy, loads
from proctor.policy.document import MATCH_KEYS, TABLE_KEYS, Source, check_keys, toml
from proctor.records import NamedTuple
from proctor.words import did_you_mean, quoted

TABLE: Final = "containers.toml"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.toml")
#: Most bytes of a file.
_LARGEST: Final = 4 << 20


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ``[[container]]``: every key that it has must fit.  Texts are shell patterns."""

    policy: str
    id: str | None = None
    metadata: str | None = None
    cookie: str | None = None
    annotations: dict[str, str] = {}
    namespace: str | None = None
    pod: str | None = None
    container: str | None = None
    image: str | None = None
    door: str | None = None
    socket: str | None = None
    uid: list[int] | None = None

    def fits(self, facts: Facts) -> bool:
        """Whether it is about this container."""
        if self.uid is not None and facts.uid not in self.uid:
            return False
        for key in ("id", "metadata", "cookie", "door", "socket"):
            if not _like(getattr(facts, key), getattr(self, key)):
                return False
        for key in ("namespace", "pod", "container", "image"):
            pattern = getattr(self, key)
            if pattern is not None and not _like(facts.annotated(key), pattern):
                return False
        return all(
            name in facts.annotations and _like(facts.annotations[name], pattern)
            for name, pattern in self.annotations.items()
        )


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``containers.toml``."""

    #: Policy of containers that nothing fits.
    default: str | None = None
    container: list[Match] = []

    def choose(self, facts: Facts) -> tuple[str | None, str]:
        """Name of the policy, None if there is none; and what of the table says so."""
        for number, match in enumerate(self.container, 1):
            if match.fits(facts):
                return match.policy, f"[[container]] number {number} of {TABLE}"
        if self.default is None:
            return None, f"no [[container]] of {TABLE} fits it, and there is no default"
        return self.default, f"the default of {TABLE}"


class Resolved(NamedTuple):
    """What holds for a container."""

    #: None: every call of it is denied.
    policy: Policy | None
    #: What says so, or why there is none.
    why: str
    #: The policy's file, as it was when it was taken.
    text: str = ""


class Book:
    """Policies by container, as a directory has them.

    :param directory: read by :meth:`refresh`; not watched.
    :param tell: told what was taken and what was refused, in sentences.
    """

    def __init__(self, directory: str, tell: Callable[[str], object] = str) -> None:
        self._directory = directory
        self._tell = tell
        self._table: Table | None = None
        self._policies: dict[str, Policy] = {}
        #: Texts of what holds, by file.
        self._texts: dict[str, str] = {}
        #: What each file was when it was last looked at, and when it was last read.
        self._looked: dict[str, _Mark] = {}
        self._read: dict[str, _Mark] = {}
        #: Names that the table had and the directory has not: told once.
        self._missing: set[str] = set()
        #: Why a file does not hold as it is now.
        self._refused: dict[str, str] = {}
        #: Counts what was taken.
        self.generation = 0

    @property
    def policies(self) -> list[str]:
        """Names of the policies that are held."""
        return sorted(self._policies)

    def held(self) -> list[Policy]:
        """The policies that are held."""
        return list(self._policies.values())

    @property
    def problems(self) -> list[str]:
        """What is wrong with the directory as it was last looked at."""
        return [*self._refused.values(), *sorted(self._missing)]

    @property
    def texts(self) -> dict[str, str]:
        """What holds, by file: for the next monitor's :meth:`restore`."""
        return dict(self._texts)

    def restore(self, texts: Mapping[str, str]) -> None:
        """Begin with what held in an earlier monitor."""
        for name, text in texts.items():
            if self._texts.get(name) != text:
                self._parse(name, text)
                self._read.pop(name, None)  # what is there is looked at once more
        self.refresh(settle=False)

    def load(self) -> None:
        """Read everything for the first time.

        :raises PolicyError: something is wrong; so a mistake is seen when an agent is started.
        """
        problems: list[str] = []
        self._refresh(problems.append, settle=False)
        problems += self._unknown()
        if problems:
            raise PolicyError(problems[0])

    def refresh(self, *, settle: bool = True) -> bool:
        """Look for changes, and take them; whether there were any.

        :param settle: take only what was the same at the last look.
        """
        changed = self._refresh(self._tell, settle=settle)
        missing = set(self._unknown())
        for problem in missing - self._missing:
            self._tell(problem)
        self._missing = missing
        return changed

    def _refresh(self, refused: Callable[[str], object], *, settle: bool) -> bool:
        gone = self._refused.pop("", None)
        try:
            now = _marks(self._directory)
        except OSError as problem:
            what = "; what held before still holds" if self._read else ""
            why = f"{self._directory or quoted(self._directory)}: {problem.strerror}{what}"
            self._refused[""] = why
            if why != gone:
                refused(why)
            return False
        changed = False
        for name, mark in now.items():
            if self._read.get(name) == mark or (settle and self._looked.get(name) != mark):
                continue
            self._read[name] = mark
            changed |= self._take(name, refused)
        for name in self._read.keys() - now.keys():
            if settle and name in self._looked:
                continue
            del self._read[name]
            self._refused.pop(name, None)
            changed |= self._drop(name)
        self._looked = now
        self.generation += changed
        return changed

    def _take(self, name: str, refused: Callable[[str], object]) -> bool:
        path = os.path.join(self._directory, name)
        try:
            with open(path, "rb", opener=_at_once) as file:
                data = file.read(_LARGEST + 1)
            if len(data) > _LARGEST:
                raise PolicyError(f"{path}: larger than {_LARGEST} bytes")
            self._parse(name, data.decode("utf-8-sig"))
        except (PolicyError, OSError, UnicodeDecodeError) as problem:
            old = self._table if name == TABLE else self._policies.get(name.removesuffix(".toml"))
            what = "; what held before still holds" if old is not None else ""
            words = problem.strerror if isinstance(problem, OSError) else problem
            where = "" if str(words).startswith(path) else f"{path}: "
            self._refused[name] = f"{where}{words}{what}"
            refused(self._refused[name])
            return False
        self._refused.pop(name, None)
        return True

    def _parse(self, name: str, text: str) -> None:
        path = os.path.join(self._directory, name)
        if name == TABLE:
            self._table = _table(text, path)
        else:
            self._policies[name.removesuffix(".toml")] = loads(text, path)
        self._texts[name] = text

    def _drop(self, name: str) -> bool:
        self._texts.pop(name, None)
        if name == TABLE:
            self._table = None
        else:
            self._policies.pop(name.removesuffix(".toml"), None)
        self._tell(f"{os.path.join(self._directory, name)} is gone")
        return True

    def _unknown(self) -> list[str]:
        """What the table names and nobody has."""
        table = self._table
        if table is None:
            return []
        named = [match.policy for match in table.container]
        named += [table.default] if table.default is not None else []
        return [
            f"{os.path.join(self._directory, TABLE)}: there is no policy {quoted(name)} in this "
            f"directory{did_you_mean(name, self._policies)}"
            for name in dict.fromkeys(named)
            if name not in self._policies
        ]

    @property
    def annotations(self) -> frozenset[str]:
        """Names of the annotations by which containers are told apart."""
        return frozenset(
            name for each in (self._table or Table()).container for name in each.annotations
        )

    def named(self, facts: Facts) -> str | None:
        """The name of the policy that a container is to have; None if none is meant for it."""
        return self._choose(facts)[0]

    def _choose(self, facts: Facts) -> tuple[str | None, str]:
        if self._table is None:  # one policy for all
            return "default", f"there is no {TABLE}"
        return self._table.choose(facts)

    def resolve(self, facts: Facts) -> Resolved:
        """What holds for a container now."""
        name, why = self._choose(facts)
        if name is None:
            return Resolved(None, why)
        policy = self._policies.get(name)
        if policy is None:
            return Resolved(None, f"its policy {quoted(name)} is not in {self._directory}")
        return Resolved(policy, why, self._texts.get(f"{name}.toml", ""))


#: device, inode, size, time of change.
_Mark = tuple[int, int, int, int]


def _marks(directory: str) -> dict[str, _Mark]:
    """Policy files and the table; what they are behind symbolic links, which is how Kubernetes mounts a
    ConfigMap."""
    found = {}
    for name in os.listdir(directory):
        if not _NAME.fullmatch(name):
            continue
        try:
            status = os.stat(os.path.join(directory, name))
        except OSError:
            continue  # gone meanwhile, or a link that leads nowhere: as if it were not there
        if not stat.S_ISREG(status.st_mode):
            continue  # a directory, or a pipe that nobody would ever write to
        found[name] = (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
    return found


def _at_once(path: str, flags: int) -> int:
    """Opens what may have become a pipe since it was looked at, and waits for nobody."""
    return os.open(path, flags | os.O_NONBLOCK)


def _table(text: str, path: str) -> Table:
    source = Source(path, text)
    tree = toml(source)
    check_keys(tree, TABLE_KEYS, (), source)
    for number, each in enumerate(tree.get("container", ())):
        check_keys(each, MATCH_KEYS, ("container", number), source)
    try:
        return msgspec.convert(tree, Table)
    except msgspec.MsgspecError as problem:
        raise PolicyError(f"{path}: {problem}") from None


def _like(text: str, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatchcase(text, pattern)
