"""Which container has which policy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from proctor.agent.facts import Facts
from proctor.agent.policies import Book
from proctor.errors import PolicyError


def facts(**known: Any) -> Facts:
    return Facts(**({"door": "oci", "socket": "/run/oci.sock", "uid": 0, "id": "web-1"} | known))


def policy(error: str) -> str:
    return f'[[rule]]\nname = "r"\ncalls = ["mkdir"]\ndeny = "{error}"\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, error in (("a", "EACCES"), ("b", "EROFS"), ("default", "EPERM")):
        (tmp_path / f"{name}.toml").write_text(policy(error))
    return tmp_path


def loaded(directory: Path, table: str | None = None) -> tuple[Book, list[str]]:
    if table is not None:
        (directory / "containers.toml").write_text(table)
    told: list[str] = []
    book = Book(str(directory), told.append)
    book.load()
    return book, told


def name_of(book: Book, **known: Any) -> str | None:
    found = book.resolve(facts(**known)).policy
    return None if found is None else Path(found.name).stem


@pytest.mark.parametrize(
    ("match", "fits", "not_this"),
    [
        ('id = "web-*"', {"id": "web-7"}, {"id": "db"}),
        ('metadata = "tenant=[ab]"', {"metadata": "tenant=a"}, {"metadata": "tenant=c"}),
        ('cookie = "c?"', {"cookie": "c1"}, {"cookie": "c"}),
        ('door = "lxc"', {"door": "lxc"}, {}),
        ('socket = "*/lxd.sock"', {"socket": "/run/lxd.sock"}, {}),
        ("uid = [1000, 1001]", {"uid": 1001}, {"uid": 0}),
        ('annotations = { "x/y" = "z*" }', {"annotations": {"x/y": "z9"}}, {"annotations": {"x/y": "a"}}),
        ('annotations = { "x/y" = "*" }', {"annotations": {"x/y": ""}}, {}),
        ('namespace = "prod"', {"annotations": {"io.kubernetes.pod.namespace": "prod"}}, {}),
        ('namespace = "prod"', {"annotations": {"io.kubernetes.cri.sandbox-namespace": "prod"}}, {}),
        ('pod = "web-*"', {"annotations": {"io.kubernetes.cri-o.KubeName": "web-0"}}, {}),
        ('container = "app"', {"annotations": {"io.kubernetes.cri.container-name": "app"}}, {}),
        ('image = "*/nginx:*"', {"annotations": {"io.kubernetes.cri.image-name": "d/nginx:1"}}, {}),
        ('id = "web-*"\nuid = [0]', {"id": "web-1"}, {"id": "web-1", "uid": 7}),
    ],
)  # fmt: skip
def test_every_key_is_matched(
    directory: Path, match: str, fits: dict[str, Any], not_this: dict[str, Any]
) -> None:
    book, _ = loaded(directory, f'default = "b"\n[[container]]\npolicy = "a"\n{match}\n')
    assert name_of(book, **fits) == "a"
    assert name_of(book, **not_this) == "b"


def test_the_first_that_fits_decides(directory: Path) -> None:
    both = '[[container]]\npolicy = "b"\nid = "w*"\n[[container]]\npolicy = "a"\nid = "*"\n'
    book, _ = loaded(directory, both)
    assert name_of(book) == "b"
    assert name_of(book, id="x") == "a"


def test_without_a_table_there_is_one_policy_for_all(directory: Path) -> None:
    book, _ = loaded(directory)
    assert name_of(book) == "default"
    (directory / "default.toml").unlink()
    book.refresh(settle=False)
    assert name_of(book) is None


def test_nothing_fits(directory: Path) -> None:
    book, _ = loaded(directory, '[[container]]\npolicy = "a"\nid = "x"\n')
    found = book.resolve(facts())
    assert found.policy is None and "no [[container]]" in found.why


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('[[container]]\npolicy = "aa"\n', "there is no policy"),
        ('default = "zzz"\n', "there is no policy"),
        ('[[container]]\nid = "x"\n', "policy"),
        (
            '[[container]]\npolicy = "a"\nmetdata = "x"\n',
            r'containers.toml:3: container\[0\].metdata: no such key; did you mean "metadata"\?',
        ),
        ('defaut = "a"\n', 'containers.toml:1: defaut: no such key; did you mean "default"'),
        ('[container]\npolicy = "a"\n', r"begin each with \[\[container\]\], not \[container\]"),
        ("container = [1]", r"container\[0\]: expected a table, got a whole number"),
        ('[[container]]\npolicy = "a"\nannotations = { x = 1 }\n', "annotations"),
        ('[[container]]\npolicy = "a"\nuid = ["root"]\n', "uid"),
        ("[[container", "containers.toml"),
    ],
)
def test_mistakes_are_said_when_it_starts(directory: Path, table: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        loaded(directory, table)


def test_what_changed_is_taken_once_it_stays(directory: Path) -> None:
    book, told = loaded(directory)
    before = book.resolve(facts()).policy
    (directory / "default.toml").write_text(policy("ENOSPC"))
    assert not book.refresh()  # it may just be being written
    assert book.resolve(facts()).policy is before
    (directory / "default.toml").write_text(policy("EDQUOT"))
    assert not book.refresh()
    assert book.refresh()
    after = book.resolve(facts()).policy
    assert after is not None and after is not before
    assert not book.refresh() and not told


def test_a_mistake_leaves_what_holds(directory: Path) -> None:
    book, told = loaded(directory, 'default = "a"\n')
    before = book.resolve(facts()).policy
    (directory / "a.toml").write_text("nonsense")
    (directory / "containers.toml").write_text("nonsense")
    assert not book.refresh(settle=False)
    assert book.resolve(facts()).policy is before
    assert len(told) == 2 and all("still holds" in each for each in told)
    assert not book.refresh(settle=False) and len(told) == 2  # it is said once
    assert sorted(book.problems) == sorted(told)  # and known to those who ask
    (directory / "a.toml").write_text(policy("EIO"))
    assert book.refresh(settle=False)
    assert book.resolve(facts()).policy is not before
    assert len(book.problems) == 1
    (directory / "containers.toml").write_text("\ufeffdefault = 'a'\n")  # as some editors begin it
    assert book.refresh(settle=False) and not book.problems


@pytest.mark.parametrize("before", ["#", "##"])
def test_one_that_is_too_long_is_refused_and_not_cut(directory: Path, before: str) -> None:
    """Characters of two bytes are fewer than the bytes, and the cut may lie between two of them."""
    book, told = loaded(directory)
    text = (
        policy("EIO")
        + before
        + "\u00e9" * (2 << 20)
        + "\n"
        + policy("EROFS").replace("mkdir", "rmdir")
    )
    (directory / "a.toml").write_text(text)
    assert not book.refresh(settle=False)
    assert len(told) == 1 and "a.toml: larger than 4194304 bytes; what held" in told[0]


def test_a_directory_that_is_gone_is_told_once(directory: Path) -> None:
    book, told = loaded(directory)
    os.rename(directory, directory.with_name("elsewhere"))
    for _ in range(3):
        assert not book.refresh()
    assert len(told) == 1 and "No such file or directory; what held before still holds" in told[0]
    assert book.problems == told
    os.rename(directory.with_name("elsewhere"), directory)
    book.refresh()
    assert not book.problems


def test_one_that_is_gone_while_it_is_named(directory: Path) -> None:
    book, told = loaded(directory, 'default = "a"\n')
    (directory / "a.toml").unlink()
    assert not book.refresh()
    assert book.refresh()
    assert book.resolve(facts()).policy is None
    assert any("is gone" in each for each in told)
    assert any("there is no policy" in each for each in told)


def test_a_config_map_is_exchanged_as_kubernetes_does(tmp_path: Path) -> None:
    """Files are links through ``..data``, which is put in another one's place."""
    for version, error in (("..1", "EACCES"), ("..2", "EROFS")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "default.toml").write_text(policy(error))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "default.toml").symlink_to("..data/default.toml")
    book, _ = loaded(tmp_path)
    before = book.resolve(facts()).policy
    (tmp_path / "..new").symlink_to("..2")
    os.rename(tmp_path / "..new", tmp_path / "..data")
    assert book.refresh(settle=False)
    assert book.resolve(facts()).policy is not before


def test_other_names_are_no_policies(directory: Path) -> None:
    (directory / ".hidden.toml").write_text("nonsense")
    (directory / "a.toml~").write_text("nonsense")
    (directory / "dangling.toml").symlink_to("nowhere")
    book, told = loaded(directory)
    assert book.policies == ["a", "b", "default"] and not told
