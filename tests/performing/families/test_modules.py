"""Kernel modules: the host's, by the name that a caller's image says.

Where the kernel has no modules (`CONFIG_MODULES=n`) modprobe and /sys/module are stand-ins; the last
test loads a real one where there are any.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.call.verdict import Answer, Deny, LetRun
from proctor.performing import module_name
from proctor.performing.conversation import Conversation
from proctor.performing.families import modules
from proctor.performing.families.modules import Options
from tests.performing.families.test_mknod import in_a_nested_namespace
from tests.performing.families.test_open_differential import MAP
from tests.performing.support.callers import Performers, caller, drop_capabilities
from tests.support.processes import eventually

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("gcc"),
    reason="modules want the host's root, images a compiler",
)

SOURCE = r"""
#define INFO(name, text) \
    static const char name[] __attribute__((section(".modinfo"), used)) = text
INFO(a, "license=GPL"); INFO(b, "name=%s"); INFO(c, "depends=");
int init_module(void) { return 0; }
"""


def build(place: Path, name: str = "dummy_one", *options: str) -> bytes:
    source = place / "module.c"
    source.write_text(SOURCE % name)
    subprocess.run(["gcc", "-c", *options, "-o", place / "module.ko", source], check=True)
    return (place / "module.ko").read_bytes()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that has modules: what its modprobe was told is in ``told``."""
    for name in ("loaded", "loaded/there"):
        (tmp_path / name).mkdir()
    program = tmp_path / "modprobe"
    program.write_text(
        f"""#!/bin/sh
echo "$@" "$LC_ALL" "$(id -u)" >> {tmp_path}/told
case "$2" in
missing) echo "modprobe: FATAL: Module missing not found in directory /lib/modules/x" >&2; exit 1;;
busy) echo "modprobe: ERROR: could not insert 'busy': Device or resource busy" >&2; exit 1;;
strange) echo "who knows" >&2; exit 1;;
esac
"""
    )
    program.chmod(0o755)
    (tmp_path / "list").touch()
    monkeypatch.setattr(modules, "MODPROBE", str(program))
    monkeypatch.setattr(modules, "LOADED", str(tmp_path / "loaded"))
    monkeypatch.setattr(modules, "LIST", str(tmp_path / "list"))
    return tmp_path


def told(host: Path) -> list[str]:
    path = host / "told"
    return path.read_text().splitlines() if path.exists() else []


def load(performers: Performers, image: bytes, options: Options, parameters: bytes = b"") -> Any:
    with caller(maps=MAP) as one:
        call = one.call("init_module", image, len(image), parameters)
        return performers.carry_out(call, proctor.Perform(None, "", options))


ONE = Options(modules=["dummy-one"], parameters=["dummy_one.size"])


def test_the_hosts_module_is_loaded_and_the_image_is_not(
    performers: Performers, host: Path, tmp_path: Path
) -> None:
    image = build(tmp_path)
    assert load(performers, image, ONE) == Answer(0)
    assert load(performers, image, ONE, b"size=3") == Answer(0)
    assert told(host) == ["-- dummy_one C 0", "-- dummy_one size=3 C 0"]


def zstd(data: bytes) -> bytes:
    if not shutil.which("zstd"):
        pytest.skip("no zstd")
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


def test_what_zstd_made_is_read_whole(tmp_path: Path) -> None:
    long = os.urandom(1 << 20) + bytes(3 << 20)
    packed = zstd(long)
    assert module_name.plain(packed) == long
    for wrong in (packed[:-1], packed[:9], packed[:999] + b"\xff" * 9 + packed[1008:]):
        with pytest.raises(ValueError, match="zstd"):
            module_name.plain(wrong)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, zstd])
