"""Other kernels, booted in emulated machines: see ``tools/kernels``."""
