"""What a rule does with its calls: its verdict, and what goes with that."""

from __future__ import annotations

import errno as _errno
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.kernel.abi import MAX_ERRNO
from proctor.policy.document import VERDICT_KEYS, KeyPath, Source
from proctor.policy.rules import (
    ALLOW,
    ASK,
    DENY,
    KILL,
    KILL_CONTAINER,
    LOG,
    PERFORM,
    RETURN,
    Rule,
    Ruling,
)
from proctor.words import did_you_mean, one_of, quoted

if TYPE_CHECKING:
    from proctor.policy.policy import Settings

#: Seconds: nobody thinks for longer.
_LONGEST_QUESTION: Final = 3600.0
_UNIX_PATH: Final = 107  # bytes of a socket's path


def verdict_word(
    word: str, place: KeyPath, source: Source, words: Sequence[str] = (ALLOW, LOG, KILL)
) -> Ruling:
    """``allow``, ``log``, ``kill`` or the name of an errno."""
    if word in words:
        return Ruling(word)
    if word in _ERRNOS:
        return Ruling(DENY, _ERRNOS[word])
    hint = (
        did_you_mean(word, [*words, *_ERRNOS])
        or f'; write {", ".join(map(quoted, words))} or an errno such as "EPERM"'
    )
    raise source.error(f"no verdict {quoted(word)}{hint}", place)


#: Every name, also the second ones of a number (EWOULDBLOCK, EOPNOTSUPP), which errorcode leaves out.
_ERRNOS: Final[dict[str, int]] = {
    name: number for name, number in vars(_errno).items() if name[:1] == "E"
}


def ruling_of(written: Mapping[str, Any], path: KeyPath, source: Source) -> Ruling:
    given = {key: written[key] for key in VERDICT_KEYS if key in written}
    if len(given) != 1:
        raise source.error(
            f"a rule has exactly one verdict of {', '.join(VERDICT_KEYS)}; this one has "
            f"{' and '.join(given) if given else 'none'}",
            path,
        )
    ((key, value),) = given.items()
    place = (*path, key)
    if key == DENY:
        return Ruling(DENY, _errno_number(value, place, source))
    if key == RETURN:
        if -MAX_ERRNO <= value < 0:
            name = _errno.errorcode.get(-value, str(-value))
            raise source.error(
                f'a program takes {value} for an error; write deny = "{name}"', place
            )
        if not -(1 << 63) <= value < 1 << 63:
            raise source.error(f"{value} does not fit into a register", place)
        return Ruling(RETURN, value)
    if key == ALLOW and isinstance(value, str):
        word, _, reason = value.partition(":")
        if word.strip().lower() != "unsafe" or not reason.strip():
            raise source.error(
                'write true, or "unsafe: why the race is acceptable here" to let a call run after '
                "its memory was looked at",
                place,
            )
        return Ruling(ALLOW, unsafe=" ".join(reason.split()))
    if key == KILL and isinstance(value, str):
        if value != "container":
            raise source.error('write true, for the process, or "container"', place)
        return Ruling(KILL_CONTAINER)
    if value is not True and not isinstance(value, dict):
        raise source.error(
            f"{key} = false says nothing; leave it out and give the rule its verdict", place
        )
    return Ruling(key)


def delay_of(
    written: Mapping[str, Any], settings: Settings, path: KeyPath, source: Source
) -> float:
    if "delay" not in written:
        return 0.0
    from proctor.asking.question import LONGEST_DELAY

    value: float = written["delay"]
    place = (*path, "delay")
    if not 0 < value <= LONGEST_DELAY:
        raise source.error(f"seconds, more than 0 and at most {LONGEST_DELAY:g}", place)
    return value


def check_time(rule: Rule, settings: Settings, source: Source) -> None:
    """What a rule waits for itself has to be over before its call's time is."""
    most = settings.deadline if rule.deadline is None else rule.deadline
    takes, key = rule.delay, "delay"
    if rule.ruling.kind == ASK:
        takes, key = takes + rule.ruling.options.timeout, "ask"  # type: ignore[attr-defined]
    if most is not None and takes >= most:
        raise source.error(
            f"the call is answered after {most:g} seconds, its deadline, before this is over",
            ("rule", rule.position, key),
        )


