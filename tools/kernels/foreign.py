"""What runs in a machine of another architecture: packages of its own, unpacked, and what is native of
the project, compiled for it here.

Nothing is installed for it, and dpkg hears of no further architecture: apt works on lists and a status
of its own, and packages are unpacked into a directory of the cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools.kernels.architectures import Architecture
from tools.kernels.image import LEFT_OUT, PACKAGES, PROJECT, SITE, STDLIB_OUT, Missing, System, walk
from tools.kernels.packages import Apt

#: Where there is a merged /usr, as packages expect it and none of them makes it.
_MERGED = ("bin", "sbin", "lib")
#: What packages' scripts make or ask for, the same on every architecture.
_FROM_HERE = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf")
_PYTHON = ("python3", "libpython3-dev")
#: What the tests that are run there import, in the versions that are here; pip brings what they depend on.
_IMPORTED = ("hypothesis", "msgspec", "pytest", "pytest-timeout")
#: glibc's versions that wheels are made for, all older than any that is run.
_WHEELS = ("manylinux_2_17", "manylinux_2_28", "manylinux_2_31", "manylinux_2_34", "manylinux_2_35")
#: Packages that others depend on for what scripts of theirs do.
_UNUSED = re.compile(
    r"debconf|dpkg|.*perl.*|usrmerge|init-system-helpers|lib(a|l|t|hwa)san\d+|lib.*-doc"
)
#: Files that are of use only here, where it is compiled.
_LEFT_OUT = re.compile(r"/python3[^/]*/.*\.h$|libpython3[^/]*\.a$|\.pyc$")


def system(architecture: Architecture, cache: Path) -> System:
    """The files of the architecture's packages, as they lie in a directory of ours."""
    root = _unpacked(architecture, cache)
    wanted = {f"/{name}": root / name for name in _MERGED}
    wanted |= {name: Path(name) for name in _FROM_HERE}
    for place, folders, names in os.walk(root):
        inside = place.removeprefix(str(root))
        if "/usr/lib/python3" in inside:
            folders[:] = [name for name in folders if not STDLIB_OUT.fullmatch(name)]
        for name in names + folders:
            path = f"{inside}/{name}"
            if not LEFT_OUT.search(path) and not _LEFT_OUT.search(path):
                wanted[path] = Path(place, name)
    python = os.path.basename(os.path.realpath(root / "usr/bin/python3"))
    site = _wheels(architecture, python.removeprefix("python"), cache)
    wanted |= {f"{SITE}/{path.relative_to(site)}": path for path in walk(site)}
    return System(
        files=wanted,
        links={f"/{name}": f"/usr/{name}" for name in _MERGED},
        python=f"/usr/bin/{python}",
        packages="/usr/lib/python3/dist-packages",
    )


def built(architecture: Architecture, tree: Path, cache: Path) -> dict[str, Path]:
    """The core and the executor, compiled for it.

    :raises Missing: no compiler for it here.
    """
    if shutil.which(architecture.compiler) is None:
        raise Missing(
            f"apt-get install {architecture.compiler.replace('_', '-').removesuffix('-gcc')}"
        )
    root = _unpacked(architecture, cache)
    include = next((root / "usr/include").glob("python3.*"))
    place = cache / "built" / architecture.name
    shutil.rmtree(place, ignore_errors=True)
    compiler = f"{architecture.compiler} --sysroot={root}"
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--include-dirs", str(include),
         "--build-lib", str(place / "lib"), "--build-temp", str(place / "objects")],
        env=os.environ | {"CC": compiler, "LDSHARED": f"{compiler} -shared", "PROCTOR_STRICT": "1"},
        cwd=tree, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise Missing(f"it does not compile for {architecture.name}: {done.stdout}{done.stderr}")
    top = place / "lib"
    return {
        f"{PROJECT}/src/{path.relative_to(top)}": path for path in top.rglob("*") if path.is_file()
    }


def _unpacked(architecture: Architecture, cache: Path) -> Path:
    """A directory with the packages' files, anew when one of them is another."""
    apt = Apt(architecture.suite, cache, architecture)
    apt.update()
    archives = apt.with_dependencies([*PACKAGES, *_PYTHON])
    key = hashlib.sha256("\n".join(sorted(archives)).encode()).hexdigest()[:16]
    root = cache / "roots" / f"{architecture.name}-{key}"
    if root.exists():
        return root
    for old in root.parent.glob(f"{architecture.name}-*"):
        shutil.rmtree(old)
    aside = root.with_name(f"{root.name}.{os.getpid()}")
    try:
        for name in _MERGED:
            (aside / "usr" / name).mkdir(parents=True)
            (aside / name).symlink_to(f"usr/{name}")
        for archive in apt.fetch([*PACKAGES, *_PYTHON]):
            if not _UNUSED.fullmatch(archive.name.partition("_")[0]):
                unpack(archive, aside)
        (aside / "usr/bin/cc").symlink_to("gcc")
        aside.rename(root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return root


def unpack(archive: Path, place: Path) -> None:
    """Its files, those in /bin and /lib by way of the links, which dpkg-deb -x would replace."""
    files = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
    tar = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(place)]
    subprocess.run(tar, stdin=files.stdout, check=True)
    if files.wait() != 0:
        raise Missing(f"{archive.name} cannot be unpacked")


def _wheels(architecture: Architecture, version: str, cache: Path) -> Path:
    """A directory with packages of Python for a Python of that version there.

    :raises Missing: pip has none of them.
    """
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in _IMPORTED]
    key = hashlib.sha256(" ".join([version, *wanted]).encode()).hexdigest()[:16]
    place = cache / "wheels" / f"{architecture.name}-{key}"
    if place.exists():
        return place
    machine = architecture.compiler.partition("-")[0]
    platforms = [word for libc in _WHEELS for word in ("--platform", f"{libc}_{machine}")]
    aside = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--only-binary=:all:", "--python-version", version, *platforms, "--target", str(aside), *wanted],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise Missing(f"pip has no wheels for {architecture.name}: {done.stderr.strip()}")
        aside.rename(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return place
