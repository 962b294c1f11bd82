"""The processors that machines are emulated of: what each calls its things, and what brings them."""

from __future__ import annotations

from typing import NamedTuple


class Architecture(NamedTuple):
    """One of Debian's."""

    #: As Debian says.
    name: str
    #: The emulator, and the package that has it.
    qemu: str
    package: str
    #: Of the emulator: what machine, with which two serial ports (``console``, ``reports``).
    machine: tuple[str, ...]
    #: The ports inside: what the kernel says, and what is reported.
    console: str
    port: str
    #: Kernels, by default, and flavours of them that boot in a plain machine, the smallest first.
    kernels: tuple[str, ...]
    flavours: tuple[str, ...]
    #: Times that a machine is slower than one whose processor is this system's.
    slowness: int = 1
    #: What compiles for it here.
    compiler: str = "cc"
    #: The suite with its userland; the system's own if none is named.
    suite: str = ""


_SECOND_PORT = ("-serial", "chardev:console", "-device", "pci-serial,chardev=reports")

AMD64 = Architecture(
    "amd64", "qemu-system-x86_64", "qemu-system-x86",
    ("-M", "pc", "-cpu", "max", "-serial", "chardev:console", "-serial", "chardev:reports"),
    "ttyS0", "ttyS1",
    ("5.10@bullseye", "6.1@bookworm", "6.12@trixie", "?@sid"),
    ("cloud-amd64", "generic", "oem", "amd64"),
)  # fmt: skip
#: Others: their kernels have a driver of the second port built in.
FOREIGN = (
    Architecture(
        # Pointers signed the architecture's own way cost more than all else that is emulated.
        "arm64", "qemu-system-aarch64", "qemu-system-arm",
        ("-M", "virt", "-cpu", "max,pauth-impdef=on", *_SECOND_PORT),
        "ttyAMA0", "ttyS0", ("6.1@bookworm",), ("cloud-arm64", "generic", "arm64"), 2,
        "aarch64-linux-gnu-gcc",
    ),
    Architecture(
        "riscv64", "qemu-system-riscv64", "qemu-system-misc",
        ("-M", "virt", "-cpu", "rv64", *_SECOND_PORT),
        "ttyS0", "ttyS1", ("6.12@trixie",), ("cloud-riscv64", "generic", "riscv64"), 2,
        "riscv64-linux-gnu-gcc", "trixie",
    ),
)  # fmt: skip
ALL = {architecture.name: architecture for architecture in (AMD64, *FOREIGN)}
