"""The root file system of the machine: Python (this one, if the architecture is this system's), what
the tests run, and the project.

It is an initramfs, so that no kernel needs a module for it.  What changes seldom (interpreter,
libraries, compiler, tools) is one archive, kept as long as nothing in it changed; the project is
another, made anew each time.  Files lie below ``/system`` there: init makes that the root.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import re
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.kernels import cpio
from tools.kernels.cpio import Entry

#: Debian packages whose files, and those of what they depend on, the tests use.
PACKAGES = (
    "bash", "busybox-static", "coreutils", "dash", "dosfstools", "e2fsprogs", "findutils", "gcc", "genisoimage", "grep", "kmod",
    "libc-bin", "libc6-dev", "mount", "ncurses-base", "procps", "sed", "squashfs-tools", "strace", "tar", "util-linux",
)  # fmt: skip
#: A server that one test has the kernel's client of; where the machine is of this system's architecture.
SERVER = ("samba", "samba-common-bin")
#: Dependencies that no test needs.
_UNUSED = re.compile(
    r"debconf.*|dpkg|perl.*|python3.*|systemd.*|libsystemd.*|passwd|login|adduser|.*-doc|manpages.*"
)
#: Files that no test needs, and that are large.
LEFT_OUT = re.compile(
    r"/usr/share/(doc|man|info|locale|lintian|bash-completion|i18n|gcc|gdb)(/|$)"
    r"|/(lto1|lto-wrapper|g\+\+-mapper-server|lib(a|hwa|l|t|ub)san[^/]*)$"
)
#: Files that belong to no package: configuration, and the links of alternatives and merged /usr.
_BESIDE = (
    "/bin", "/sbin", "/lib", "/lib64", "/usr/bin/cc", "/etc/alternatives/cc", "/etc/passwd", "/etc/group",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/nsswitch.conf",
)  # fmt: skip
#: Parts of Python's own library that no test needs.
STDLIB_OUT = re.compile(
    r"test|idlelib|lib2to3|ensurepip|pydoc_data|tkinter|turtledemo|site-packages|__pycache__|config-.*"
)
#: What is installed beside the project, and not needed to run its tests.
_SITE_OUT = re.compile(
    r"(_distutils_hack|ast_serialize|distutils-precedence|grimp|import_linter|importlinter|jinja2|librt"
    r"|markdown_it|markdown_it_py|mypy|mypyc|pip|pkg_resources|proctor|__editable__|rich|ruff|setuptools)"
    r"([-_.].*)?|.*__mypyc.*|__pycache__"
)

#: Where the project, and the packages of Python it needs, lie in the machine.
PROJECT, SITE = "/proctor", "/site"
_NOTHING = re.compile("(?!)")
#: What the byte code is of that is compiled here.
THIS = f"python{sys.version_info.major}.{sys.version_info.minor}"


class Missing(Exception):
    """Something this system lacks, and what would bring it."""


class System(NamedTuple):
    """What a machine has but for the project."""

    #: Here, by path in the machine.
    files: dict[str, Path]
    #: Directories that are links, as of a merged /usr, and where they lead.
    links: dict[str, str]
    #: In the machine: the interpreter, and a directory that it takes packages from.
    python: str
    packages: str

    def archive(self, place: Path) -> Path:
        """The archive of all that, kept in ``place`` as long as it would be the same."""
        key = hashlib.sha256(sys.version.encode())
        for name in sorted(self.files):
            found = os.lstat(self.files[name])
            key.update(f"{name} {found.st_mtime_ns} {found.st_size}\n".encode())
        made = place / f"system-{key.hexdigest()[:16]}.cpio"
        if not made.exists():
            place.mkdir(parents=True, exist_ok=True)
            for old in place.glob("system-*.cpio"):
                old.unlink()
            cpio.write(made, "system", self._entries(self.files))
        return made

    def project(
        self, tree: Path, native: dict[str, Path], made: Path, extra: dict[str, bytes]
    ) -> None:
        """The archive of the project as it lies in ``tree``, and files of ours.

        :param native: what was compiled for the machine, by path there.
        :param extra: content by path in the machine.
        """
        listed = subprocess.run(
            ["git", "-C", str(tree), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True, check=True,
        ).stdout.split(b"\0")  # fmt: skip
        files = {f"{PROJECT}/{name}": tree / name for name in map(os.fsdecode, listed) if name}
        files = {name: path for name, path in files.items() if os.path.lexists(path)} | native
        extra = extra | {
            "/python": self.python.encode(),
            f"{self.packages}/proctor.pth": f"{SITE}\n{PROJECT}/src\n".encode(),
        }

        def entries() -> Iterator[Entry]:
            yield from self._entries(files)
            for name, data in extra.items():
                yield Entry(name, stat.S_IFREG | 0o755, data)

        cpio.write(made, "system", entries())

    def _entries(self, files: dict[str, Path]) -> Iterator[Entry]:
        for name in sorted(files):
            path = files[name]
            place = name
            for link, leads in self.links.items():  # the merged /usr: /bin/sh lies in /usr/bin
                if name.startswith(link + "/"):
                    place = leads + name[len(link) :]
            mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode):
                yield Entry(place, mode, b"")
            elif stat.S_ISLNK(mode):
                yield Entry(place, mode, os.fsencode(os.readlink(path)))
            elif stat.S_ISREG(mode):
                data = path.read_bytes()
                yield Entry(place, mode, data)
                # of use for an interpreter of this version alone
                if path.suffix == ".py" and os.path.basename(self.python) == THIS:
                    yield from _compiled(place, data)


def own() -> System:
    """This system's packages, and this Python.

    :raises Missing: a package is not installed.
    """
    files = {**_packages(), **_python()}
    for library in _libraries(files):
        for name in (library, os.path.realpath(library)):
            files.setdefault(name, Path(name))
    return System(
        files=files,
        links={name: os.path.realpath(name) for name in _BESIDE[:4] if os.path.islink(name)},
        python=str(Path(sys.executable).resolve()),
        packages=f"{sysconfig.get_path('stdlib')}/site-packages",
    )


def built(tree: Path) -> dict[str, Path]:
    """What ``make env`` compiled.

    :raises Missing: it was not run.
    """
    paths = [
        *tree.glob("src/proctor/kernel/_core*.so"),
        tree / "src/proctor/performing/executing/executor",
    ]
    if len(paths) < 2:
        raise Missing("the native core is not built: make env")
    return {f"{PROJECT}/{path.relative_to(tree)}": path for path in paths}


def _packages() -> dict[str, Path]:
    """The files of the packages and of what they depend on."""
    form = "${db:Status-Abbrev}\t${Package}\t${Provides}\t${Depends},${Pre-Depends}\n"
    needs: dict[str, list[str]] = {}
    gives: dict[str, str] = {}
    for line in _said("dpkg-query", "-W", "-f", form).splitlines():
        status, name, provides, depends = line.split("\t")
        if status.startswith("ii"):
            needs.setdefault(name, []).extend(_names(depends))
            for given in _names(provides):
                gives.setdefault(given, name)
    lacking = [name for name in (*PACKAGES, *SERVER) if name not in needs]
    if lacking:
        raise Missing(f"apt-get install {' '.join(lacking)}")
    todo, have = [*PACKAGES, *SERVER], set[str]()
    while todo:
        name = todo.pop()
        name = name if name in needs else gives.get(name, "")
        if name and name not in have and not _UNUSED.fullmatch(name):
            have.add(name)
            todo += needs[name]
    listed = _said("dpkg-query", "-L", *sorted(have)).splitlines()
    wanted = [name for name in listed if name.startswith("/") and not LEFT_OUT.search(name)]
    return {name: Path(name) for name in (*wanted, *_BESIDE) if os.path.lexists(name)}


def _names(depends: str) -> list[str]:
    """The first choice of each dependency, without versions."""
    return re.findall(r"(?:^|,)\s*([a-z0-9][a-z0-9+.-]*)", depends)


def _python() -> dict[str, Path]:
    """This interpreter, its library, and the packages that the tests import."""
    binary = Path(sys.executable).resolve()
    files = {str(binary): binary}
    for found in Path(sysconfig.get_config_var("LIBDIR") or "/nowhere").glob("libpython*.so*"):
        files[str(found)] = found
    for found in walk(Path(sysconfig.get_path("stdlib")), STDLIB_OUT, deep=True):
        files[str(found)] = found
    top = Path(sysconfig.get_path("purelib"))
    return files | {
        f"{SITE}/{path.relative_to(top)}": path for path in walk(top, _SITE_OUT, deep=False)
    }


def walk(top: Path, out: re.Pattern[str] = _NOTHING, *, deep: bool = True) -> Iterator[Path]:
    """Files below ``top`` but for what is called ``out``: at the top, or everywhere if ``deep``."""
    for place, folders, names in os.walk(top):
        here = Path(place)
        all_stay = not deep and here != top
        folders[:] = [
            name
            for name in folders
            if name != "__pycache__" and (all_stay or not out.fullmatch(name))
        ]
        for name in names:
            if not name.endswith((".a", ".pyc")) and (all_stay or not out.fullmatch(name)):
                yield here / name


def _libraries(files: dict[str, Path]) -> set[str]:
    """What the dynamic linker needs for interpreter and extensions."""
    binaries = [
        str(path)
        for path in files.values()
        if re.search(r"\.so(\.[\d.]+)?$|/python3[.\d]*$", str(path)) and not path.is_symlink()
    ]
    found = set()
    for at in range(0, len(binaries), 200):
        output = subprocess.run(
            ["ldd", *binaries[at : at + 200]], capture_output=True, text=True, check=False
        ).stdout
        found |= set(re.findall(r"(?:=> |\t)(/\S+) \(0x", output))
    return found


def _compiled(name: str, source: bytes) -> Iterator[Entry]:
    """The byte code beside a module: compiling is slow in an emulated machine.

    It is valid whatever the file's time is, which not every kernel takes from the archive.
    """
    try:
        code = compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return
    flags = (0b01).to_bytes(4, "little")  # PEP 552: by hash, not checked
    data = (
        importlib.util.MAGIC_NUMBER
        + flags
        + importlib.util.source_hash(source)
        + marshal.dumps(code)
    )
    yield Entry(importlib.util.cache_from_source(name), stat.S_IFREG | 0o644, data)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
