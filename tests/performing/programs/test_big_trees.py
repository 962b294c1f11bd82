"""Trees of many files, natively and performed: find, cp, rsync and rm, four at a time.

PROCTOR_FILES is how many files a tree has (10,000 in make test-races).
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

import proctor
from tests.performing.programs.test_under_supervision import MAP
from tests.performing.programs.test_workloads import POLICY, tops, tree

__all__ = ["tops"]  # a fixture

FILES = int(os.environ.get("PROCTOR_FILES", "100"))
pytestmark = [
    pytest.mark.skipif(shutil.which("rsync") is None, reason="no rsync"),
    pytest.mark.timeout(3000),
]

SCRIPT = r"""
set -e; umask 022
mkdir src; cd src
for d in $(seq $(($1 / 100 + 1))); do mkdir $d; (cd $d; seq $(($d * 100 - 99)) $(($d * 100)) | while read f; do echo $f > f$f; done); done
ln -s 1 link; mkfifo fifo; ln 1/f1 hard
cd ..
one() {
    mkdir $1; cd $1
    cp -a ../src copy
    rsync -a copy/ synced/
    find copy -type f -exec chmod 640 {} +
    find copy -type f -name '*7' -exec chmod 400 {} ';'
    if [ "$2" = root ]; then find copy -exec chown -h 5:6 {} +; fi
    find synced -type f -name '*3' -exec rm {} +
    find synced -type f -name '*55' -exec sh -c 'for f; do mv "$f" "$f.moved"; ln "$f.moved" "$f.linked"; ln -s here "$f"; done' sh {} +
    find synced -type d -name '[0-9]' -exec mkdir {}/new ';'
    rsync -a --delete synced/ copy/
    cp -a synced gone; rm -rf gone
    find copy -depth -type d -empty -exec rmdir {} +
}
for n in 1 2 3 4; do (one t$n "$2") & pids="$pids $!"; done
for each in $pids; do wait $each; done
"""


def run(top: str, *handlers: Any, **options: Any) -> None:
    root = os.geteuid() == 0
    done = proctor.run(
        ["sh", "-c", SCRIPT, "sh", str(FILES), "root" if root else "user"],
        handlers,
        cwd=top,
        userns=MAP if root else True,
        capture_output=True,
        timeout=2800,
        **options,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_many_files_come_out_as_they_would(tops: tuple[str, str]) -> None:
    run(tops[0])
    run(tops[1], *POLICY.handlers(), filter=POLICY.filter(), **POLICY.supervisor_options())
    native, performed = map(tree, tops)
    assert len(native) > FILES * 7
    assert len([path for path in native if path.endswith(".moved")]) > 4
    wrong = [
        (path, native.get(path), performed.get(path))
        for path in {**native, **performed}
        if native.get(path) != performed.get(path)
    ]
    assert not wrong, f"{len(wrong)} of {len(native)} differ:\n" + "\n".join(map(str, wrong[:9]))
