"""Filters as container runtimes write them: OCI, Docker and Podman, LXC."""
