"""Debian's server of SMB for tests of mounting: Samba's smbd(8), with all that is its own in a directory of the test's."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.performing.support.networks import within
from tests.support.kernel import RELEASE
from tests.support.processes import eventually

#: Who may log in. A comma in a password is the hardest thing that options of CIFS may hold; before Linux 5.11 fsconfig(2)
#: takes none (``legacy_parse_param`` of fs/fs_context.c).
USER, PASSWORD = "root", "open,sesame" if RELEASE >= (5, 11) else "open-sesame"
SHARE = "films"
_SETTINGS = """
[global]
server role = standalone server
passdb backend = tdbsam:{place}/users
private dir = {place}
lock directory = {place}
state directory = {place}
cache directory = {place}
pid directory = {place}
ncalrpc dir = {place}/pipes
log file = {place}/log
smb ports = 445
disable netbios = yes
load printers = no
disable spoolss = yes
printing = bsd
[films]
path = {place}/films
read only = no
"""


def is_here() -> bool:
    return shutil.which("smbd") is not None and shutil.which("smbpasswd") is not None


@contextmanager
def serving(place: Path, network: str) -> Iterator[Path]:
    """While it answers at port 445: the directory that it shares, with a file ``hello``.

    :param network: a path of the network namespace that it is to be in.
    """
    shared, settings = place / SHARE, place / "settings"
    shared.mkdir()
    (shared / "hello").write_text("from the server\n")
    settings.write_text(_SETTINGS.format(place=place))
    subprocess.run(
        ["smbpasswd", "-c", settings, "-s", "-a", USER], input=f"{PASSWORD}\n" * 2, text=True, check=True, capture_output=True,
    )  # fmt: skip
    server = subprocess.Popen(
        ["nsenter", f"--net={network}", "smbd", "-F", "--no-process-group", "-s", settings],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,  # with it ends all of its process group
    )  # fmt: skip
    try:
        eventually("a server of SMB", lambda: within(network, _answers))
        yield shared
    finally:
        server.terminate()  # with all that it began
        server.wait()


def _answers() -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", 445), 5):
        return True
    return False