def test_by_descriptor_in_each_compression(
    performers: Performers, host: Path, tmp_path: Path, pack: Any
) -> None:
    path = tmp_path / "packed.ko"
    path.write_bytes(pack(build(tmp_path)))
    flags = 0 if pack is bytes else 4
    with open(path, "rb") as file, caller(lambda: os.dup2(file.fileno(), 77), MAP) as one:
        wish = proctor.Perform(None, "", ONE)
        assert performers.carry_out(one.call("finit_module", 77, b"", flags), wish) == Answer(0)
        for fd, flag, number in (
            (77, 8, errno.EINVAL), (77, 2, errno.EPERM), (78, 0, errno.EBADF), (78, 4, errno.EBADF),
            (77, 4 - flags, errno.ENOEXEC if flags else errno.EINVAL),
        ):  # fmt: skip
            verdict = performers.carry_out(one.call("finit_module", fd, b"", flag), wish)
            assert isinstance(verdict, Deny) and verdict.errno == number
    assert told(host) == ["-- dummy_one C 0"]


def test_what_is_no_module_file(performers: Performers, host: Path, tmp_path: Path) -> None:
    held = [
        *os.pipe(), os.open(tmp_path, os.O_RDONLY), os.open(tmp_path / "list", os.O_WRONLY),
        os.open(tmp_path / "list", os.O_RDONLY), os.open(tmp_path / "empty", os.O_RDONLY | os.O_CREAT),
    ]  # fmt: skip

    def setup() -> None:
        for number, fd in zip((77, 81, 78, 79, 80, 82), held, strict=True):
            os.dup2(fd, number)

    with caller(setup, MAP) as one:
        wish = proctor.Perform(None, "", ONE)
        for fd, number in (
            (77, errno.EINVAL), (78, errno.EINVAL), (79, errno.EBADF), (80, errno.ETXTBSY), (82, errno.EINVAL), (-1, errno.EBADF),
        ):  # fmt: skip
            verdict = performers.carry_out(one.call("finit_module", fd, b"", 0), wish)
            assert isinstance(verdict, Deny) and verdict.errno == number, fd
    for fd in held:
        os.close(fd)
    assert told(host) == []


def test_an_image_that_is_being_written_is_busy(
    performers: Performers, host: Path, tmp_path: Path
) -> None:
    """Whoever writes it, the caller itself too (``deny_write_access``); and who opens it then is not kept from that."""
    path = tmp_path / "module.ko"
    image = build(tmp_path)
    wish = proctor.Perform(None, "", ONE)
    with open(path, "rb") as file, caller(lambda: os.dup2(file.fileno(), 77), MAP) as one:
        call = ("finit_module", 77, b"", 0)
        with open(path, "r+b"):
            assert performers.carry_out(one.call(*call), wish)[0] == errno.ETXTBSY
        assert performers.carry_out(one.call(*call), wish) == Answer(0)
    with open(path, "r+b") as file, caller(lambda: os.dup2(file.fileno(), 77), MAP) as one:
        assert performers.carry_out(one.call(*call), wish)[0] == errno.ETXTBSY
        assert file.write(image) == len(image)
    assert told(host) == ["-- dummy_one C 0"]


def test_what_is_loaded_is_before_its_parameters(
    performers: Performers, host: Path, tmp_path: Path
) -> None:
    image = build(tmp_path, "there")
    with caller(maps=MAP) as one:
        wish = proctor.Perform(None, "", Options(modules=["there"]))
        for parameters in (b"other=1", 1):
            call = one.call("init_module", image, len(image), parameters)
            assert performers.carry_out(call, wish)[0] == errno.EEXIST


def test_errors_are_the_hosts(performers: Performers, host: Path, tmp_path: Path) -> None:
    names = ("missing", "busy", "strange", "there", "other")
    options = Options(modules=names[:-1])
    for name, number in zip(
        names, (errno.ENOENT, errno.EBUSY, errno.EPERM, errno.EEXIST, errno.EPERM), strict=True
    ):
        verdict = load(performers, build(tmp_path, name), options)
        assert isinstance(verdict, Deny) and verdict.errno == number, verdict
    assert "not among" in verdict.reason
    assert [line.split()[1] for line in told(host)] == ["missing", "busy", "strange"]


