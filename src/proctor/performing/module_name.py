"""Which module an image is: found out by a process that has nothing to lose.

The image is a target's.  Run as a program with it as standard input, this drops all rights and most
resources, decompresses it if it is said to be compressed, and reads the section ``.modinfo`` (include/linux/module.h; elf(5)).
It prints the name; or a sentence that begins with a space, with :data:`INVALID` for what is not even a file that could be one, or with :data:`BUSY`.

argv: "file" for one of somebody's, "compressed" for what is said to be (MODULE_INIT_COMPRESSED_FILE).
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import struct
import sys
from functools import cache
from typing import Final

#: Bytes that an image may have, and seconds that finding out may take.
LARGEST: Final = 128 << 20
PATIENCE: Final = 5
#: Before what is EINVAL, not ENOEXEC (``kernel_read_file`` of fs/kernel_read_file.c, ``module_decompress`` of
#: kernel/module/decompress.c).
INVALID: Final = "!"
#: Before what is ETXTBSY.
BUSY: Final = "~"
_NOBODY: Final = 65534
_PIECE: Final = 1 << 20


def confine() -> None:
    """No rights, no files, no processes, and an end."""
    import resource

    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    for which, most in (
        (resource.RLIMIT_AS, 1 << 30), (resource.RLIMIT_CPU, PATIENCE), (resource.RLIMIT_FSIZE, 4096),
        (resource.RLIMIT_NOFILE, 3), (resource.RLIMIT_NPROC, 0),
    ):  # fmt: skip
        resource.setrlimit(which, (most, most))


def plain(data: bytes) -> bytes:
    """The image, decompressed.

    :raises ValueError: it is of a kind that is not known here."""
    if data[:2] == b"\x1f\x8b":
        import gzip

        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read(LARGEST)
    if data[:6] == b"\xfd7zXZ\0":
        import lzma

        return lzma.LZMADecompressor().decompress(data, LARGEST)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return _by_zstd(data)
    return data


@cache
def _zstd() -> ctypes.CDLL:
    """The library that kmod has, since Python knows zstd from 3.14 on only.

    :raises OSError: there is none."""
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_createDStream.restype = ctypes.c_void_p
    library.ZSTD_decompressStream.restype = ctypes.c_size_t
    return library


class _Buffer(ctypes.Structure):
    """``ZSTD_inBuffer`` and ``ZSTD_outBuffer``."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("at", ctypes.c_size_t))


def _by_zstd(data: bytes) -> bytes:
    try:
        library = _zstd()
    except OSError:
        raise ValueError("it is compressed by zstd, and there is no libzstd.so.1") from None
    stream, piece = library.ZSTD_createDStream(), ctypes.create_string_buffer(_PIECE)
    made: list[bytes] = []
    read, left = _Buffer(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), 0), 1
    while left and len(made) * _PIECE < LARGEST:
        written = _Buffer(ctypes.addressof(piece), _PIECE, 0)
        left = library.ZSTD_decompressStream(
            ctypes.c_void_p(stream), ctypes.byref(written), ctypes.byref(read)
        )
        cut_short = left and read.at == len(data) and written.at < _PIECE
        if cut_short or library.ZSTD_isError(ctypes.c_size_t(left)):
            raise ValueError("it is nothing that zstd made")
        made.append(piece.raw[: written.at])
    return b"".join(made)


def name_of(data: bytes) -> str:
    """The name in ``.modinfo``.

    :raises ValueError: this is no module, or says no name that one can have."""
    if data[:4] != b"\x7fELF" or data[4:5] not in (b"\1", b"\2") or data[5:6] not in (b"\1", b"\2"):
        raise ValueError("it is no ELF file")
    end = "<" if data[5] == 1 else ">"
    wide = data[4] == 2
    header = struct.Struct(end + ("16xHHIQQQIHHHHHH" if wide else "16xHHIIIIIHHHHHH"))
    section = struct.Struct(end + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"))
    try:
        fields = header.unpack_from(data)
        start, size, count, strings = fields[5], fields[10], fields[11], fields[12]
        if size < section.size:
            raise ValueError("its sections are too small")
        heads = [section.unpack_from(data, start + size * each) for each in range(count)]
        names = _content(data, heads[strings])
    except (struct.error, IndexError) as error:
        raise ValueError(f"it is cut short: {error}") from None
    for head in heads:
        if names[head[0] : head[0] + 9] == b".modinfo\0":
            for entry in _content(data, head).split(b"\0"):
                if entry.startswith(b"name="):
                    name = entry[5:].decode("ascii", "replace")
                    if name and len(name) < 56 and name.replace("_", "").isalnum():
                        return name
    raise ValueError("it says no name of a module in .modinfo")


def _content(data: bytes, head: tuple[int, ...]) -> bytes:
    offset, length = head[4], head[5]
    return data[offset : offset + length]


def is_written() -> bool:
    """Whether somebody has the file open for writing, whom the kernel would not let write what it reads
    (``deny_write_access`` of fs/kernel_read_file.c): of whom there is one nobody gets a lease (F_SETLEASE of fcntl(2))."""
    import fcntl
    import signal

    signal.signal(signal.SIGIO, signal.SIG_IGN)  # who opens it meanwhile waits for the next line
    try:
        fd = os.open("/proc/self/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False  # somebody has a lease
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN  # else this file system has no leases
    finally:
        os.close(fd)
    return False


def main() -> None:
    """Say the name of what is on standard input."""
    if "file" in sys.argv[1:] and is_written():
        print(f"{BUSY}somebody has it open for writing", flush=True)
        return
    for each in ("gzip", "lzma"):  # before there is no way to load them
        try:
            __import__(each)
        except ImportError:
            pass
    try:
        _zstd()
    except OSError:
        pass
    confine()
    mark = INVALID
    try:
        data = os.pread(0, LARGEST, 0)
        if not data:
            raise ValueError("it is empty")
        if "compressed" in sys.argv[1:]:
            packed, data = data, plain(data)
            if data is packed:
                raise ValueError("it is not compressed")
        mark = " "
        print(name_of(data), flush=True)
    except Exception as error:
        print(f"{mark}{error or type(error).__name__}".replace("\n", " "), flush=True)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
