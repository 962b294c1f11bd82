"""The processes that make system calls for callers: begun, asked, lent, waited for, ended, and not trusted."""
