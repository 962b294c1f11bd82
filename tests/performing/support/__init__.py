"""What the tests of performing share: callers, containers, places, networks, servers, images."""
