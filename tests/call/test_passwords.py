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
from proctor.performing.mounts import mount_words
from proctor.performing.mounts.remote import read
from proctor.performing.trouble import Said
from proctor.policy import loads
from proctor.policy.explain import exactly
from proctor.policy.look import Look
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


@pytest.mark.parametrize("text", [
    b"sep=;user=me;pass=open,sesame;;;ro", b"sep=^pass=a,sesame^x", b"sep=]a]pass=sesame,open]d", b"sep=p,pass=sesame",
    b"sep=,pass=sesame", b"sep=\\pass=a,sesame",
])  # fmt: skip
def test_another_separator(text: bytes) -> None:
    """What CIFS took before there was fsconfig(2), and still takes of mount(2)."""
    call = FakeTarget().call("mount", b"//server/share", b"/mnt", b"cifs", 0, text)
    for shown in (call.describe(), facts(call, Nobody(), read=True), str(suggesting.needed(call))):
        assert "sesame" not in shown and "open" not in shown and "pass=***" in shown, shown
    assert passwords.hidden(b"sep=;user=me,x;ro") == b"sep=;user=me,x;ro"


@pytest.mark.parametrize("made", [
    ("mount", b"//me:sesame@server/share", b"/m", b"cifs", 0, 0), ("mount", b"https://me:ses@sesame@server/", b"/m", b"davfs", 0, 0),
    ("mount", b"me:sesame@server", b"/m", b"9p", 0, 0), ("fsconfig", 3, 1, b"source", b"//me:sesame@server/share", 0),
    ("fsconfig", 3, 0, b"pass=sesame", 0, 0), ("fsconfig", 3, 1, b"proxy", b"http://me:sesame@server/", 0),
])  # fmt: skip
@pytest.mark.parametrize("decoded", [False, True])
def test_in_sources_and_keys(made: tuple[Any, ...], decoded: bool) -> None:
    call = FakeTarget().call(*made)
    if decoded:
        assert [call.args[name] for name in ("source", "key", "value") if name in call.args]
    for reads in (False, True) if decoded else (True,):
        for shown in (
            call.describe(reads),
            facts(call, Nobody(), read=reads),
            str(suggesting.needed(call)),
        ):
            assert "sesame" not in shown, shown
    assert "***" in call.describe() and "***" in json.dumps(structured(call, read=True))


def test_others_of_sources_are_shown() -> None:
    for source in (b"server:/export", b"//server/share", b"//[fe80::1]/share", b"me@server:/a"):
        assert passwords.source(source) == source
        call = FakeTarget().call("mount", source, b"/m", b"nfs", 0, 0)
        assert f'mount("{source.decode()}"' in call.describe()


WORDS = (b"mount.cifs", b"//server/share", b"-o", b"user=me,password=sesame,ro", b"http://me:sesame@server/", b"--token=sesame")  # fmt: skip


@pytest.mark.parametrize("decoded", [False, True])
def test_in_words_of_a_command(decoded: bool) -> None:
    call = FakeTarget().call("execve", b"/sbin/mount.cifs", [*WORDS], [b"PASSWD=sesame"])
    if decoded:
        assert call.args["argv"] == WORDS
    for shown in (call.describe(), facts(call, Nobody(), read=True), call.describe(False)):
        assert "sesame" not in shown, shown
    words = ["-o", "user=me,password=***,ro", "http://me:***@server/", "--token=***"]
    assert json.dumps(words)[1:] in call.describe()
    assert structured(call, read=True)["argv"][2:] == words


@pytest.mark.parametrize("word", [
    b"--password=a,sesame", b"PASSWORD=a,,b, sesame", b"--env=DB_PASSWORD=sesame", b"--opt=o=user=me,password=sesame",
    b"A=1 mysql --password='a sesame'", b"https://server/?a=1&token=sesame", b"a=1;secret=sesame", b"x='y' \"PASSWORD=sesame\"",
    b"user=me,pass=a,,sesame,ro", b"https://me:" + b"a" * 128 + b"sesame@server/",
])  # fmt: skip
def test_wherever_it_is_in_a_word(word: bytes) -> None:
    """A word may be a line of a shell, and cut off before what tells that it is one is seen."""
    call = FakeTarget().call("execve", b"/bin/sh", [b"sh", b"-c", word], 0)
    for shown in (call.describe(), facts(call, Nobody(), read=True)):
        assert "sesame" not in shown and "aaa" not in shown and "***" in shown, shown


def test_looking_for_it_takes_no_time() -> None:
    """Whatever a caller has written there: all others would wait.  In the square of a text's length this would take half an hour, and the
    limit of all tests ends it."""
    texts = [piece * ((1 << 18) // len(piece)) for piece in (
        b"pass", b"//", b",pass", b"//a:", b"a:", b"=", b",", b"pass=", b"sep=", b"@", b"://:@", b"pass ", b"sep=;;", b"\t",
    )]  # fmt: skip
    for text in texts:
        for each in (text, b"sep=;" + text):
            passwords.word(each), passwords.hidden(each), passwords.source(each)


def test_no_rule_has_it() -> None:
    """What a refusal proposes has stars; the rule by which an answer would be kept is none, so that it is asked for again."""
    rule = '[[rule]]\nname = "r"\ncalls = ["execve"]\nwhen = {{ argv = "mount.cifs **" }}\n{}\n'
    rule += '[[rule]]\nname = "last"\ncalls = ["execve"]\ndeny = "EPERM"\n'
    call = FakeTarget().call("execve", b"/usr/bin/env", [b"mount.cifs", WORDS[3]], 0)
    policy = loads('arches = ["x86_64"]\n' + rule.format('deny = "EXDEV"'))
    tip = policy.explain(call).tip
    assert "sesame" not in tip and r"password=\\*\\*\\*" in tip, tip
    asks = loads(
        'arches = ["x86_64"]\n' + rule.format("ask = { how = 'terminal', default = 'EPERM' }")
    )
    pinned = {"path": b"/usr/bin/env"}
    assert exactly(Look(call, pinned), asks.decide(call)) == ""
    plain = FakeTarget().call("execve", b"/usr/bin/env", [b"mount.cifs", b"-V"], 0)
    assert "-V" in exactly(Look(plain, pinned), asks.decide(plain))


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
        mount_words.option(key, value)
    assert said.value.errno == errno.EPERM
    assert f"{key.decode()}=***" in str(said.value) and value.decode() not in str(said.value)


def test_two_commas_are_one_of_a_password_of_cifs() -> None:
    given: dict[str, Any] = {"s": {"type": "cifs", "options": "user=me,,pass=a,,b,,,,c,ro"}}
    assert read(given)[b"s"].options == ((b"user", b"me,pass=a,b,,c"), (b"ro", None))
    given["s"] = {"type": "smb3", "options": "pass=a,,b,ro"}
    assert read(given)[b"s"].options == ((b"pass", b"a,b"), (b"ro", None))
