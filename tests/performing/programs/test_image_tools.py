"""Programs that unpack and build images of containers, as root of an unprivileged container."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

import proctor
from tests.performing.support.containers import inside

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="what is compared real root makes")


def needs(*programs: str) -> None:
    for each in programs:
        if not shutil.which(each):
            pytest.skip(f"no {each}")


def shell(top: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a container that may make devices and mark layers."""
    handlers = [proctor.families.mknod(when={"type": ["char", "block"]}), proctor.families.xattr()]
    preface = f"cd {top}; export HOME={top} TMPDIR={top} XDG_RUNTIME_DIR={top}/run; mkdir -p run\n"
    done: subprocess.CompletedProcess[str] = inside(
        ["sh", "-ec", preface + script], handlers, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def image(place: bytes) -> Path:
    """A directory of the container's with an image of two layers, which host's root made."""
    needs("umoci", "skopeo", "setcap")
    top = Path(os.fsdecode(place))
    script = """
umoci init --layout img; umoci new --image img:t; umoci unpack --image img:t made
cd made/rootfs
mkfifo fifo; cp /bin/true capable; setcap cap_net_raw+ep capable; cp /bin/true suid; chmod 4755 suid
mkdir -p dir/below; touch dir/gone dir/kept; ln dir/kept dir/linked; ln -s kept dir/link; chown -h 5:6 dir dir/link
setfattr -n user.note -v y dir 2>/dev/null || true
cd ../..
umoci repack --image img:t made; umoci unpack --image img:t second
rm second/rootfs/dir/gone; umoci repack --image img:t second; rm -r made second
"""
    subprocess.run(["sh", "-ec", script], cwd=top, check=True, capture_output=True)
    for path in [top / "img", *(top / "img").rglob("*")]:
        os.chown(path, 100000, 100000)
    return top


def tree(top: Path, first: int) -> dict[str, Any]:
    """What is there, ids as a container sees them whose first is this."""
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False)[:20]
            for name in os.listxattr(path, follow_symlinks=False)
        }
        found[str(path.relative_to(top))] = (
            oct(status.st_mode), status.st_uid - first, status.st_gid - first, status.st_nlink,
            status.st_size, int(status.st_mtime), sorted(attributes),
            path.read_bytes() if stat.S_ISREG(status.st_mode) else None,
        )  # fmt: skip
    return found


def test_umoci_and_skopeo(image: Path) -> None:
    """What they unpack and copy is what real root's do: owners, modes, links, capabilities, what a layer
    takes away."""
    shell(image, "umoci unpack --image img:t theirs; skopeo copy -q oci:img:t oci:copied:t")
    script = "umoci unpack --image img:t ours; umoci unpack --image copied:t again"
    subprocess.run(["sh", "-ec", script], cwd=image, check=True, capture_output=True)
    ours = tree(image / "ours" / "rootfs", 0)
    assert "dir/kept" in ours and "dir/gone" not in ours
    assert ours["capable"][6] == ["security.capability"]
    assert tree(image / "theirs" / "rootfs", 100000) == ours == tree(image / "again" / "rootfs", 0)


def test_buildah_builds(place: bytes) -> None:
    """Each step runs in a namespace of buildah's own, and makes a device as root of the container may."""
    needs("buildah", "busybox")
    top = Path(os.fsdecode(place))
    shutil.copy("/bin/busybox", top / "busybox")
    (top / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (top / "Dockerfile").write_text(
        'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "mknod", "/null", "c", "1", "3"]\n'
        'RUN ["/bin/busybox", "sh", "-c", "echo lost > /null; echo kept > /file"]\n'
    )
    shell(
        top,
        f"""
export _CONTAINERS_USERNS_CONFIGURED=1
buildah --storage-driver vfs --root {top}/store --runroot {top}/run bud --isolation chroot --layers=false \
    --cap-add CAP_MKNOD --signature-policy policy.json -t oci:{top}/out:made . >&2
""",
    )
    blobs = top / "out" / "blobs" / "sha256"
    index = json.loads((top / "out" / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    layers = [blobs / each["digest"][7:] for each in manifest["layers"]]
    entries = {}
    for path in layers:
        with tarfile.open(path) as layer:
            entries.update((each.name.lstrip("/"), each) for each in layer)
    null = entries["null"]
    assert (null.ischr(), null.devmajor, null.devminor, null.uid) == (True, 1, 3, 0)
    assert entries["file"].size == len("kept\n") and entries["bin/busybox"].uid == 0


def test_podman_runs_inside(place: bytes) -> None:
    """A container within the container, by the podman that is used outside: mounts are its own to make, devices
    are made for it."""
    needs("podman", "crun", "busybox")
    top = Path(os.fsdecode(place))
    for each in (
        "root/bin",
        "root/proc",
        "root/sys",
        "root/dev",
        "root/etc",
        "root/tmp",
        "root/run",
    ):
        (top / each).mkdir(parents=True)
    shutil.copy("/bin/busybox", top / "root/bin/busybox")
    for path in [top / "root", *(top / "root").rglob("*")]:
        os.chown(path, 100000, 100000)
    within = """
b=/bin/busybox; $b mknod /tmp/null c 1 3; echo lost > /tmp/null; $b stat -c '%F %t:%T %u %s' /tmp/null
$b mount -t tmpfs none /tmp; $b mknod /tmp/zero c 1 5; $b head -c 3 /tmp/zero | $b wc -c
$b mknod /tmp/disk b 8 0 2>/dev/null || echo refused; $b cat /proc/sys/kernel/hostname
"""
    (top / "root/script").write_text(within)
    script = f"""
for each in /run /dev/shm /sys/fs/cgroup; do mount -t tmpfs none $each; done; mkdir /run/lock
podman --root {top}/store --runroot {top}/runroot --tmpdir {top}/tmp --cgroup-manager cgroupfs --events-backend file \
    --storage-driver vfs run --rm --runtime crun --network none --cgroups disabled --hostname deep \
    --cap-add mknod,sys_admin --security-opt seccomp=unconfined --rootfs {top}/root /bin/busybox sh /script
"""
    handlers = [
        proctor.families.mknod(when={"type": "char", "device": ["1:3", "1:5"]}),
        proctor.families.xattr(),
        proctor.families.mount(filesystems=["ext4"], images=True),
    ]
    home = f"export HOME={top} TMPDIR={top} XDG_RUNTIME_DIR={top}/xdg; mkdir -p $XDG_RUNTIME_DIR\n"
    alone = ["unshare", "--mount", "--ipc", "--pid", "--uts", "--fork", "--mount-proc"]
    done = inside([*alone, "sh", "-ec", home + script], handlers, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["character special file 1:3 0 0", "3", "refused", "deep"]
