"""Sockets of callers, also in other networks than theirs."""
