"""One monitor for the containers of a machine: runtimes hand their listeners over at its doors."""
