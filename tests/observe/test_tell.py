"""What people are told: refusals that somebody explains, and trouble once in full, then how often."""

from __future__ import annotations

import errno
import threading
from typing import Any

import proctor
from proctor.call.verdict import Verdict, answer, deny
from proctor.observe.events import Dropped, Outcome, Trouble
from proctor.observe.observers import Observers
from proctor.observe.tell import Teller
from proctor.policy.rules import Reason
from proctor.supervisor.container import Container
from proctor.testing import FakeTarget


class Writer:
    """Keeps what is put into it."""

    place = "here"

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.on_dropped: list[Any] = []

    def put(self, line: str) -> None:
        self.lines.append(line)


def teller(**options: bool) -> tuple[Teller, list[str], Observers]:
    writer = Writer()
    made = Teller(writer, **options)  # type: ignore[arg-type]
    return made, writer.lines, Observers([made], threading.Lock())


def outcome(verdict: Verdict, **more: Any) -> Outcome:
    call = FakeTarget().call("mkdir", "x", 0o755)
    return Outcome(call, verdict, "f", True, 0.0, 1.0, Container("web"), **more)


def test_a_refusal_is_told_with_its_reason_and_no_other() -> None:
    _, lines, told = teller()
    told.tell_outcome(outcome(deny(errno.EROFS, "not\n\x1b[2Jhere"), text='mkdir("x", 0755)'))
    told.tell_outcome(outcome(deny(errno.EROFS)))
    told.tell_outcome(outcome(answer(0, "why not")))
    assert lines == ['proctor: mkdir("x", 0755): deny EROFS: not\\n\\u001B[2Jhere\n']


def test_of_what_is_performed_want_of_rights_is_told() -> None:
    _, lines, told = teller()
    told.tell_outcome(outcome(deny(errno.EPERM, "char 1:3"), performed=True))
    told.tell_outcome(outcome(deny(errno.ENOENT, "the kernel's"), performed=True))
    told.tell_outcome(outcome(deny(errno.EPERM, "not performed: told already"), performed=True))
    assert lines == ["proctor: mkdir: deny EPERM: char 1:3\n"]


def test_of_what_is_performed_a_rule_s_refusal_is_told_whatever_its_errno() -> None:
    """Rules about paths are asked when what they are about is held, so what they refuse was to be performed."""
    _, lines, told = teller()
    reason = Reason('rule "no rooms"', "no rooms")
    told.tell_outcome(outcome(deny(errno.EROFS, reason), performed=True))
    assert lines == ['proctor: mkdir: deny EROFS: rule "no rooms"\n']
    asked = proctor.perform(
        lambda argument, path: proctor.deny(errno.EROFS, f"{argument} is elsewhere")
    )
    said = asked.refusal("path", b"/x")
    assert said is not None
    told.tell_outcome(outcome(said, performed=True))
    assert lines[1:] == ["proctor: mkdir: deny EROFS: path is elsewhere\n"]


def test_what_could_not_be_decided_for_a_caller_that_is_gone_is_no_word() -> None:
    _, lines, told = teller()
    failed, refused = deny(errno.EPERM, "on_error: no memory of it"), deny(errno.EROFS, "no rooms")
    told.tell_outcome(outcome(failed)._replace(delivered=False))
    assert lines == []
    told.tell_outcome(outcome(refused)._replace(delivered=False))  # nobody hides by ending
    told.tell_outcome(outcome(failed))
    assert lines == [
        "proctor: mkdir: deny EROFS: no rooms\n",
        "proctor: mkdir: deny EPERM: on_error: no memory of it\n",
    ]


def test_quiet_tells_trouble_alone() -> None:
    _, lines, told = teller(refusals=False)
    assert not told.wants(deny(errno.EPERM, "why"))
    assert not told.looks(None, deny(errno.EPERM, "why"))
    told.trouble("somebody")
    assert lines == ["proctor: somebody\n"]


def raised() -> ValueError:
    try:
        raise ValueError("a mistake\nof two lines")
    except ValueError as error:
        return error


def test_trouble_is_told_once_in_full_then_counted() -> None:
    made, lines, told = teller()
    error = raised()
    for _ in range(25):
        told.trouble("handler f", error)
    made.close()
    first, tenth, last = (number for number, line in enumerate(lines) if "handler f" in line)
    assert all(line.startswith("proctor: ") for line in lines)
    assert sum("Traceback" in line for line in lines) == 1
    assert first == 0 and tenth > 3  # the page is between
    assert lines[first] == (
        f"proctor: handler f (test_tell.py:{raised.__code__.co_firstlineno + 2}): "
        "ValueError: a mistake\\nof two lines\n"
    )
    assert lines[tenth].endswith("(10 times so far)\n")
    assert lines[last].endswith("(25 times in all)\n")
    assert last == tenth + 1
    made.close()
    assert len(lines) == last + 1


def test_debug_tells_every_time_with_the_page() -> None:
    made, lines, told = teller(debug=True)
    for _ in range(3):
        told.trouble("handler f", raised())
    made.close()
    assert sum("Traceback" in line for line in lines) == 3
    assert sum("handler f" in line for line in lines) == 3


def test_each_place_is_counted_by_itself() -> None:
    made, lines, told = teller()
    for who in ("one", "other", "one", "other", "one"):
        told.trouble(who)
    made.close()
    assert lines == [
        "proctor: one\n", "proctor: other\n", "proctor: one (3 times in all)\n",
        "proctor: other (2 times in all)\n",
    ]  # fmt: skip


def test_dropped_lines_are_told() -> None:
    _, lines, told = teller()
    told.tell(Dropped("--log x", 3))
    assert lines == ["proctor: 3 lines for --log x were dropped: nobody took those before\n"]


def test_threads_that_are_overtaken_do_not_take_the_count_back() -> None:
    made, lines, _ = teller()
    made(Trouble("t", "p", 10))
    made(Trouble("t", "p", 9))
    made.close()
    assert lines == ["proctor: t (10 times so far)\n"]


def test_a_handler_that_fails_is_one_line_on_one_call() -> None:
    """As the supervisor tells it."""
    heard: list[Trouble] = []

    class Hears:
        events = (Trouble,)

        def __call__(self, event: Trouble) -> None:
            heard.append(event)

    def broken(call: proctor.Call) -> proctor.Verdict:
        raise KeyError("web")

    handler = proctor.Handler(("rmdir",), broken, label="broken")
    with proctor.spawn(
        ["rmdir", "/nowhere", "/nowhere"], [handler], observers=[Hears()], stderr=-3
    ) as process:
        process.wait()
    line = broken.__code__.co_firstlineno + 1
    assert [event.times for event in heard] == [1, 2]
    text = heard[0].text
    assert text.startswith(f"handler broken (test_tell.py:{line}): KeyError: 'web' on rmdir(0x")
    assert text.endswith("; answered: deny EPERM")
