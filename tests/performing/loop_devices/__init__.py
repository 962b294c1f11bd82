"""Loop devices of the host's for images of a container's."""
