"""Policies are loaded, checked, explained and compiled where nothing of Linux is: to look over rules
for a server on another machine needs neither the native core nor a performer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import proctor
from proctor.performing import registry

PROGRAM = """
import sys
from tests.testing import elsewhere
elsewhere.impoverish()
sys.platform = "elsewhere"

from pathlib import Path
from proctor.policy import load, loads
from proctor.errors import PolicyError
from proctor.performing import SUPPORTED
from tests.policy.calls import call

policy = load(sys.argv[1])
print(policy.explain(call("mknodat", dirfd=-100, path=b"/x/sda", mode=0o60660, dev="8:0")))
print(policy.decide(call("mknod", path=b"/x", mode=0o20666, dev="1:3")).ruling)
assert policy.filter().compile().code and policy.handlers()
for text in ('perform = true', 'allow = true'):
    try:
        loads('[[rule]]\\nname = "r"\\ncalls = ["chroot"]\\nwhen = { path = "/x" }\\n' + text)
    except PolicyError as error:
        print(error)
assert "mknod" in SUPPORTED
def loaded():
    print(sorted(name for name in sys.modules if name in elsewhere.MODULES or name.startswith("proctor.performing.")))
loaded()
from importlib import import_module
from proctor.performing import families
for each in (*families.CALLS, *families.ALSO):  # as options of theirs have it
    import_module(f"{families.__name__}.{each}")
loaded()
"""


def test_a_policy_that_performs_needs_no_linux() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM,
         str(root / "examples" / "devices.toml")],
        capture_output=True, text=True, check=False, timeout=60, cwd="/",
        env={**os.environ, "PYTHONPATH": f"{root}:{Path(proctor.__file__).parents[1]}"},
    )  # fmt: skip
    assert done.stderr == "", done.stderr
    refused, ruling, performs, runs, at_first, loaded = done.stdout.splitlines()
    assert 'device = "8:0" } perform = true' in refused
    assert ruling == "perform"
    assert "chroot cannot be performed on a caller's behalf; the families that can: " in performs
    assert 'Safe is deny = "EPERM"' in runs
    assert at_first == repr(
        [f"proctor.performing.{x}" for x in ("families", "registry", "suggesting", "untaken")]
    )
    # the families themselves, and what these need to be known
    families = Path(registry.families.__path__[0]).glob("[a-z]*.py")
    rooms = [f"families.{each.stem}" for each in families]
    for folder, known in {
        "": "attached entitled families given module_name noting registry scarce suggesting threads too_big trouble untaken",
        "executing": "lent requests single steps",
        "mounts": "contexts mount_words remote remounting sourcing",
        "networks": "routes",
        "paths": "acting filestat opening permitting pinning pins wanted",
        "short_ways": "name_deeds plans",
    }.items():
        inside = f"{folder}." if folder else ""
        rooms += [folder] * bool(folder) + [inside + each for each in known.split()]
    assert loaded == repr([f"proctor.performing.{each}" for each in sorted(rooms)])
