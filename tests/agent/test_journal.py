"""The agent's log in systemd's journal, played by a socket."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from proctor.agent.audit import Journal
from proctor.observe.events import Trouble
from proctor.observe.jsonlog import JsonLog


def test_a_record_each(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "journal"))
        journald.settimeout(30)
        broken: list[OSError] = []
        writer = Journal(broken.append, str(tmp_path / "journal"))
        log = JsonLog(writer)
        for text in ("one", "two\nPRIORITY=0\nMESSAGE=forged"):
            log(Trouble(text, "here", 1, None))
            fields = journald.recv(1 << 18).decode().splitlines()
            assert fields[:2] == ["PRIORITY=6", "SYSLOG_IDENTIFIER=proctor"]
            (message,) = fields[2:]
            assert json.loads(message.removeprefix("MESSAGE="))["text"] == text
        assert not broken
    os.unlink(tmp_path / "journal")
    writer.put("{}\n")
    assert writer.close(30)
    assert len(broken) == 1


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Journal(print, str(tmp_path / "none"))
