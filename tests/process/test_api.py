"""run, spawn and their asyncio twins."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.process.run import DEVNULL, PIPE, STDOUT

MKDIRS = ("mkdir", "mkdirat")


@proctor.on(*MKDIRS)
def refuse(call: proctor.Call) -> proctor.Verdict:
    return proctor.deny(errno.EXDEV)


def test_run_is_like_subprocess_run() -> None:
    done = proctor.run(
        ["sh", "-c", "cat; echo err >&2; exit 3"], input="in", capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "in", "err\n")
    with pytest.raises(subprocess.CalledProcessError):
        proctor.run(["false"], check=True)
    with pytest.raises(ValueError, match="capture_output"):
        proctor.run(["true"], capture_output=True, stdout=PIPE)


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("printf 'a\\r\\nb\\rc\\n'; printf '\\r\\n' >&2", {"capture_output": True, "text": True}),
        (
            "cat; echo e >&2",
            {"input": b"in", "stdin": None, "capture_output": True, "stderr": None},
        ),
        ("echo o; echo e >&2", {"capture_output": True, "pass_fds": (2, 1, 2, 0)}),
        ("echo o", {"stdout": PIPE, "pass_fds": [1, 1]}),
    ],
)
def test_options_mean_what_they_mean_to_subprocess_run(script: str, options: Any) -> None:
    seen = [run(["sh", "-c", script], **options) for run in (subprocess.run, proctor.run)]
    assert vars(seen[0]) == vars(seen[1])


@pytest.mark.parametrize("wrong", [[1], "x", -1, 1 << 31])
def test_what_is_passed_on_is_a_descriptor(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="pass_fds="):
        proctor.run(["true"], pass_fds=[wrong])


def test_bytes_that_are_no_text_go_both_ways() -> None:
    done = proctor.run(["cat"], input="\udcff\u00fc", capture_output=True, text=True)
    assert done.stdout == "\udcff\u00fc"


def test_a_pipe_that_a_handler_looked_at_comes_to_its_end() -> None:
    looked: list[int] = []

    @proctor.on("write")
    def look(call: proctor.Call) -> proctor.Verdict:
        looked.append(call.fd(call.args.fd))  # the call's, which closes it
        return proctor.let_run_unsafe("only a look")

    done = proctor.run(["echo", "hi"], [look], capture_output=True, timeout=60)
    assert done.stdout == b"hi\n" and looked


def test_run_kills_at_its_timeout() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        proctor.run(["sleep", "600"], [refuse], timeout=0.05)


def test_a_timeout_tells_its_length_and_what_was_read() -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        # no race: the pipe says "early" long before the time is over, or it is over without a word
        proctor.run(["sh", "-c", "echo early; exec sleep 600"], stdout=PIPE, timeout=2)
    assert caught.value.timeout == 2
    assert caught.value.output == b"early\n"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        proctor.run(["sleep", "600"], timeout=0.05)
    assert (caught.value.timeout, caught.value.output) == (0.05, None)


def test_a_command_is_a_list_of_words() -> None:
    for word in ("ls", b"ls", Path("/bin/ls")):
        with pytest.raises(TypeError, match="one word"):
            proctor.run(word)  # type: ignore[arg-type]


def test_large_streams_do_not_deadlock() -> None:
    data = os.urandom(3_000_000)
    done = proctor.run(["tee", "/dev/stderr"], input=data, capture_output=True)
    assert done.stdout == data
    assert done.stderr == data


def test_streams_can_be_files_null_and_joined(tmp_path: object) -> None:
    with open(os.path.join(str(tmp_path), "out"), "w+b") as file:
        proctor.run(
            ["sh", "-c", "echo a; echo b >&2; cat"], stdin=DEVNULL, stdout=file, stderr=STDOUT
        )
        file.seek(0)
        assert file.read() == b"a\nb\n"


def test_handlers_are_served() -> None:
    done = proctor.run(["mkdir", "/tmp/never-made"], [refuse], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cross-device" in done.stderr


def test_execve_itself_can_be_supervised() -> None:
    seen: list[bytes] = []

    @proctor.on("execve")
    def see(call: proctor.Call) -> proctor.Verdict:
        seen.append(call.path)
        if seen[-1].endswith(b"/false"):
            return proctor.deny(errno.ELIBBAD)
        return proctor.let_run_unsafe("a test")

    assert proctor.run(["/bin/true"], [see]).returncode == 0
    assert seen == [b"/bin/true"]
    with pytest.raises(proctor.LaunchError) as caught:
        proctor.run(["/bin/false"], [see])
    assert caught.value.step == "execve"
    assert caught.value.errno == errno.ELIBBAD


def test_unknown_calls_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(proctor.FilterError, match="mknodat"):
        proctor.on("mknodta")(lambda call: None)
    with pytest.raises(proctor.FilterError):
        proctor.on("%nothing")(lambda call: None)


def test_a_plain_function_is_no_handler() -> None:
    with pytest.raises(TypeError, match=r"proctor\.on"):
        proctor.run(["true"], [lambda call: None])  # type: ignore[list-item]


def test_missing_command() -> None:
    with pytest.raises(proctor.LaunchError) as caught:
        proctor.spawn(["no-such-command-anywhere"], [refuse])
    assert caught.value.errno == errno.ENOENT
    assert "no-such-command-anywhere" in str(caught.value)


def test_closing_kills_what_still_runs() -> None:
    with pytest.raises(KeyError), proctor.spawn(["sleep", "600"], [refuse]) as process:
        raise KeyError
    assert process.returncode == -9


def test_userns_makes_root() -> None:
    done = proctor.run(
        ["sh", "-c", "id -u; cat /proc/self/uid_map"], [refuse], userns=True, capture_output=True
    )
    if b"denied" in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    assert done.stdout.split() == [b"0", b"0", str(os.geteuid()).encode(), b"1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give groups up")
def test_userns_gives_up_our_groups() -> None:
    code = (
        "import os, proctor\n"
        "os.setgroups([27, 998])\n"
        "h = proctor.on('mkdir')(lambda call: None)\n"
        "proctor.run(['grep', 'Groups', '/proc/self/status'], [h], userns=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=30, check=False
    )
    if b"user namespace" in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    assert done.stdout.split() == [b"Groups:"], done


def test_out_of_descriptors_is_one_error() -> None:
    script = (
        "import resource, proctor, errno, sys, os\n"
        "h = proctor.on('mkdir')(lambda call: proctor.deny(errno.EPERM))\n"
        "proctor.run(['true'], [h])\n"
        "limit = max(int(f) for f in os.listdir('/proc/self/fd')) + 2\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))\n"
        "try:\n    proctor.run(['true'], [h])\n"
        "except OSError as e:\n    print(errno.errorcode[e.errno])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "EMFILE\n", done.stderr


@pytest.mark.timeout(400)  # a thousand runs, of which a slow machine makes three in a second
def test_c130_nothing_survives_many_runs() -> None:
    proctor.run(["true"], [refuse])
    others = set(threading.enumerate())  # of tests before this one, too: they end when they end
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        assert proctor.run(["/bin/true"], [refuse]).returncode == 0
    left = set(threading.enumerate()) - others
    for thread in left:
        thread.join(20)  # workers that were told to end
    assert not any(thread.is_alive() for thread in left)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # and no zombie


async def _async_story() -> list[str]:
    log: list[str] = []

    @proctor.on(*MKDIRS)
    async def ask(call: proctor.Call) -> proctor.Verdict:
        log.append("asked in " + ("my loop" if asyncio.get_running_loop() is loop else "another"))
        await asyncio.sleep(0)
        return proctor.deny(errno.EXDEV)

    loop = asyncio.get_running_loop()
    async with await proctor.spawn_async(
        ["mkdir", "/tmp/never-made"], [ask], stderr=DEVNULL
    ) as target:
        log.append(f"ended {await target.wait()}")
    done = await proctor.run_async(["mkdir", "/tmp/never-made"], [ask], capture_output=True)
    log.append(f"ended {done.returncode}")
    return log


def test_async_handlers_run_on_the_callers_loop() -> None:
    assert asyncio.run(_async_story()) == ["asked in my loop", "ended 1"] * 2


def test_importing_stays_light() -> None:
    script = (
        "import sys, proctor; proctor.run, proctor.on, proctor.deny; "
        "print(sorted({'asyncio', 'argparse', 'logging', 'inspect', 'subprocess'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_policy_that_does_not_perform_loads_nothing_of_it() -> None:
    script = (
        "import sys; from proctor.policy import loads\n"
        'rules = \'[[rule]]\\nname = "r"\\ncalls = ["open"]\\nwhen = { path = "/x" }\\ndeny = "EPERM"\\n\'\n'
        'rules += \'[[rule]]\\nname = "s"\\ncalls = ["open"]\\nallow = "unsafe: a test"\\n\'\n'
        "made = loads(rules); made.filter(); made.handlers(); made.supervisor_options()\n"
        "print(sorted({'proctor.performing.registry', 'socket', 'urllib', 'inspect'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_what_performs_loads_no_family_that_nobody_wants() -> None:
    """Of several that share a call the first, unless options are another's."""
    script = (
        "import sys; from proctor.performing import registry\n"
        "assert registry.at_once('openat') is not None\n"
        "print('proctor.performing.families.served' in sys.modules)\n"
        "kind = type(registry.options(['openat'], {'content': 'x'}))\n"
        "print(kind.__module__, registry._module('openat', kind).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    served = "proctor.performing.families.served"
    assert done.stdout.split() == ["False", served, served]


def test_every_public_name_exists_and_is_documented() -> None:
    for name in proctor.__all__:
        value = getattr(proctor, name)
        assert name.startswith("__") or name == "Verdict" or value.__doc__, name
    with pytest.raises(AttributeError):
        proctor.nonsense  # noqa: B018


def test_quotas_that_cannot_be_are_said_before_anything_starts(tmp_path: Path) -> None:
    handler = proctor.Handler(["getppid"], lambda call: None)
    with pytest.raises(ValueError, match="at least one is needed"):
        proctor.run(["touch", tmp_path / "begun"], [handler], quotas=proctor.Quotas(workers=0))
    assert not (tmp_path / "begun").exists()
