"""The families: calls that are performed alike, one module each.

A module says which calls those are (``CALLS``) and how one is performed (``perform(task)``): it goes
from the call's kept values to requests, and from their replies to a verdict.  Nothing else in proctor
knows their names (:mod:`proctor.performing.registry`).
"""
