"""What people run on trees of files, natively and with every open, name and attribute performed: the same
trees come of it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from typing import Any

import pytest

import proctor
from proctor.policy import loads
from tests.performing.programs.test_under_supervision import MAP
from tests.performing.support.callers import open_directory

OPENS = '"open", "openat", "openat2", "creat"'
NAMES = (
    '"mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", '
    '"symlink", "symlinkat"'
)
ATTRIBUTES = '"chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat", "utime", "utimes", "futimesat", "utimensat"'
#: A rule about paths before each, so that all of them are asked about.
POLICY = loads(
    "".join(
        f'[[rule]]\nname = "no {name}"\ncalls = [{calls}]\nwhen = {{ path = "/**/secret/**" }}\ndeny = "EACCES"\n'
        f'[[rule]]\nname = "{name}"\ncalls = [{calls}]\nperform = true\n'
        for name, calls in (("opens", OPENS), ("names", NAMES), ("attributes", ATTRIBUTES))
    )
)
#: With the tools of every system, and tar, find and git where they are.
SCRIPT = r"""
set -e; umask 022
mkdir -p src; cd src
for d in a b c; do
    mkdir -p $d/x/y
    for i in 1 2 3 4 5 6 7 8; do echo $d$i > $d/x/f$i; ln -s ../f$i $d/x/y/l$i; done
    chmod 750 $d; chmod 4711 $d/x/f1; ln $d/x/f2 $d/x/hard; mkfifo $d/fifo
done
cd ..
for n in 1 2 3 4; do cp -a src copy$n & done; wait
tar -cf t.tar src; mkdir un; tar -xpf t.tar -C un
find copy2 -type f -exec chmod u+x {} +
find copy2 -type d -exec touch -d '2020-01-01 00:00:01' {} +
mv copy1/a copy1/moved; mv -T copy1/b copy1/c2; rm -rf copy1/c copy4
if [ "$(tail -n 1 /proc/self/uid_map | tr -s ' ' | cut -d' ' -f4)" != 1 ]; then chown -R 7:8 copy3; chown -h 9 copy3/a/x/y/l1; fi
git init -q repo; cd repo; git config user.email a@b; git config user.name n
cp -r ../src/a .; git add .; git commit -qm x; git clone -q . ../clone; git gc -q; cd ..
sed -i s/a1/z/ un/src/a/x/f1; rm t.tar
"""


def tree(top: str) -> dict[str, Any]:
    """All of it, but for what git names by time and chance."""
    found = {}
    for directory, directories, files in os.walk(top):
        directories[:] = [each for each in directories if each != ".git"]
        for name in [*directories, *files]:
            path = os.path.join(directory, name)
            at = os.lstat(path)
            content = b""
            if stat.S_ISLNK(at.st_mode):
                content = os.fsencode(os.readlink(path))
            elif stat.S_ISREG(at.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            set_time = at.st_mtime if at.st_mtime < 1.6e9 else 0
            found[os.path.relpath(path, top)] = (
                oct(at.st_mode), at.st_uid, at.st_gid, at.st_nlink, set_time, content,
            )  # fmt: skip
    return found


@pytest.fixture
def tops() -> Iterator[tuple[str, str]]:
    with open_directory() as first, open_directory() as second:
        for each in (first, second):
            os.chmod(each, 0o755)
            if os.geteuid() == 0:
                os.chown(each, 100000, 100000)
        yield os.fsdecode(first), os.fsdecode(second)


def run(top: str, handlers: Any, **options: Any) -> None:
    if os.geteuid() == 0:
        options["userns"] = MAP
    else:
        options["userns"] = True
    done = proctor.run(
        ["sh", "-c", SCRIPT],
        handlers,
        cwd=top,
        env={**os.environ, "HOME": top, "GIT_CONFIG_NOSYSTEM": "1"},
        capture_output=True,
        timeout=100,
        **options,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.mark.skipif(not shutil.which("git"), reason="no git")
def test_the_same_trees_come_of_it(tops: tuple[str, str]) -> None:
    run(tops[0], [])
    run(tops[1], POLICY.handlers(), filter=POLICY.filter(), **POLICY.supervisor_options())
    native, performed = map(tree, tops)
    assert len(native) > 200
    assert "copy2/a/x/f1" in native
    assert native == performed
