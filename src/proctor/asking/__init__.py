"""Asking somebody about a call: a person at the terminal, a command, a socket, an address."""
