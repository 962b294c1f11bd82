"""What cannot be is refused when it is given, in a sentence: not by the first call that comes, nor from deep inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

import proctor
from proctor import families, policy
from proctor.kernel.plan import plan
from proctor.performing import Performers
from proctor.performing.families import ALSO, CALLS
from proctor.policy import loads

HANDLER: Any = proctor.Handler(["getppid"], lambda call: proctor.answer(7))
TRUE = ["true"]


def run(**options: Any) -> Callable[[], object]:
    return lambda: proctor.run(TRUE, [HANDLER], **options)


def launch(**options: Any) -> Callable[[], object]:
    return lambda: proctor.launch(TRUE, **options)


def container(**options: Any) -> Callable[[], object]:
    return lambda: proctor.Container("a", **options)


def with_quotas(**given: Any) -> Callable[[], object]:
    return lambda: proctor.Container("a", quotas=proctor.Quotas(**given))


def rule(*given: Any) -> Callable[[], object]:
    return lambda: proctor.Filter([proctor.Rule(*given)])


#: What is given, and what is said.  A number that wraps in the kernel's type would be another one: uid 2**40 is root.
GIVEN: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no handler": (lambda: proctor.Supervisor([3]), TypeError, "3 is not a handler"),
    "one handler": (lambda: proctor.Supervisor(HANDLER), TypeError, "one handler"),
    "no list": (lambda: proctor.run(TRUE, 3), TypeError, "handlers=3"),
    "a function": (lambda: proctor.filter_for([print]), TypeError, "not a handler"),
    "a container's": (container(handlers=[3]), TypeError, "3 is not a handler"),
    "no observers": (run(observers=print), TypeError, "observers="),
    "no world": (lambda: proctor.Supervisor(world=3), TypeError, "world=3"),
    "no filter": (run(filter=3), TypeError, "filter=3: a proctor.Filter is wanted"),
    "no words": (lambda: proctor.run(None), TypeError, "argv=None"),
    "a number as a word": (lambda: proctor.run([1]), TypeError, "an argument=1"),
    "one word": (lambda: proctor.launch("true"), TypeError, "one word"),
    "a line for a shell": (
        lambda: proctor.run("ls -l"), TypeError, r"such as \['ls', '-l'\], or, for a shell, "
    ),
    "an option of others": (run(fds={0: 0}), TypeError, "no option 'fds'"),
    "no list, for asyncio": (lambda: asyncio.run(proctor.run_async(TRUE, 3)), TypeError, "handlers=3"),
    "no list to spawn": (lambda: asyncio.run(proctor.spawn_async(TRUE, 3)), TypeError, "handlers=3"),
    "no text": (run(input=3), TypeError, "input=3"),
    "no time": (run(timeout="x"), TypeError, "timeout='x': seconds"),
    "no stream": (run(stdin="x"), TypeError, "'x': not a descriptor, a file"),
    "no descriptors": (run(pass_fds=3), TypeError, "pass_fds=3"),
    "a descriptor too great": (run(pass_fds=[1 << 40]), ValueError, "fds=1099511627776"),
    "a negative one": (launch(fds={0: -1}), ValueError, "fds=-1"),
    "no pair": (launch(fds=[3]), TypeError, "fds=3"),
    "root by wrapping": (run(uid=1 << 40), ValueError, "uid=1099511627776"),
    "root by a sign": (run(uid=-5), ValueError, "uid=-5"),
    "no group": (run(gid=(1 << 32) - 1), ValueError, "gid=4294967295"),
    "a negative group": (run(groups=[-1]), ValueError, "groups=-1"),
    "no uid": (run(uid="root"), TypeError, "uid='root': a whole number from 0 to 4294967294"),
    "no mask": (run(umask=0o7777777), ValueError, "umask="),
    "no process group": (run(process_group=-1), ValueError, "process_group=-1"),
    "no signal": (run(ignored_signals=[0]), ValueError, "ignored_signals=0"),
    "no signal to block": (run(blocked_signals=[0]), ValueError, "blocked_signals=0"),
    "no such signal": (run(ignored_signals=[65]), ValueError, "ignored_signals=65"),
    "no truth": (run(no_new_privs=7), TypeError, "no_new_privs=7"),
    "no environment": (run(env=[("A", "B")]), TypeError, "env="),
    "no value": (run(env={"A": 3}), TypeError, r"env\['A'\]=3"),
    "no directory": (run(cwd=3), TypeError, "cwd=3"),
    "one namespace": (run(namespaces="net"), TypeError, "namespaces='net'"),
    "no ranges": (run(userns="x"), TypeError, "userns='x'"),
    "half a range": (run(userns=[(0, 0)]), ValueError, "how many"),
    "an empty range": (run(userns=[(0, 0, 0)]), ValueError, "at least one"),
    "no program": (launch(program="x"), TypeError, "program='x'"),
    "no marks": (launch(marks=-1), ValueError, "marks=-1"),
    "no workers": (run(workers=1.5), TypeError, "workers=1.5"),
    "too many workers": (run(workers=10**9), ValueError, "from 1 to 10000"),
    "no quotas": (container(quotas=(1, 2, 3, 4)), TypeError, "quotas="),
    "half a worker": (with_quotas(workers=1.5), TypeError, "workers=1.5"),
    "no calls": (with_quotas(calls=0), ValueError, "calls=0"),
    "too many performers": (with_quotas(performers=10**9), ValueError, "from 1 to 10000"),
    "no rate": (with_quotas(rate=float("nan")), ValueError, "rate=nan"),
    "no name": (lambda: proctor.Container(None), TypeError, "name=None"),
    "no labels": (container(labels=3), TypeError, "labels=3"),
    "labels of numbers": (container(labels={"a": 3}), TypeError, r"labels\['a'\]=3: a text"),
    "an owner that is none": (container(owner_userns=[-1]), ValueError, "owner_userns=-1"),
    "a performing of nothing": (container(performing=0), TypeError, "performing=0: a mapping"),
    "a limit by another name": (
        container(performing={"limt": 3}),
        TypeError,
        "performing, of a container, has no option 'limt'; did you mean \"limit\"",
    ),
    "what is all containers'": (container(performing={"idle": 3}), TypeError, "no option 'idle'"),
    "a container's limit": (container(performing={"limit": "x"}), TypeError, "limit='x'"),
    "a word": (container(performing={"nested": "maybe"}), ValueError, "'deny', 'allow'"),
    "a command's": (run(performing={"limt": 3}), TypeError, "performing has no option 'limt'; did you mean"),
    "a run's own option": (run(capture_ouput=True), TypeError, 'did you mean "capture_output"'),
    "a shell": (run(shell=True), TypeError, 'option \'shell\'; a shell is a command: ."sh", "-c", "'),
    "text, as it was called": (run(universal_newlines=True), TypeError, 'it is "text" here'),
    "descriptors that are closed": (run(close_fds=True), TypeError, "what is not in pass_fds is always closed"),
    "an option of subprocess's": (run(start_new_session=True), TypeError, 'it is "new_session" here'),
    "another one": (run(user=0), TypeError, 'it is "uid" here'),
    "a policy's conditions": (
        lambda: proctor.on("mkdir", when={"mode": 0})(print),
        proctor.FilterError,
        "tables as policies have them go to proctor.families",
    ),
    "a command's word": (run(performing={"cgroup": 3}), ValueError, "'join', 'ignore'"),
    "a command's mapping": (run(performing=3), TypeError, "performing=3: a mapping"),
    "what is not his to say": (run(performing={"on_trouble": print}), TypeError, "'on_trouble'"),
    "nobody who looks": (lambda: proctor.Supervisor(seeker=3), TypeError, "seeker=3: it looks for"),
    "no end": (lambda: proctor.Supervisor().on_close(3), TypeError, r"on_close\(3\): it is called"),
    "nobody told": (lambda: Performers(on_trouble=3), TypeError, "on_trouble=3: it is called"),
    "no owners": (lambda: Performers(owner_userns=["x"]), TypeError, "owner_userns='x'"),
    "calls of nobody": (lambda: Performers(calls=["opnat"]), ValueError, 'did you mean "openat"'),
    "no list of calls": (lambda: Performers(calls="openat"), TypeError, "calls='openat'"),
    "no socket": (lambda: proctor.Listener.from_socket(3), TypeError, "3: a socket"),
    "no amount": (run(logging="refused"), TypeError, "logging='refused'"),
    "no level": (run(logging=proctor.Amount("some")), ValueError, "level='some'"),
    "no lines": (run(logging=proctor.Amount(rate=0)), ValueError, "rate=0"),
    "no writer": (lambda: proctor.JsonLog(-1), TypeError, "to_file"),
    "no counting": (lambda: proctor.Counters(3), TypeError, "3: a function"),
    "a call alone": (lambda: proctor.Handler("mkdir", print), TypeError, "names='mkdir'"),
    "a number": (lambda: proctor.Handler([3], print), TypeError, "system call=3"),
    "a condition": (lambda: proctor.Handler(["mkdir"], print, [3]), proctor.FilterError, "3 is no"),
    "no operator": (
        lambda: proctor.on("mkdir", when=proctor.Condition("mode", "=", 0))(print),
        proctor.FilterError,
        "operator '='",
    ),
    "no value of a register": (
        lambda: proctor.on("mkdir", when=proctor.Condition("mode", "==", 1.5))(print),
        proctor.FilterError,
        "a number and a mask",
    ),
    "no rule": (lambda: proctor.Filter([3]), TypeError, "a rule=3"),
    "no action": (rule(("mkdir",), 3), TypeError, "action=3"),
    "no condition": (rule(("mkdir",), proctor.actions.NOTIFY, 3), TypeError, "conditions=3"),
    "no default": (lambda: proctor.Filter([], 3), TypeError, "action=3"),
    "no architectures": (lambda: proctor.Filter(arches="arm"), TypeError, "arches='arm'"),
    "no errno": (lambda: proctor.actions.errno("x"), TypeError, "data of an action='x'"),
    "no listener": (lambda: proctor.Listener(1 << 40), ValueError, "not a file descriptor"),
    "nothing to add": (lambda: proctor.Supervisor().add(3), TypeError, "3 is no listener"),
    "no journal": (lambda: proctor.Journal.create(-1), ValueError, "slots=-1"),
    "nobody to ask": (lambda: proctor.perform(3), TypeError, "allow=3"),
    "no writes": (lambda: proctor.answer(1, writes=3), TypeError, "writes=3"),
    "no file": (lambda: proctor.hand_over(1 << 40), ValueError, "not a file descriptor"),
    "no limit": (lambda: Performers(limit="x"), TypeError, "limit='x'"),
    "too great a limit": (lambda: Performers(limit=10**9), ValueError, "from 1 to 10000"),
    "no idling": (lambda: Performers(idle=float("nan")), ValueError, "idle=nan"),
    "no patience": (lambda: Performers(deadline="x"), TypeError, "deadline='x'"),
    "no policy": (lambda: policy.loads(3), TypeError, "text=3"),
    "no conditions": (lambda: families.mknod(when=3), TypeError, "when=3"),
    "a condition's number": (lambda: families.mknod(when={3: 3}), TypeError, "in when=3"),
    "no list of words": (
        lambda: families.mount(filesystems=3),
        proctor.PolicyError,
        "filesystems is a list of words, not 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", GIVEN)
def test_it_is_said_at_once(what: str) -> None:
    give, kind, said = GIVEN[what]
    with pytest.raises(kind, match=said):
        give()


def test_all_ids_that_there_are_can_be_mapped() -> None:
    """As the first user namespace has them (user_namespaces(7)): 0 to 4294967294 are one more than the last one's number."""
    everybody = [(0, 0, (1 << 32) - 1)]
    made = plan(TRUE, namespaces=["user"], uid_map=everybody, gid_map=everybody)
    assert made.uid_map == made.gid_map == b"0 0 4294967295\n"
    with pytest.raises(ValueError, match="uid_map=4294967296"):
        plan(TRUE, namespaces=["user"], uid_map=[(0, 0, 1 << 32)])


