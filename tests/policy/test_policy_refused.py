"""Wrong policies are refused with one sentence that says where, what, and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proctor.errors import PolicyError
from proctor.policy import load, loads
from tests.policy.reference import toml


def rule(body: str, name: str = "r") -> str:
    """A rule whose body begins in line 3 (its head and name stand in lines 1 and 2)."""
    return f'[[rule]]\nname = "{name}"\n{body}\n'


def refusal(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        loads(text, "f.toml")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith("f.toml")
    return sentence


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # TOML
        ("x = [1,", "f.toml:1: "),
        ("a = 1\na = 2", "f.toml:2: Cannot overwrite a value"),
        ('\na = "\\d"', "in double quotes a backslash is written twice"),
        ("a = EPERM", """f.toml:1:5: Invalid value; a text is written in quotes, as "EPERM", and"""),
        ("x = " + "9" * 5000, "thousands of digits"),
        ("x = " + "[" * 50_000, "nested too deeply"),
        # shape
        ('defalt = "allow"', 'f.toml:1: defalt: no such key; did you mean "default"?'),
        ("version = 2", "f.toml:1: version: this is version 2 of the format"),
        ('version = "1"', "f.toml:1: version: expected a whole number, got a string"),
        ('[rule]\nname = "x"', "begin each with [[rule]], not [rule]"),
        ("rule = 3", "rule: expected a list, got a whole number"),
        (rule('calls = "mknod"\ndeny = 1'), "f.toml:3: rule[0].calls: expected a list, got a string"),
        (rule("deny = 1"), 'f.toml:1: rule[0]: "calls" is missing'),
        (rule('calls = ["mknod"]\nretrun = 0'), 'f.toml:4: rule[0].retrun: no such key; did you mean "return"?'),
        (rule('calls = ["mknod"]\ndeny = 1\npath = "/x"'), 'conditions stand inside of "when"'),
        (rule('calls = ["mknod"]\nwhen = { mode = 1.5 }\ndeny = 1'), "got a number with a point"),
        (rule('calls = ["mknod"]\nwhen = { mode = true }\ndeny = 1'), "f.toml:4: rule[0].when"),
        (rule('calls = ["mknod"]\ndeny = 2020-01-01'), "rule[0].deny: expected"),
        # asking
        (rule('calls = ["mkdir"]\nask = {}'), 'f.toml:4: rule[0].ask: "how" is missing'),
        (rule('calls = ["mkdir"]\nask = "terminal"'), "f.toml:4: rule[0].ask: expected a table"),
        (rule('calls = ["mkdir"]\nask = { how = "comand" }'), 'no value of it; did you mean "command"?'),
        (rule('calls = ["mkdir"]\nask = { how = "command" }'), 'how = "command" needs "run"'),
        (rule('calls = ["mkdir"]\nask = { how = "command", run = ["x"] }'), "the absolute path of a program"),
        (rule('calls = ["mkdir"]\nask = { how = "command", run = ["/x"], at = "/y" }'), 'takes no "at"'),
        (rule('calls = ["mkdir"]\nask = { how = "socket", at = "x" }'), "an absolute path of at most"),
        (rule('calls = ["mkdir"]\nask = { how = "http", at = "ftp://x" }'), "http://HOST[:PORT]/PATH is wanted"),
        (rule('calls = ["mkdir"]\nask = { how = "http", at = "http://u@x/" }'), "http://HOST[:PORT]/PATH is wanted"),
        (rule('calls = ["mkdir"]\nask = { how = "terminal", timeout = 0 }'), "ask.timeout: seconds, more than 0"),
        (rule('calls = ["mkdir"]\nask = { how = "terminal", default = "kill" }'), '"allow" or an errno'),
        (rule('calls = ["mkdir"]\nask = { how = "terminal", remember = "ever" }'), "ask.remember: "),
        (rule('calls = ["mkdir"]\nask = { how = "terminal", unsafe = " " }'), "say why the race"),
        (rule('calls = ["mkdir"]\nask = { how = "terminal", perform = false }'), "leave this out"),
        (rule('calls = ["kill"]\nask = { how = "terminal", perform = {} }'), "kill cannot be performed"),
        (rule('calls = ["mkdir"]\nask = { how = "terminal", who = "x" }'), "ask.who: no such key"),
        (rule('calls = ["mkdir"]\nask = { how = "terminal" }\ndeadline = 90'), "its time is the timeout of ask"),
        ("deadline = 10\n" + rule('calls = ["mkdir"]\nask = { how = "terminal" }'), "ask: the call is answered after 10"),
        (rule('calls = ["chdir"]\nwhen = { path = "/x" }\nask = { how = "terminal" }'), "would let chdir run after"),
        (rule('calls = ["kill"]\ndelay = 0\ndeny = 1'), "delay: seconds, more than 0"),
        ("deadline = 1\n" + rule('calls = ["kill"]\ndelay = 2\ndeny = 1'), "delay: the call is answered after 1"),
        (rule('calls = ["kill"]\nkill = "all"'), 'or "container"'),
        (rule('calls = ["mkdir"]\nask = { how = "terminal", default = "deny" }'), 'f.toml:4: rule[0].ask.default: no verdict "deny"; write "allow" or an errno'),
        (rule('calls = ["mkdir"]\ndeny = "eperm"'), 'no errno "eperm"; did you mean "EPERM"?'),
        (rule('calls = ["mkdir"]\nwhen = { mode = "0644" }\ndeny = 1'), '"0644" is not a number and not a constant for mode of mkdir; write 0o644'),
        (rule('calls = ["mknod"]\nwhen = { mode = "S_IFCHR|0666" }\ndeny = 1'), "; write 0o666"),
        (rule('calls = ["mknod"]\nwhen = { mode = "99999999999999999999" }\ndeny = 1'), "f.toml:4: rule[0].when.mode: 99999999999999999999 is no value"),
        ("version = 1\nversion = 1", "f.toml:2: Cannot overwrite a value"),
        # top level words
        ('default = "alow"', 'no verdict "alow"; did you mean "allow"?'),
        ('foreign_arch = "EPERMM"', 'did you mean "EPERM"?'),
        ('on_error = "allow"', "would open every rule"),
        ('arches = ["x86_65"]', 'arches[0]: no architecture "x86_65"; did you mean "x86_64"?'),
        ("arches = []", "no architecture is left"),
        (rule('calls = ["mkdir"]\nwhen = { path = "a\\nb" }\ndeny = 1'), "resolve to): /a\\nb or **/a\\nb"),
        (rule('calls = ["connect"]\nwhen = { address = "\\u001b[2J" }\ndeny = 1'), 'no address family "\\u001B[2J"'),
        *(
            (rule(f'calls = ["connect"]\nwhen = {{ address = "{address}" }}\ndeny = 1'), f"f.toml:4: rule[0].when.address: {said}")
            for address, said in {
                "INET": 'no address family "INET"; did you mean "inet"?',
                "AF_UNIX": 'no address family "AF_UNIX"; did you mean "unix"?',
                "127.0.0.1:80": 'no address family "127.0.0.1"; write "inet:127.0.0.1:80"',
                "10.0.0.0/8": 'no address family "10.0.0.0/8"; write "inet:10.0.0.0/8"',
                "::1": 'no address family ""; write "inet6:::1"',
                "localhost:80": 'no address family "localhost"; write "inet:ADDRESS:PORT", "unix:/PATH" or',
                "inet:10.0.0.1/8": "10.0.0.1/8 has host bits set; write inet:10.0.0.0/8",
                "inet:localhost:80": "Expected 4 octets in 'localhost'; write inet:ADDRESS, inet:NETWORK/BITS or inet:*, in numbers",
                "inet:": "Address cannot be empty; write inet:ADDRESS",
            }.items()
        ),
        ('"a\\nb" = 1', "a\\nb: no such key"),
        # deadlines
        ("deadline = 0", "f.toml:1: deadline: a deadline is in seconds, more than 0 and at most 86400"),
        ("deadline = -1.5", "f.toml:1: deadline: a deadline is in seconds"),
        ("\ndeadline = nan", "f.toml:2: deadline: a deadline is in seconds"),
        ("deadline = inf", "f.toml:1: deadline: a deadline is in seconds"),
        ("deadline = 86401", "f.toml:1: deadline: a deadline is in seconds"),
        ('deadline = "2s"', "f.toml:1: deadline: expected a number, got a string"),
        ("deadline = true", "f.toml:1: deadline: expected a number, got true or false"),
        ('deadlin = 2', 'f.toml:1: deadlin: no such key; did you mean "deadline"?'),
        ('on_deadline = "EPERM"', "f.toml:1: on_deadline: nothing here has a deadline; write deadline = 10"),
        ('deadline = 1\non_deadline = "allow"', "f.toml:2: on_deadline: the answer when time is over is an errno"),
        ('deadline = 1\non_deadline = "ETIMEOUT"', 'f.toml:2: on_deadline: no verdict "ETIMEOUT"; did you mean "ETIMEDOUT"?'),
        ("deadline = 1\non_deadline = 5", "f.toml:2: on_deadline: expected a string, got a whole number"),
        (rule('calls = ["open"]\nperform = true\ndeadline = 0'), "f.toml:5: rule[0].deadline: a deadline is in seconds"),
        (rule('calls = ["kill"]\ndeny = 1\nreport = true\ndeadline = 3'), 'f.toml:6: rule[0].deadline: "r" is decided at once'),
        (
            rule('calls = ["open"]\nwhen = { path = "/x/**" }\nperform = true\ndeadline = 3')
            + rule('calls = ["openat", "open"]\nperform = true\ndeadline = 0.5', name="s"),
            'f.toml:11: rule[1].deadline: "r" (rule[0]) gives open 3 seconds and this one 0.5: which rule takes',
        ),
        # performing
        ('nested = "alow"', 'f.toml:1: nested: "alow" is no value of it; did you mean "allow"?'),
        ('cgroup = "x"', 'cgroup: "x" is no value of it; it is "join" or "ignore"'),
        ("cgroup = true", "cgroup: expected a string, got true or false"),
        ("\nlimit = 0", "f.toml:2: limit: a number from 1 to 10000, not 0"),
        ("workers = 10001", "workers: a number from 1 to 10000, not 10001"),
        ("in_flight = 0", "in_flight: a number from 1 to 10000, not 0"),
        ("rate = 0.5", "rate: a number in a second, from 1 to"),
        ("audit_rate = nan", "audit_rate: a number in a second, from 1 to"),
        ('audit = "al"', 'audit: "al" is no value of it; did you mean "all"?'),
        ("workers = 1.5", "workers: expected a whole number, got a number with a point"),
        # names and verdicts
        (rule('calls = ["mknod"]\ndeny = 1', name="a\\nb"), "is not a name for logs"),
        (rule('calls = ["mknod"]\ndeny = 1', name=" "), "is not a name for logs"),
        (rule('calls = ["mknod"]\ndeny = 1') + rule('calls = ["open"]\ndeny = 1'), 'f.toml:6: rule[1].name: rule[0] has the name "r" already'),
        (rule('calls = ["mknod"]'), "this one has none"),
        (rule('calls = ["mknod"]\ndeny = "EPERM"\nallow = true'), "this one has deny and allow"),
        (rule('calls = ["mknod"]\nallow = false'), "allow = false says nothing"),
        (rule('calls = ["mknod"]\ndeny = "EPREM"'), 'f.toml:4: rule[0].deny: no errno "EPREM"; did you mean "EPERM"?'),
        (rule('calls = ["mknod"]\ndeny = 0'), "an errno is from 1 to 4095"),
        (rule('calls = ["mknod"]\nreturn = -13'), 'write deny = "EACCES"'),
        (rule(f'calls = ["mknod"]\nreturn = {1 << 63}'), "does not fit into a register"),
        (rule('calls = ["mknod"]\nallow = "yes"'), "write true, or"),
        (rule('calls = ["mknod"]\nallow = "unsafe:  "'), "write true, or"),
        (rule('calls = ["mknod"]\nperform = { devises = 1 }'), 'f.toml:4: rule[0].perform: the family mknod has no option "devises"'),
        (rule('calls = ["mknod", "open"]\nperform = { x = 1 }'), "these options would be of mknod and open"),
        (rule('calls = ["ptrace"]\nperform = true'), "ptrace cannot be performed on a caller's behalf"),
        (
            rule('calls = ["mkdir", "chdir", "getcwd"]\nperform = true'),
            'chdir, getcwd cannot be performed on a caller\'s behalf; the others can: leave these to another rule, or the default, by "!chdir", "!getcwd"',
        ),
        # calls
        (rule("calls = []\ndeny = 1"), "at least one system call"),
        (rule('calls = ["mknodd"]\ndeny = 1'), 'f.toml:3: rule[0].calls[0]: no system call "mknodd"; did you mean "mknod"?'),
        (rule('calls = ["mknod", "%fil"]\ndeny = 1'), 'rule[0].calls[1]: no group "%fil"; did you mean "%file"?'),
        (rule('calls = ["mknod", "!mknod"]\ndeny = 1'), "nothing is left"),
        (rule('calls = ["!%file"]\ndeny = 1'), "nothing is left"),
        ('arches = ["aarch64"]\n' + rule('calls = ["mknod"]\ndeny = 1'), "aarch64 has no mknod"),
        (rule('calls = ["%desc"]\nreturn = 5'), '%desc would bring them in: take them out, "!close", "!read", "!write", or'),
        # conditions
        (rule('calls = ["mknod"]\nwhen = { mod = 1 }\ndeny = 1'), 'f.toml:4: rule[0].when.mod: mknod on x86_64 has no argument "mod"; did you mean "mode"?'),
        (rule('calls = ["chmod"]\nwhen = { mode = "S_ISUID" }\ndeny = 1'), 'mode = { all = ["S_ISUID"] }, any'),
        (rule('calls = ["chmod"]\nwhen = { mode = "!= S_ISUID|S_ISGID" }\ndeny = 1'), 'all = ["S_ISUID", "S_ISGID"]'),
        (rule('calls = ["openat"]\nwhen = { flags = "!= O_CREAT" }\ndeny = 1'), 'flags = { all = ["O_CREAT"] }'),
        (rule('calls = ["getpid"]\nwhen = { mode = 1 }\ndeny = 1'), "it has none"),
        ('arches = ["x86_64", "i386"]\n' + rule('calls = ["mmap"]\nwhen = { prot = 1 }\ndeny = 1'),
         'mmap on i386 has no argument "prot"; it has arg. arches = [...] without "i386" leaves such programs out'),
        (rule('calls = ["openat"]\nwhen = { device = "1:3" }\ndeny = 1'), "openat on x86_64 has no device number"),
        (rule('calls = ["getpid"]\nwhen = { path = "/x" }\ndeny = 1'), "getpid on x86_64 has no path argument"),
        (rule('calls = ["openat2"]\nwhen = { access = "read" }\ndeny = 1'), "openat2 on x86_64 has no open flags in a register"),
        (rule('calls = ["mknod"]\nwhen = { device = "1:3" }\ndeny = 1'), 'add type = "char" (or "block")'),
        (rule('calls = ["mknod"]\nwhen = { type = "char", device = "3" }\ndeny = 1'), 'write "MAJOR:MINOR"'),
        (rule('calls = ["mknod"]\nwhen = { type = "char", device = "1:x" }\ndeny = 1'), '"x" is not a number from 0 to 1048575'),
        (rule('calls = ["mknod"]\nwhen = { type = "char", device = "4096:0" }\ndeny = 1'), "from 0 to 4095"),
        (rule('calls = ["mknod"]\nwhen = { type = "chr" }\ndeny = 1'), 'no file type "chr"; did you mean "char"?'),
        (rule(f'calls = ["mknod"]\nwhen = {{ mode = {1 << 64} }}\ndeny = 1'), "which goes from 0 to 65535"),
        (rule('calls = ["mknod"]\nwhen = { type = "char", mode = 0o644 }\ndeny = 1'), "can never hold for mknod"),
        (rule('calls = ["kill"]\nwhen = { pid = { ">=" = 5, "<" = 3 } }\ndeny = 1'), "can never hold together"),
        (rule('calls = ["kill"]\nwhen = { sig = "< -2147483648" }\ndeny = 1'), "no value is <"),
        (rule('calls = ["kill"]\nwhen = { sig = "SIGKIL" }\ndeny = 1'), 'did you mean "SIGKILL"?'),
        (rule('calls = ["kill"]\nwhen = { sig = [] }\ndeny = 1'), "an empty list"),
        (rule('calls = ["kill"]\nwhen = { sig = {} }\ndeny = 1'), "an empty table"),
        (rule('calls = ["openat"]\nwhen = { flags = "O_CREAT" }\ndeny = 1'), 'flags = { all = ["O_CREAT"] }'),
        (rule('calls = ["openat"]\nwhen = { flags = { al = ["O_CREAT"] } }\ndeny = 1'), 'no such test "al"; did you mean "all"?'),
        (rule('calls = ["openat"]\nwhen = { flags = { all = ["O_RDONLY"] } }\ndeny = 1'), 'use access = "read"'),
        (rule('calls = ["openat"]\nwhen = { flags = { all = ["O_CREATE"] } }\ndeny = 1'), 'did you mean "O_CREAT"?'),
        (rule('calls = ["openat"]\nwhen = { flags = { mask = 3 } }\ndeny = 1'), '"mask" goes with "is"'),
        (rule('calls = ["openat"]\nwhen = { flags = { mask = 3, is = 4 } }\ndeny = 1'), "bits outside of the mask"),
        (rule('calls = ["openat"]\nwhen = { path = "etc" }\ndeny = 1'), "begins with /"),
        (rule('calls = ["openat"]\nwhen = { path = 3 }\ndeny = 1'), "expected a pattern"),
        (rule('calls = ["connect"]\nwhen = { address = "unx:/x" }\ndeny = 1'), 'did you mean "unix"?'),
        (rule('calls = ["openat"]\nwhen = { caller = { uids = 0 } }\ndeny = 1'), 'did you mean "uid"?'),
        (rule('calls = ["openat"]\nwhen = { caller = { uid = -1 } }\ndeny = 1'), "is not a uid"),
        (rule('calls = ["openat"]\nwhen = { caller = 0 }\ndeny = 1'), "expected a table"),
        ('arches = ["i386"]\n' + rule('calls = ["ftruncate64"]\nwhen = { length = "> 5" }\ndeny = 1'), "comes in two registers"),
        # together
        (rule('calls = ["mknod"]\ndeny = 1', "a") + rule('calls = ["mknod"]\nwhen = { type = "char" }\nreturn = 0', "b"), 'rule[1]: "b" can never match: rule[0] "a" before it takes every such call'),
        (rule('calls = ["kill"]\nwhen = { sig = ">= 5" }\ndeny = 1', "a") + rule('calls = ["kill"]\nwhen = { sig = "> 9" }\nreturn = 0', "b"), "can never match"),
        (rule('calls = ["openat"]\nwhen = { path = "/etc/shadow" }\nallow = true'), "would let openat run after looking at path"),
        (rule('calls = ["openat"]\nwhen = { path = "/etc/shadow" }\nlog = true'), "would let openat run after looking at path"),
        (rule('calls = ["openat"]\nwhen = { path = "/etc/shadow" }\ndeny = "EACCES"'), 'would run by default = "allow"'),
        (rule('calls = ["openat"]\nwhen = { path = "/x" }\ndeny = 1', "a") + rule('calls = ["openat"]\nallow = true', "b"), '"b" would let openat run after "a" (rule[0]) looked at path'),
        # a condition on the caller does not take what the path rule left
        (rule('calls = ["openat"]\nwhen = { path = "/x" }\ndeny = 1', "a") + rule('calls = ["openat"]\nwhen = { caller = { uid = 0 } }\ndeny = 2', "b"), 'would run by default = "allow"'),
    ],
)  # fmt: skip
def test_one_sentence_with_place_and_remedy(text: str, says: str) -> None:
    assert says in refusal(text)


def test_the_refusal_of_a_race_names_the_ways_out() -> None:
    sentence = refusal(rule('calls = ["openat"]\nwhen = { path = "/etc/shadow" }\ndeny = "EACCES"'))
    for word in ("perform = true", 'deny = "EPERM"', 'allow = "unsafe:', "no boundary"):
        assert word in sentence
    assert "perform" not in refusal(rule('calls = ["chdir"]\nwhen = { path = "/x" }\ndeny = 1'))


def test_what_is_said_of_performing() -> None:
    settings = loads('nested = "allow"\ncgroup = "ignore"\nlimit = 3\nworkers = 2').settings
    assert settings.performing == {"nested": "allow", "cgroup": "ignore", "limit": 3}
    assert settings.workers == 2
    settings = loads("").settings
    assert (settings.performing, settings.workers) == ({}, None)


def test_said_in_words_the_race_is_let_in() -> None:
    policy = loads(
        rule('calls = ["openat"]\nwhen = { path = "/etc/shadow" }\ndeny = "EACCES"', "a")
        + rule('calls = ["openat"]\nallow = "unsafe: tracing a program of our own"', "b")
    )
    assert policy.rules[1].ruling.unsafe == "tracing a program of our own"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('when = { path = "/x" }\ndeny = 1', "perform = true"),
        ('when = { path = "/x" }\ndeny = 1', 'deny = "EACCES"'),
        ('when = { path = "/x", flags = { all = ["O_CREAT"] } }\ndeny = 1', 'when = { flags = { all = ["O_CREAT"] } }\nperform = true'),
        # what the second lets run is disjoint from what the first looks at
        ('when = { path = "/x", access = "write" }\ndeny = 1', 'when = { access = ["write", "read-write"] }\ndeny = 2'),
    ],
)  # fmt: skip
def test_a_safe_end_of_a_path_rule_is_accepted(first: str, second: str) -> None:
    loads(rule(f'calls = ["openat"]\n{first}', "a") + rule(f'calls = ["openat"]\n{second}', "b"))


def test_identity_is_no_race() -> None:
    loads(rule('calls = ["openat"]\nwhen = { caller = { uid = 0 } }\nallow = true'))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[[rule]]\nname = """\n[[rule]]\nx"""\ncalls = ["mknod"]\ndeny = 1\n', "2: rule[0].name"),
        ('x32 = "kill"\nrule = [ { name = "x", calls = ["mknodd"], deny = 1 } ]', "2: rule[0].calls[0]"),
        ('[[rule]]\nname = "x"\n"calls" = [\n  "mknod", # mknodd\n\n  "mknodd",\n]\ndeny = 1', "3: rule[0].calls[1]"),
        ('[[rule]]\r\nname = "x"\r\n\r\ncalls = ["mknodd"]\r\ndeny = 1\r\n', "4: rule[0].calls[0]"),
        ('# [[rule]]\n[[rule]]\nname = "x"\ncalls = ["mknod"]\nwhen.mod = 1\ndeny = 1', "5: rule[0].when.mod"),
        ('[[rule]]\nname = "when.mod = 1"\ncalls = ["mknod"]\n\n[rule.when]\n# mod = 2\nmod = 3', "7: rule[0].when.mod"),
    ],
)  # fmt: skip
def test_lines_are_those_of_the_statement(text: str, place: str) -> None:
    if "when" in text and "deny" not in text:
        text = text.replace("[rule.when]", "deny = 1\n[rule.when]").replace("\n\n", "\n")
    assert refusal(text).startswith(f"f.toml:{place}: ")


def test_lines_of_later_rules_and_subtables() -> None:
    text = (
        "# rule[9].calls\n"
        + rule('calls = ["mknod"] # deny = 3\ndeny = 1', "a")
        + '[[rule]]\nname = "calls = 3"\ncalls = ["openat"]\ndeny = 1\n[rule.when]\nmod = 3\n'
    )
    assert refusal(text).startswith("f.toml:11: rule[1].when.mod")


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(PolicyError, match="cannot be read: No such file or directory"):
            load(tmp_path / "none.toml")

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(PolicyError, match="cannot be read: Is a directory"):
            load(tmp_path)

    def test_empty_name_and_nul(self) -> None:
        for name in ("", "a\0b"):
            with pytest.raises(PolicyError, match="not a file name"):
                load(name)

    def test_binary(self, tmp_path: Path) -> None:
        file = tmp_path / "x.toml"
        file.write_bytes(b"a = 1\n\x7fELF\xff\xfe")
        with pytest.raises(PolicyError, match=r"x\.toml:2: byte 0xff at offset 10 is not UTF-8"):
            load(file)

    def test_huge(self) -> None:
        with pytest.raises(PolicyError, match="larger than"):
            load("/dev/zero")

    def test_a_file_name_with_control_characters_is_escaped(self, tmp_path: Path) -> None:
        file = tmp_path / "a\nb\x1b[31m.toml"
        file.write_text("x = 1")
        with pytest.raises(PolicyError) as caught:
            load(file)
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)

    def test_a_path_as_bytes(self, tmp_path: Path) -> None:
        file = tmp_path / "ok.toml"
        file.write_text(rule('calls = ["mknod"]\ndeny = 1'))
        assert load(bytes(file)).rules[0].name == "r"


VALUES = st.recursive(
    st.integers() | st.booleans() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["all", ">=", "uid", "mask", "is", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "name",
        "calls",
        "when",
        "deny",
        "return",
        "perform",
        "allow",
        "kill",
        "log",
        "report",
        "path",
        "mode",
        "device",
        "x",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(KEYS, VALUES, max_size=5),
    st.dictionaries(
        st.sampled_from(
            [
                "path",
                "mode",
                "type",
                "device",
                "dev",
                "flags",
                "access",
                "caller",
                "dirfd",
                "addr",
                "x",
            ]
        ),
        VALUES,
        max_size=3,
    ),
    st.sampled_from(["mknodat", "openat", "connect", "getpid"]),
)
def test_any_document_is_a_policy_or_one_sentence(
    body: dict[str, object], when: dict[str, object], call: str
) -> None:
    """No document whatever brings out anything but a policy or a PolicyError."""
    base = {"name": "n", "calls": [call], "deny": "EPERM", "when": when}
    for written in (base | body, base):
        try:
            loads(f"rule = [ {toml(written)} ]")
        except PolicyError as error:
            assert "\n" not in str(error)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_policy_or_one_sentence(text: str) -> None:
    try:
        loads(text)
    except PolicyError as error:
        assert "\n" not in str(error)


def test_rules_have_a_number_that_is_compared_in_time() -> None:
    many = [
        rule(f'calls = ["kill"]\nwhen = {{ pid = {n} }}\ndeny = 1', f"r{n}") for n in range(1001)
    ]
    assert "rule: 1001 rules; a policy has at most 1000" in refusal("".join(many))
    assert len(loads("".join(many[:1000])).rules) == 1000
