"""The own tests of SQLite and PostgreSQL, natively and with nothing synchronised.  ``make test-databases`` gets them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.performing.families.test_quiet import INITDB, quietly
from tests.performing.support.callers import open_directory

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif("PROCTOR_DATABASES" not in os.environ, reason="make test-databases"),
]
CACHE = Path(os.environ.get("PROCTOR_DATABASES", ""))
SQLITE = os.environ.get("PROCTOR_SQLITE_TESTS", "").split()
SCHEDULE = os.environ.get("PROCTOR_POSTGRESQL_SCHEDULE", "")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-ec")
#: A server that synchronises, which pg_regress's own does not.
POSTGRESQL = """
export PATH=$1:$PATH PGHOST=$2; cd $2
initdb -N -A trust -U postgres --no-locale -E UTF8 -D data >/dev/null
printf "max_connections=40\nfsync=on\nlisten_addresses=''\nunix_socket_directories='%s'\n" $2 >> data/postgresql.conf
pg_ctl -w -D data -l log start >/dev/null
"$1/../lib/pgxs/src/test/regress/pg_regress" --host=$2 --user=postgres --inputdir=$3 --outputdir=$2 --bindir="$1" --dlpath=$3 \
    --max-connections=20 --schedule=$3/$4 || true
pg_ctl -w -D data stop -m fast >/dev/null
"""


@pytest.fixture
def top() -> Iterator[str]:
    with open_directory() as made:
        os.chown(made, 65534, 65534)
        yield os.fsdecode(made)


@pytest.mark.parametrize("name", SQLITE or ["none"])
def test_sqlites(top: str, name: str) -> None:
    said = []
    for quiet in (False, True):
        place = f"{top}/{quiet}"
        script = f"mkdir {place}; cd {place}; {CACHE}/sqlite/testfixture {CACHE}/sqlite-source/test/{name} || true"
        done = quietly([*NOBODY, script], quiet, timeout=7200)
        (counted,) = re.findall(r"^(\d+) errors out of (\d+) tests", done.stdout, re.M)
        said.append((counted, sorted(re.findall(r"^! (\S+) expected", done.stdout, re.M))))
        shutil.rmtree(place)
    assert said[0] == said[1]
    assert int(said[0][0][1]) > 0


def test_postgresqls(top: str) -> None:
    assert INITDB is not None
    said = []
    for quiet in (False, True):
        place = f"{top}/{quiet}"
        script = f'mkdir "$2"; {POSTGRESQL}'
        words = [str(INITDB.parent), place, str(CACHE / "postgresql"), SCHEDULE]
        done = quietly([*NOBODY, script, "sh", *words], quiet, timeout=7200)
        came = dict(
            re.findall(r"^(?:test)? *(\w[\w.]*) +\.\.\. (ok|FAILED|failed)", done.stdout, re.M)
        )
        assert came, done.stderr
        said.append(came)
        shutil.rmtree(place)
    assert said[0] == said[1]
    assert list(said[0].values()).count("ok") > len(said[0]) * 0.9