def test_of_a_listener_that_is_served_too() -> None:
    program = proctor.filter_for([HANDLER]).compile().code
    with (
        proctor.Supervisor([HANDLER]) as supervisor,
        proctor.launch(["sleep", "600"], program=program, fds={}) as target,
    ):
        listener: Any = proctor.Listener(target.take_listener())
        for wrong in (3, "name"):
            with pytest.raises(TypeError, match="Container is wanted"):
                supervisor.add(listener, wrong)
        supervisor.add(listener)
        with pytest.raises(TypeError, match="not a handler"):
            supervisor.replace(listener, [print])
        with pytest.raises(ValueError, match="workers=0"):
            supervisor.limit(proctor.Container(), proctor.Quotas(workers=0))
        with pytest.raises(ValueError, match="at=4294967296"):  # which would take the place of 0
            listener.addfd(1, 0, at=1 << 32)
        target.kill()


def test_a_policy_s_handlers_are_not_taken_without_its_filter() -> None:
    """Most of what a policy decides, it decides there: without it nothing would be refused."""
    made = loads('[[rule]]\nname = "a"\ncalls = ["mkdir"]\nperform = true')
    handlers = made.handlers()
    assert handlers
    for take in (proctor.filter_for, lambda given: proctor.run(TRUE, given)):
        with pytest.raises(ValueError, match="whose filter says"):
            take(handlers)
    assert proctor.filter_for(handlers, made.filter()) is not None


VALUES = (
    "3", "true", '"x"', "[3]", "[]", "{a = 3}", "1.5", "-1", "99999999999999999999", '""', '[""]', "{}", "[[1]]",
    "nan", "1979-05-27", "{a = [1]}", "{a = {b = 3}}", "{a = {type = 3}}",
)  # fmt: skip


@pytest.mark.parametrize("family", sorted({*CALLS, *ALSO}))
def test_options_of_families_are_refused_with_their_place(family: str) -> None:
    """Whatever a file says of them: it is a policy, or what is wrong is said."""
    kind = getattr(import_module(f"proctor.performing.families.{family}"), "Options", None)
    call = (CALLS.get(family) or ALSO[family])[0]
    text = '[[rule]]\nname = "a"\ncalls = ["{}"]\nperform = {{ {} = {} }}\n'
    for name in kind._fields if kind is not None else ("nothing",):
        said = []
        for value in VALUES:
            try:
                loads(text.format(call, name, value))
            except proctor.PolicyError as error:
                said.append(str(error))
        assert said and all("perform" in each or "when" in each for each in said)
