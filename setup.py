"""Builds the native core; everything else is in pyproject.toml."""

import os
import shlex
import sys

from setuptools import Extension, setup

setup(
    # Elsewhere there is no kernel to speak to, but handlers can be tested (proctor.testing).
    ext_modules=[
        Extension(
            "proctor.kernel._core",
            [f"src/proctor/kernel/{name}.c" for name in ("_core", "_launch", "_loop")],
            depends=["src/proctor/kernel/_core.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            extra_compile_args=[
                "-std=gnu11",
                "-O2",
                "-fvisibility=hidden",
                "-Wall",
                "-Wextra",
                "-Werror",
                *shlex.split(os.environ.get("PROCTOR_CFLAGS", "")),
            ],
            # -z now: nothing is left to resolve in a child between clone and exec.
            extra_link_args=[
                "-Wl,-z,now",
                *shlex.split(os.environ.get("PROCTOR_LDFLAGS", "")),
            ],
        )
    ]
    if sys.platform == "linux"
    else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
