"""Builds what is native: the core, an extension, and the executor, a program of its own; everything
else is in pyproject.toml."""

import os
import shlex
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra"]
if os.environ.get(
    "PROCTOR_STRICT"
):  # for who changes it: a newer compiler's warnings are not its users' trouble
    FLAGS.append("-Werror")
CFLAGS = shlex.split(os.environ.get("PROCTOR_CFLAGS", ""))
LDFLAGS = shlex.split(os.environ.get("PROCTOR_LDFLAGS", ""))
CORE = "src/proctor/kernel/core"
HEADERS = sorted(glob(f"{CORE}/**/*.h", recursive=True))
EXECUTOR = "proctor/performing/executing/executor"
EXECUTOR_SOURCES = [f"src/{EXECUTOR}{part}" for part in (".c", "_steps.c")]
#: It lives in containers, where nothing of the host's is to be loaded: static where that can be had.
LINKED = [["-s", "-static-pie"], ["-s", "-static"], []]
if any(flag.startswith("-fsanitize") for flag in LDFLAGS):
    LINKED = [[]]


class Build(build_ext):
    """The extension, and beside it the executor."""

    def run(self):
        from setuptools.errors import CompileError, ExecError

        try:
            self.build()
        except (CompileError, ExecError, FileNotFoundError) as error:
            raise CompileError(
                f"{error}\nproctor is compiled: that takes gcc and Python's headers "
                "(Debian, Ubuntu: apt install gcc python3-dev; Fedora: dnf install gcc python3-devel)"
            ) from None

    def build(self):
        """Both."""
        super().run()
        made = self.compiler.compile(
            EXECUTOR_SOURCES,
            output_dir=self.build_temp,
            extra_postargs=[*FLAGS, "-fPIE", *CFLAGS],
        )
        from setuptools.errors import LinkError

        target = self.executor()
        self.mkpath(os.path.dirname(target))
        for last, flags in enumerate(LINKED, 1):
            try:
                self.compiler.link_executable(
                    made, os.path.basename(target), os.path.dirname(target),
                    extra_preargs=[*flags], extra_postargs=LDFLAGS,
                )  # fmt: skip
                return
            except LinkError:
                if last == len(LINKED):
                    raise

    def executor(self):
        """Where it belongs: among the sources if they are what is installed."""
        inplace = self.inplace or getattr(self, "editable_mode", False)
        return os.path.join("src" if inplace else self.build_lib, EXECUTOR)

    def get_source_files(self):
        return [*super().get_source_files(), *HEADERS, *EXECUTOR_SOURCES, f"src/{EXECUTOR}.h"]

    def get_outputs(self):
        return [*super().get_outputs(), self.executor()]

    def get_output_mapping(self):
        mapping = super().get_output_mapping()
        if self.inplace:
            mapping[os.path.join(self.build_lib, EXECUTOR)] = self.executor()
        return mapping


setup(
    # Elsewhere there is no kernel to speak to, but handlers can be tested (proctor.testing).
    ext_modules=[
        Extension(
            "proctor.kernel._core",
            sorted(glob(f"{CORE}/**/*.c", recursive=True)),
            depends=HEADERS,
            include_dirs=[CORE],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            extra_compile_args=[*FLAGS, "-fvisibility=hidden", *CFLAGS],
            # -z now: nothing is left to resolve in a child between clone and exec.
            extra_link_args=["-Wl,-z,now", *LDFLAGS],
        )
    ]
    if sys.platform == "linux"
    else [],
    cmdclass={"build_ext": Build} if sys.platform == "linux" else {},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