def _errno_number(value: str | int, place: KeyPath, source: Source) -> int:
    if isinstance(value, int):
        if not 1 <= value <= MAX_ERRNO:
            raise source.error(f"an errno is from 1 to {MAX_ERRNO}, or a name such as EPERM", place)
        return value
    if value not in _ERRNOS:
        hint = did_you_mean(value, _ERRNOS) or "; write a name such as EPERM"
        raise source.error(f'no errno "{value}"{hint}', place)
    return _ERRNOS[value]


def performable(calls: Sequence[str], path: KeyPath, source: Source) -> None:
    from proctor.performing import SUPPORTED
    from proctor.performing.registry import family

    lacking = [name for name in calls if name not in SUPPORTED]
    if lacking:
        hint = f"the families that can: {', '.join(sorted(set(map(family, SUPPORTED))))}"
        if len(lacking) < len(calls):  # mostly of a group
            without = ", ".join(f'"!{name}"' for name in lacking)
            hint = f"the others can: leave these to another rule, or the default, by {without}"
        raise source.error(
            f"{', '.join(lacking[:4])} cannot be performed on a caller's behalf; {hint}",
            (*path, "perform"),
        )


def options(calls: Sequence[str], given: object, place: KeyPath, source: Source) -> object:
    """The options of the calls' family: ``perform = { ... }``; None for ``perform = true``."""
    from proctor.performing.registry import options as checked

    if not isinstance(given, dict):
        return None
    try:
        return checked(calls, given)
    except ValueError as error:
        raise source.error(str(error), place) from None


def asked(
    ruling: Ruling, calls: Sequence[str], written: Mapping[str, Any], path: KeyPath, source: Source
) -> Ruling:
    """What is said of asking, checked."""
    from proctor.asking.question import HOWS, REMEMBERED, Asking

    place = (*path, ASK)

    def word(key: str, words: Sequence[str], otherwise: str) -> Any:
        value = written.get(key, otherwise)
        if value not in words:
            hint = did_you_mean(value, words) or f"; it is {one_of(words)}"
            raise source.error(f"{quoted(value)} is no value of it{hint}", (*place, key))
        return value

    if "how" not in written:
        raise source.error(f'"how" is missing: {one_of(HOWS)}', place)
    how = word("how", HOWS, "")
    timeout = written.get("timeout", Asking._field_defaults["timeout"])
    if not 0 < timeout <= _LONGEST_QUESTION:
        raise source.error(
            f"seconds, more than 0 and at most {_LONGEST_QUESTION:g}", (*place, "timeout")
        )
    default = verdict_word(written.get("default", "EPERM"), (*place, "default"), source, (ALLOW,))
    unsafe = " ".join(written.get("unsafe", "").split())
    if "unsafe" in written and not unsafe:
        raise source.error("say why the race is acceptable", (*place, "unsafe"))
    performing = written.get("perform")
    if performing is False:
        raise source.error(
            "what can be performed is performed, since it was looked at; leave this out",
            (*place, "perform"),
        )
    if performing is not None:
        performable(calls, place, source)
        performing = options(calls, performing, (*place, PERFORM), source)
    where = _where(how, written, place, source)
    remember = word("remember", REMEMBERED, "once")
    asking = Asking(how, where, float(timeout), default.value, remember, performing)
    return ruling._replace(value=default.value, unsafe=unsafe, options=asking)


def _where(how: str, written: Mapping[str, Any], place: KeyPath, source: Source) -> tuple[str, ...]:
    needed = {"terminal": None, "command": "run"}.get(how, "at")
    for key in ("run", "at"):
        if (key in written) != (key == needed):
            verb = "takes no" if key in written else "needs"
            raise source.error(f'how = "{how}" {verb} "{key}"', (*place, key))
    if needed is None:
        return ()
    if needed == "run":
        words = tuple(written["run"])
        if not words or not words[0].startswith("/") or any("\0" in word for word in words):
            raise source.error(
                "a list: the absolute path of a program, its arguments", (*place, "run")
            )
        return words
    at: str = written["at"]
    if how == "socket":
        if not at.startswith("/") or len(at.encode()) > _UNIX_PATH or "\0" in at:
            raise source.error(f"an absolute path of at most {_UNIX_PATH} bytes", (*place, "at"))
        return (at,)
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(at)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        good = (
            good and parts.username is None and at.isascii() and at.isprintable() and " " not in at
        )
    except ValueError:
        good = False
    if not good:
        raise source.error(f"{quoted(at)}: http://HOST[:PORT]/PATH is wanted", (*place, "at"))
    return (at,)
