"""Other kernels, booted in emulated machines: see ``tools/test-kernels``."""
