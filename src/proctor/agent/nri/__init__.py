"""A plugin of NRI, the Node Resource Interface of containerd and CRI-O: gives containers that are created
the seccomp profile that their policy needs."""
