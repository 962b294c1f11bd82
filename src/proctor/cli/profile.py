"""``proctor profile``: a policy as a seccomp profile for a container runtime."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import PurePath


def profile(options: argparse.Namespace) -> int:
    """Print it.

    :raises PolicyError: the policy cannot be read, or cannot be served by a container's listener.
    :raises FilterError: the base cannot be read, or the format cannot say it.
    """
    from proctor.filter.profiles.merge import merged
    from proctor.policy import load
    from proctor.policy.profile import base_profile, profile, write

    policy = load(options.policy)
    made = profile(policy, base_profile(options.base) if options.base is not None else None)
    for how, which in options.merge or ():
        made = merged(made, base_profile(which), how)
    name = re.sub("[^a-z0-9]+", "-", PurePath(options.policy).stem.lower()).strip("-") or "policy"
    sys.stdout.write(
        write(
            made,
            options.format,
            name=name,
            listener=options.listener or "",
            metadata=options.metadata or "",
            killable=options.killable,
        )
    )
    return 0
