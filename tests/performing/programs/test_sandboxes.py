"""Programs that put themselves, or others, into sandboxes of their own, where every open is performed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

import proctor
from proctor.policy import loads
from tests.performing.support.callers import open_directory

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0, reason="needs root to have targets with other identities"
    ),
    pytest.mark.timeout(300),
]
PLACES = """
[[rule]]
name = "places"
calls = ["open", "openat"]
when = { flags = { all = ["O_PATH"] } }
allow = true
"""
OPENS = 'calls = ["open", "openat", "openat2", "creat"]'
POLICIES = {
    "performs": f'{PLACES}[[rule]]\nname = "opens"\n{OPENS}\nperform = true\n',
    "path rule": (
        f'{PLACES}[[rule]]\nname = "no"\n{OPENS}\nwhen = {{ path = "/srv/secret/**" }}\ndeny = "EACCES"\n'
        f'[[rule]]\nname = "opens"\n{OPENS}\nperform = true\n'
    ),
}
USERS: dict[str, dict[str, Any]] = {
    "root": {}, "user": {"uid": 1000, "gid": 1000, "groups": ()}, "container": {"userns": [(0, 100000, 65536)]},
}  # fmt: skip
SEES = (
    "id -u; cat /proc/self/comm; head -1 /proc/self/status; cat /proc/self/uid_map; cat /etc/shadow 2>&1;"
    "echo x > /dev/null; cat /proc/thread-self/cgroup; tr '\\0' ' ' < /proc/self/cmdline; ls /proc/self/fd"
)
COMMANDS = {
    "unshare": ["unshare", "-Urpf", "sh", "-c", SEES],
    "unshare, own proc": ["unshare", "-Urpf", "--mount-proc", "sh", "-c", f"{SEES}; cat /proc/1/comm"],
    "unshare, twice": ["unshare", "-Urpf", "unshare", "-Ur", "sh", "-c", SEES],
    "bwrap": [
        "bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
        "sh", "-c", f"{SEES}; echo one > /tmp/x; cat /tmp/x; cat /proc/1/comm; echo no > /etc/x",
    ],
}  # fmt: skip


def run(argv: list[str], policy: str | None, **options: Any) -> tuple[int, str, str]:
    troubles: list[str] = []
    if policy is not None:
        loaded = loads(POLICIES[policy])

        def saw(outcome: Any) -> None:
            if outcome.verdict.reason.startswith("not performed"):
                troubles.append(str(outcome))

        options |= {
            "handlers": loaded.handlers(), "filter": loaded.filter(),
            "observers": [proctor.outcomes(saw)], **loaded.supervisor_options(),
        }  # fmt: skip
    done = proctor.run(argv, capture_output=True, text=True, timeout=200, **options)
    assert troubles == []
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_sandbox_is_what_it_is_natively(command: str, user: str, policy: str) -> None:
    argv, options = COMMANDS[command], {"cwd": "/", **USERS[user]}
    if shutil.which(argv[0]) is None:
        pytest.skip(f"no {argv[0]} here")
    native = run(argv, None, **options)
    if not native[1]:
        pytest.skip(f"not even natively: {native[2]}")
    assert run(argv, policy, **options) == native


@pytest.fixture
def home() -> Iterator[str]:
    with open_directory() as path:
        os.chown(path, 1000, 1000)
        yield os.fsdecode(path)


@pytest.mark.parametrize("policy", POLICIES)
def test_chromium_in_its_own_sandbox(home: str, policy: str) -> None:
    """Namespaces, a root directory that is gone, undumpable processes, filters of its own."""
    if shutil.which("chromium") is None:
        pytest.skip("no chromium here")
    with open(home + "/page.html", "w") as file:
        file.write("<p id=a>before</p><script>a.textContent = 'after ' + 6 * 7</script>")
    options: dict[str, Any] = {
        **USERS["user"], "env": {"HOME": home, "PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": home}, "cwd": home
    }  # fmt: skip
    argv = [
        "chromium", "--headless=new", "--disable-gpu", "--no-first-run", "--dump-dom",
        f"--user-data-dir={home}/profile", f"file://{home}/page.html",
    ]  # fmt: skip
    if "after 42" not in run(argv, None, **options)[1]:
        pytest.skip("not even natively")
    status, shown, _ = run(argv, policy, **options)
    assert status == 0
    assert "after 42" in shown
