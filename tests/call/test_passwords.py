"""Passwords among the options of mounts are in no line, no log and no tip."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from proctor.call import passwords
from proctor.call.structured import structured
from proctor.observe.facts import facts
from proctor.performing import suggesting
from proctor.performing.families import mount
from proctor.performing.remote import read
from proctor.performing.trouble import Said
from proctor.testing import UNMAPPED, FakeTarget

from . import fakes

#: With commas in it, as CIFS takes them.
PASSWORD = b"open,,sesame"
NAMES = (
    b"pass",
    b"password",
    b"PASSWORD2",
    b"passwd",
    b"secret",
    b"pwd",
    b"credentials",
    b"x-passphrase",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "form", [b"%s=%s", b"rw,%s=%s", b"%s=%s,vers=3.0", b"a,,b,user=me,%s=%s,x", b"%s=%s,", b"%s=%s,%s=%s"]
)  # fmt: skip
def test_mount_options(name: bytes, form: bytes) -> None:
    data = form % ((name, PASSWORD) * (form.count(b"%s") // 2))
    call = FakeTarget().call("mount", b"//server/share", b"/mnt", b"cifs", 0, data)
    for text in (call.describe(), facts(call, Nobody(), read=True)):
        assert "sesame" not in text and "open" not in text, text
        assert f"{name.decode()}=***" in text
    needed = suggesting.needed(call)
    assert needed is not None
    assert needed["remote"]["//server/share"]["options"].encode() == data.replace(PASSWORD, b"***")
    assert set(read(needed["remote"])) == {b"//server/share"}


@pytest.mark.parametrize("key", [b"a,password", b"password=x"])
def test_keys_of_odd_bytes(key: bytes) -> None:
    for command in (1, 2):
        made = FakeTarget().call("fsconfig", 3, command, key, b"sesame", 6)
        for text in (made.describe(), facts(made, Nobody(), read=True)):
            assert "sesame" not in text, text


class Nobody:
    def told(self, call: object) -> str:
        return ""


def test_others_are_shown() -> None:
    data = b"ro,user=me,compass_,,x=1,sec=krb5,bypas=2,x"
    call = FakeTarget().call("mount", b"a", b"/mnt", b"cifs", 0, data)
    assert passwords.hidden(data) == data
    assert data.decode() in call.describe()


def test_what_is_cut_or_ends_early() -> None:
    long = b"a" * 1015 + b",pass=" + b"s" * 3000
    shown = FakeTarget().call("mount", b"a", b"/m", b"cifs", 0, long).describe()
    assert '"' + "a" * 1015 + ',pass=***"...' in shown
    torn = fakes.call("mount", 0, 0, 0, 0, 0x1000, memory={0x1000: b"pass=sesame!"})
    assert '"pass=***"...' in torn.describe()


@pytest.mark.parametrize("name", NAMES)
def test_a_contexts_strings(name: bytes) -> None:
    for command in (1, 2, 3):
        made = FakeTarget().call("fsconfig", 3, command, name, b"sesame", 6)
        shown = structured(made, read=True)
        assert shown["key"] == name.decode() and shown["value"].startswith("0x"), shown
        assert "sesame" not in made.describe() and "sesame" not in json.dumps(shown)
        made.args["value"]
        for reads in (False, True):  # not what a handler has looked at, either
            assert "sesame" not in made.describe(reads)
            assert "sesame" not in json.dumps(structured(made, read=reads))
    plain = FakeTarget().call("fsconfig", 3, 1, b"user", b"sesame", 0)
    assert 'FSCONFIG_SET_STRING, "user", "sesame"' in plain.describe()
    assert structured(plain, read=True)["value"] == "sesame"
    unread = FakeTarget().call("fsconfig", 3, 1, UNMAPPED, b"sesame", 0)
    assert "sesame" not in unread.describe()


@pytest.mark.parametrize("value", [b"a/sesame", b"panic"])
def test_what_is_refused(value: bytes) -> None:
    key = b"pass" if value != b"panic" else b"passerrors"
    with pytest.raises(Said) as said:
        mount.option(key, value)
    assert said.value.errno == errno.EPERM
    assert f"{key.decode()}=***" in str(said.value) and value.decode() not in str(said.value)


def test_two_commas_are_one_of_a_password_of_cifs() -> None:
    given: dict[str, Any] = {"s": {"type": "cifs", "options": "user=me,,pass=a,,b,,,,c,ro"}}
    assert read(given)[b"s"].options == ((b"user", b"me,pass=a,b,,c"), (b"ro", None))
    given["s"] = {"type": "smb3", "options": "pass=a,,b,ro"}
    assert read(given)[b"s"].options == ((b"pass", b"a,b"), (b"ro", None))
