"""Kernel packages: found and downloaded by apt, unpacked, never installed.

apt works on lists and a cache of its own here (``Dir::State``, ``Dir::Cache``): the system's
configuration is read and not changed.  A kernel is named ``[?]WHAT[@WHERE]``:

=============== ====================================================================================
``6.1``         the newest 6.1 in the system's own sources
``6.1@SUITE``   in another suite of the mirror the system has its packages from
``5.4@FILE``    in the sources of an apt list of your own (one-line or deb822 format)
``@SUITE``      the newest kernel that is there
``NAME@...``    the package of this name (``linux-...``)
``?...``        may be missing: then it is said, and no failure
=============== ====================================================================================
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.kernels.architectures import AMD64, Architecture

#: Modules that tests load; kept with those that they depend on.
MODULES = (
    "8021q", "9p", "9pnet_virtio", "btrfs", "ccm", "cifs", "cmac", "crc32c_generic", "ctr", "dummy", "ecb", "erofs", "ext4", "fuse",
    "gcm", "ghash_generic", "hmac", "isofs", "kvm_intel", "loop", "md4", "md5", "nfsv3", "nls_ascii", "nls_cp437", "nls_iso8859_1",
    "nls_utf8", "overlay", "sha512_generic", "squashfs", "vfat", "virtio_pci", "virtiofs", "vrf", "xfs",
)  # fmt: skip


class NotThere(Exception):
    """A kernel that cannot be had, and why."""


class Wanted(NamedTuple):
    """One kernel as it was asked for."""

    what: str
    where: str
    optional: bool

    def __str__(self) -> str:
        return f"{self.what}@{self.where}" if self.where else self.what


class KernelImage(NamedTuple):
    """A kernel to boot."""

    wanted: str
    package: str
    #: What uname(2) is going to say.
    release: str
    vmlinuz: Path
    #: The directory with those of its :data:`MODULES` that it has, as below a root directory.
    modules: Path | None = None

    def files(self) -> dict[str, Path]:
        """Modules, and what modprobe(8) knows of them, by path in the machine."""
        top = self.modules
        found = [] if top is None else [each for each in top.rglob("*") if each.is_file()]
        return {f"/{each.relative_to(top)}": each for each in found if top is not None}


def parse(text: str) -> Wanted:
    """A kernel's name on the command line: a version, or a package's name, and where it is.

    :raises ValueError: it is neither.
    """
    what, at, where = text.removeprefix("?").partition("@")
    named = re.fullmatch(r"\d+(\.\d+)*", what) or what.startswith("linux-")
    if bool(at) != bool(where) or not (named or (where and not what)):
        raise ValueError(f"{text!r} names no kernel, as 6.1 and 5.10@bullseye do")
    return Wanted(what, where, text.startswith("?"))


def fetch(wanted: Wanted, cache: Path, architecture: Architecture = AMD64) -> KernelImage:
    """Find, download and unpack a kernel.

    :raises NotThere: nothing of that name, or apt cannot get it.
    """
    apt = Apt(wanted.where, cache, architecture)
    apt.update()
    package = apt.find(wanted.what)
    place = cache / "kernels" / package
    key = hashlib.sha256(" ".join(MODULES).encode()).hexdigest()[:8]
    found = sorted(place.glob("vmlinuz-*"))
    modules = place / f"modules-{key}"
    if not found or not modules.exists():
        shutil.rmtree(place, ignore_errors=True)
        _unpack(apt.download(package), place, modules.name)
        found = sorted(place.glob("vmlinuz-*"))
    if not found:
        raise NotThere(f"{package} holds no kernel image")
    release = found[-1].name.removeprefix("vmlinuz-")
    return KernelImage(str(wanted), package, release, found[-1], modules)


class Apt:
    """apt with lists and a cache of its own; for another architecture also with a status of its own,
    by which nothing is installed."""

    def __init__(self, where: str, cache: Path, architecture: Architecture = AMD64) -> None:
        self._architecture = architecture
        if architecture is not AMD64 and not where:
            where = codename()  # other sources of this system may have nothing for it
        self._options = ["-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]
        key = "own"
        if where:
            sources = Path(where).read_text() if "/" in where else _suite(where, architecture)
            suffix = "sources" if re.search(r"^Types:", sources, re.M) else "list"
            key = hashlib.sha256(sources.encode()).hexdigest()[:16]
        self._place = cache / "apt" / key
        (self._place / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (self._place / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        if where:
            parts = self._place / "parts"
            parts.mkdir(exist_ok=True)
            (parts / f"these.{suffix}").write_text(sources)
            self._options += ["-o", "Dir::Etc::sourcelist=/dev/null"]
            self._options += ["-o", f"Dir::Etc::sourceparts={parts}"]
        self._options += ["-o", f"Dir::State={self._place}", "-o", f"Dir::Cache={self._place}"]
        self._options += ["-o", f"Dir::State::Lists={self._place / 'lists'}"]
        status = Path("/var/lib/dpkg/status")
        if architecture is not AMD64:
            status = self._place / "status"
            status.touch()
            name = architecture.name
            self._options += ["-o", f"APT::Architecture={name}", "-o", f"APT::Architectures={name}"]
        self._options += ["-o", f"Dir::State::status={status}"]

    def update(self) -> None:
        """Ask for the lists; each is asked for once a day."""
        stamp = self._place / "updated"
        if stamp.exists() and os.stat(stamp).st_mtime > os.stat("/proc/self").st_mtime - 86400:
            return
        self._run("apt-get", "update", "--error-on=any")
        stamp.touch()

    def find(self, what: str) -> str:
        """The newest package for a version, or the package of this name.

        Since 7.0 Debian has the kernel itself in linux-binary-...
        """
        pattern = "^linux-(image|binary)-"
        names = self._run("apt-cache", "search", "--names-only", pattern).split("\n")
        names = [line.split(" - ")[0] for line in names if line]
        if what.startswith("linux-"):
            if what not in names:
                raise NotThere(f"there is no package {what}")
            return what
        ranked = []
        for name in names:
            shape = re.fullmatch(
                r"linux-(image|binary)-(?:unsigned-)?(\d[\d.]*[\d].*?)-([a-z][a-z0-9-]*)", name
            )
            if shape is None or shape[3] not in self._architecture.flavours:
                continue
            numbers = tuple(int(word) for word in re.findall(r"\d+", shape[2]))
            if what and numbers[: what.count(".") + 1] != tuple(map(int, what.split("."))):
                continue
            better = (shape[1] == "binary", "unsigned" not in name)
            rank = -self._architecture.flavours.index(shape[3])
            ranked.append(((rank, numbers, better), name))
        if not ranked:
            raise NotThere(f"no package of a kernel {what or 'at all'} there")
        return max(ranked)[1]

    def download(self, package: str) -> Path:
        """The package's file."""
        place = self._place / "archives" / package
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        self._run("apt-get", "download", package, cwd=place)
        return next(place.glob("*.deb"))

    def with_dependencies(self, packages: list[str]) -> list[str]:
        """The names of the files that :meth:`fetch` gives."""
        lines = self._install("--print-uris", *packages).splitlines()
        return [line.split()[1] for line in lines if line.startswith("'")]

    def fetch(self, packages: list[str]) -> Iterator[Path]:
        """The files of packages and of all they depend on, each until the next is asked for."""
        names = self.with_dependencies(packages)
        self._install("--download-only", *packages)
        for name in names:
            file = self._place / "archives" / name
            yield file
            file.unlink()

    def _install(self, *words: str) -> str:
        return self._run("apt-get", "install", "--yes", "--no-install-recommends", *words)

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        words = [command[0], *self._options, *command[1:]]
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NotThere(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def _suite(suite: str, architecture: Architecture) -> str:
    """A sources list for another suite of the mirror that this system uses.

    A suite NAME-security (-updates, -backports) is where the system has its own of that kind, or
    else where its packages are.
    """
    own = codename()
    kind = suite[suite.index("-") :] if "-" in suite else ""
    form = "$(RELEASE)\t$(COMPONENT)\t$(REPO_URI)\t$(SIGNED_BY)"
    lines = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    rows = [line.split("\t") for line in lines]
    for release in (own + kind, own):
        for row in rows:
            if row[0] == release and row[1] == "main":
                signed = f" signed-by={row[3]}" if row[3].startswith("/") else ""
                return f"deb [arch={architecture.name}{signed}] {row[2]} {suite} main\n"
    raise NotThere(f"apt's own sources name no mirror of {own or 'this system'}")


def codename() -> str:
    """This system's own suite."""
    with open("/etc/os-release", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VERSION_CODENAME="):
                return line.partition("=")[2].strip().strip('"')
    return ""


def _unpack(deb: Path, place: Path, modules: str) -> None:
    """Keep the kernel of a package, and modules that are wanted."""
    aside = place.with_name(f"{place.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        subprocess.run(["dpkg-deb", "-x", str(deb), str(aside / "all")], check=True)
        for image in [
            *(aside / "all").glob("boot/vmlinu[xz]-*"),  # riscv64's is not compressed
            *(aside / "all").glob("usr/lib/modules/*/vmlinuz"),
        ]:
            release = image.name.partition("-")[2] if "-" in image.name else image.parent.name
            if not image.is_symlink():
                place.mkdir(parents=True, exist_ok=True)
                _keep_modules(aside / "all", release, place / modules)
                shutil.copy(image, place / f"vmlinuz-{release}")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        deb.unlink()


def _keep_modules(top: Path, release: str, place: Path) -> None:
    """Those of :data:`MODULES`; none where there is no depmod(8) here."""
    place.mkdir()
    depmod = shutil.which("depmod", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    folder = next(
        (each for each in (top / "lib/modules" / release, top / "usr/lib/modules" / release) if each.is_dir()), None
    )  # fmt: skip
    if depmod is None or folder is None:
        return
    found = {
        re.sub(r"\.ko.*", "", each.name).replace("-", "_"): each for each in folder.rglob("*.ko*")
    }
    todo, kept = [each for each in MODULES if each in found], place / "lib/modules" / release
    done: set[str] = set()
    while todo:
        name = todo.pop()
        if name in done or name not in found:
            continue
        done.add(name)
        beside = kept / found[name].relative_to(folder)
        beside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(found[name], beside)
        said = subprocess.run(
            ["modinfo", "-F", "depends", str(beside)], capture_output=True, text=True, check=False,
            env=os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        ).stdout  # fmt: skip
        todo += said.strip().replace("-", "_").split(",")
    if done:
        for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            if (folder / name).exists():
                shutil.copy(folder / name, kept / name)
        subprocess.run([depmod, "-b", str(place), release], check=False)