def test_parameters_are_on_a_list_too(performers: Performers, host: Path, tmp_path: Path) -> None:
    image = build(tmp_path)
    for parameters in (
        b"other=1", b"size=3 other", b'size="a b"', b"--force", b"-C /x",
        b"size=3\xa0other=1", "size=3àother=1".encode(),  # a byte that is a space to the kernel
    ):  # fmt: skip
        verdict = load(performers, image, ONE, parameters)
        assert isinstance(verdict, Deny) and verdict.errno == errno.EPERM
        assert "parameter" in verdict.reason
    assert told(host) == []


def test_hostile_images(performers: Performers, host: Path, tmp_path: Path) -> None:
    """Whatever it is, no name comes of it, and nothing is loaded."""
    good = build(tmp_path)
    images = [good[:length] for length in (64, 100, len(good) // 2)]
    for place in range(0, 64, 3):
        images.append(good[:place] + b"\xff" * 8 + good[place + 8 :])
    images += [
        gzip.compress(bytes(1 << 24)), lzma.compress(bytes(1 << 24)), b"\x28\xb5\x2f\xfd" + bytes(99),
        b"\x1f\x8b" + bytes(99), good.replace(b"name=dummy_one", b"name=dummy one"),
        good.replace(b"name=dummy_one", b"name=../../one"), good.replace(b"name=", b"nome="),
    ]  # fmt: skip
    for image in images:
        try:
            found = module_name.name_of(module_name.plain(image))
        except Exception:  # what main() says
            continue
        assert found == "dummy_one"
    for image in images[-3:]:
        verdict = load(performers, image, Options(modules=["dummy one".replace(" ", "_")]))
        assert isinstance(verdict, Deny) and verdict.errno == errno.ENOEXEC
    with caller(maps=MAP) as one:
        for size, number in ((10, errno.ENOEXEC), (1 << 40, errno.ENOMEM)):
            call = one.call("init_module", good, size, b"")
            assert performers.carry_out(call, proctor.Perform(None, "", ONE))[0] == number
    assert told(host) == []


def test_an_image_in_memory_is_not_decompressed(
    performers: Performers, host: Path, tmp_path: Path
) -> None:
    """Nor a file that is cut short taken for one (``module_decompress``)."""
    packed = gzip.compress(build(tmp_path))
    verdict = load(performers, packed, ONE)
    assert isinstance(verdict, Deny) and verdict.errno == errno.ENOEXEC
    path = tmp_path / "cut"
    path.write_bytes(packed[: len(packed) // 2])
    with open(path, "rb") as file, caller(lambda: os.dup2(file.fileno(), 77), MAP) as one:
        call = one.call("finit_module", 77, b"", 4)
        verdict = performers.carry_out(call, proctor.Perform(None, "", ONE))
    assert isinstance(verdict, Deny) and verdict.errno == errno.EINVAL
    assert told(host) == []


def test_other_sizes_and_orders(tmp_path: Path) -> None:
    if subprocess.run(
        ["gcc", "-m32", "-x", "c", "-c", "-o", "/dev/null", "/dev/null"], capture_output=True, check=False
    ).returncode:  # fmt: skip
        pytest.skip("the compiler makes no 32-bit objects")
    assert module_name.name_of(build(tmp_path, "narrow", "-m32")) == "narrow"


def test_whoever_reads_images_has_nothing(tmp_path: Path) -> None:
    program = (
        "import os\nfrom proctor.performing import module_name\nmodule_name.confine()\n"
        "print(os.getresuid(), os.getgroups())\n"
        "for each in (lambda: os.open('/etc/passwd', 0), os.fork):\n"
        "    try:\n        each(); print('could')\n    except OSError as error:\n        print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "(65534, 65534, 65534) []", str(errno.EMFILE), str(errno.EAGAIN),
    ]  # fmt: skip


def test_who_may_not(performers: Performers, host: Path, tmp_path: Path) -> None:
    image = build(tmp_path)
    wish = proctor.Perform(None, "", ONE)
    args = ("init_module", image, len(image), b"")
    with caller(lambda: drop_capabilities(((1 << 41) - 1) & ~(1 << 16)), MAP) as one:
        assert "no CAP_SYS_MODULE" in performers.carry_out(one.call(*args), wish).reason  # type: ignore[union-attr]
    with caller(in_a_nested_namespace, MAP) as one:
        assert "of its own making" in performers.carry_out(one.call(*args), wish).reason  # type: ignore[union-attr]
    with caller() as one:
        assert isinstance(performers.carry_out(one.call(*args), wish), LetRun)
    assert told(host) == []


@pytest.fixture
def waiting(host: Path) -> Path:
    """A host whose modprobe waits until somebody writes to the FIFO ``gate``."""
    os.mkfifo(host / "gate")
    (host / "modprobe").write_text(
        f"#!/bin/sh\necho begun > {host}/begun\nread word < {host}/gate\n"
    )
    return host


def begin(performers: Performers, one: Any, image: bytes) -> Conversation:
    """Begin to load, until modprobe is what is waited for."""
    call = one.call("init_module", image, len(image), b"")
    begun = performers.begin(call, proctor.Perform(None, "", ONE))
    assert isinstance(begun, Conversation)
    return begun


def until_modprobe_waits(conversation: Conversation, host: Path) -> None:
    def waits() -> bool:
        assert conversation.go_on() is None
        return (host / "begun").exists()

    eventually("modprobe to run", waits)


def test_nobody_waits_for_the_hosts_programs(
    performers: Performers, waiting: Path, tmp_path: Path
) -> None:
    image = build(tmp_path)
    with caller(maps=MAP) as one, caller(maps=MAP) as other:
        conversation = begin(performers, one, image)  # returned at once
        until_modprobe_waits(conversation, waiting)
        wish = proctor.Perform(None, "", Options())
        refused = performers.carry_out(other.call("delete_module", b"other", 0), wish)
        assert isinstance(refused, Deny) and "not among" in refused.reason
        os.kill(one.pid, signal.SIGSTOP)
        os.kill(one.pid, signal.SIGALRM)  # it is to take one, and modprobe goes on all the same
        assert conversation.look() is None
        (waiting / "gate").write_text("go\n")
        assert conversation.wait() == Answer(0)


def test_a_caller_that_dies_ends_the_hosts_programs(
    performers: Performers, waiting: Path, tmp_path: Path
) -> None:
    image = build(tmp_path)
    with caller(maps=MAP) as one:
        conversation = begin(performers, one, image)
        until_modprobe_waits(conversation, waiting)
        worker = conversation._asked.worker  # type: ignore[union-attr]
        conversation.cancel()
        verdict = conversation.verdict
        assert isinstance(verdict, Deny) and verdict.errno == errno.EINTR
        eventually("modprobe to die", worker.ended)


def test_the_hosts_programs_count_against_the_limit(waiting: Path, tmp_path: Path) -> None:
    image = build(tmp_path)
    with Performers(limit=1) as performers, caller(maps=MAP) as one, caller(maps=MAP) as two:
        first = begin(performers, one, image)
        until_modprobe_waits(first, waiting)
        verdict = performers.carry_out(
            two.call("init_module", image, len(image), b""), proctor.Perform(None, "", ONE)
        )
        assert isinstance(verdict, Deny) and verdict.errno == errno.ENOMEM
        (waiting / "gate").write_text("go\n")
        assert first.wait() == Answer(0)
        (waiting / "begun").unlink()
        again = begin(performers, two, image)
        until_modprobe_waits(again, waiting)
        (waiting / "gate").write_text("go\n")
        assert again.wait() == Answer(0)


def test_the_hosts_programs_have_an_end(
    waiting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "_PATIENCE", 0)
    troubles: list[str] = []
    with Performers(on_trouble=troubles.append) as performers, caller(maps=MAP) as one:
        verdict = begin(performers, one, build(tmp_path)).wait()
    assert len(troubles) == 1
    assert isinstance(verdict, Deny) and verdict.errno == errno.EPERM
    assert "did not end in time" in verdict.reason


def test_an_image_that_is_never_read_ends_with_its_caller(
    performers: Performers, host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it waits; a signal ends that, and the call is to be made again."""
    (tmp_path / "slow.py").write_text("import signal; print(flush=True); signal.pause()")
    monkeypatch.setattr(module_name, "__file__", str(tmp_path / "slow.py"))
    with caller(lambda: signal.signal(signal.SIGALRM, lambda *_: None), maps=MAP) as one:
        conversation = begin(performers, one, build(tmp_path))
        os.kill(one.pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(
            os.waitpid(one.pid, os.WUNTRACED)[1]
        )  # it would take the lower number first
        os.kill(one.pid, signal.SIGALRM)
        eventually("the signal", lambda: one.call("init_module").caller.pending(its_own=True))
        verdict = conversation.look() or conversation.wait()
        assert isinstance(verdict, Deny) and verdict.errno == 512  # ERESTARTSYS
    assert told(host) == []


def test_unloading(performers: Performers) -> None:
    """By the kernel itself, with the right lent: its own errors."""
    kernel = errno.ENOENT if os.path.exists("/proc/modules") else errno.ENOSYS
    with caller(maps=MAP) as one:
        call = ("delete_module", b"no_such_module", os.O_NONBLOCK)
        for options, number in (
            (Options(), errno.EPERM), (Options(["no_such_module"]), errno.EPERM),
            (Options(["no_such_module"], unload=True), kernel),
        ):  # fmt: skip
            verdict = performers.carry_out(one.call(*call), proctor.Perform(None, "", options))
            assert isinstance(verdict, Deny) and verdict.errno == number
        verdict = performers.carry_out(
            one.call("delete_module", b"", 0), proctor.Perform(None, "", Options())
        )
        assert isinstance(verdict, Deny) and verdict.errno == errno.ENOENT


def test_a_kernel_without_modules(performers: Performers, tmp_path: Path) -> None:
    if os.path.exists("/proc/modules"):
        pytest.skip("this kernel has modules")
    assert load(performers, build(tmp_path), ONE)[0] == errno.ENOSYS


def test_a_real_module(performers: Performers) -> None:
    """Loaded from the container's copy of the file, found loaded, and taken away."""
    if not os.path.exists("/proc/modules") or not shutil.which("modprobe"):
        pytest.skip("this kernel has no modules, or there is no modprobe")
    found = subprocess.run(
        ["modinfo", "-n", "dummy"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not found.startswith("/") or os.path.exists("/sys/module/dummy"):
        pytest.skip("no module to spare")
    wish = proctor.Perform(None, "", Options(["dummy"], unload=True))
    flags = 0 if found.endswith(".ko") else 4
    with caller(lambda: os.dup2(os.open(found, os.O_RDONLY), 77), MAP) as one:
        load = ("finit_module", 77, b"", flags)
        assert performers.carry_out(one.call(*load), wish) == Answer(0)
        try:
            assert os.path.exists("/sys/module/dummy")
            assert performers.carry_out(one.call(*load), wish)[0] == errno.EEXIST
            assert performers.carry_out(
                one.call("delete_module", b"dummy", os.O_NONBLOCK), wish
            ) == Answer(0)
        finally:
            subprocess.run(["modprobe", "-r", "dummy"], check=False)
        assert not os.path.exists("/sys/module/dummy")


def test_options_say_what_is_wrong() -> None:
    for wrong in (
        {"modules": "dummy"}, {"modules": ["../x"]}, {"modules": ["a"], "parameters": ["b.c"]},
        {"parameters": ["x"]}, {"unload": 1}, {"modules": [1]},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"modules|parameters|unload"):
            Options(**wrong)  # type: ignore[arg-type]
    assert proctor.families.modules(modules=["dummy"]).wants("finit_module")
