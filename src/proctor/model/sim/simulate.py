"""The supervisor, simulated on machines that a seed makes up: ``python -m proctor.model.sim.simulate``.

A run is a row of episodes (:mod:`proctor.model.sim.episode`), each a machine of its own with its
own seed (:mod:`proctor.model.sim.settings`).  A violated invariant (:mod:`proctor.model.sim.ledger`) is found
again with the command that is printed, which plays the one episode.

``--trace`` prints the last events, ``--trace FILE.mmd`` draws them as a Mermaid sequence diagram, and
``--nightly`` is a run for a night.
"""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from proctor.model.sim.episode import Episode
from proctor.model.sim.settings import KINDS, Kind
from proctor.records import NamedTuple

NIGHTLY: Final = 10_000_000
#: Calls after which machines that are over are collected.
_COLLECT: Final = 5000


class Report(NamedTuple):
    """What a run was."""

    seed: int
    calls: int
    episodes: int
    counts: Counter[str]
    failed: Episode | None
    last: Episode | None


def simulate(
    seed: int,
    calls: int,
    *,
    only: int | None = None,
    kind: Kind | None = None,
) -> Report:
    """Episodes until ``calls`` calls were made, or until an invariant does not hold.

    :param only: just this episode.
    :param kind: only machines of this kind.
    """
    with _collecting_seldom() as collect:
        return _episodes(seed, calls, only, kind, collect)


def _episodes(
    seed: int, calls: int, only: int | None, kind: Kind | None, collect: Callable[[], object]
) -> Report:
    counts: Counter[str] = Counter()
    made, number = 0, only or 0
    episode: Episode | None = None
    while made < calls:
        episode = Episode(seed, number, kind)
        episode.run()
        counts += episode.ledger.counts
        if (made + episode.town.made) // _COLLECT > made // _COLLECT:
            collect()
        made += episode.town.made
        number += 1
        if episode.violation is not None:
            return Report(seed, made, number, counts, episode, episode)
        if only is not None:
            break
    return Report(seed, made, number, counts, None, episode)


@contextmanager
def _collecting_seldom() -> Iterator[Callable[[], object]]:
    """Without the cyclic garbage collector, which looks at all of a machine again and again: that is
    a seventh of the time.  Machines that are over are collected by what this yields."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield gc.collect
    finally:
        if before:
            gc.enable()


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if an invariant does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m proctor.model.sim.simulate", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--seed", type=int, metavar="N", help="by default the time")
    parser.add_argument(
        "--calls", type=_from(1), default=20_000, metavar="N",
        help="at least so many, whole episodes (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--nightly", action="store_true", help=f"{NIGHTLY:,} calls")
    parser.add_argument("--episode", type=_from(0), metavar="N", help="only this one, from 0 on")
    parser.add_argument("--kind", choices=KINDS, help="only machines of this kind")
    parser.add_argument(
        "--trace", nargs="?", const="", metavar="FILE.mmd",
        help="print the last events of the last episode, or draw them as a Mermaid sequence diagram",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else int(time.time())
    calls = NIGHTLY if options.nightly else options.calls
    if options.trace:
        try:  # a long run should not end with that
            open(options.trace, "a", encoding="utf-8").close()
        except OSError as problem:
            parser.error(f"--trace {options.trace}: {problem.strerror}")
    print(f"seed {seed}", flush=True)
    began = time.perf_counter()
    report = simulate(seed, calls, only=options.episode, kind=options.kind)
    seconds = time.perf_counter() - began
    for kind, count in sorted(report.counts.items()):
        print(f"{count:10}  {kind}")
    print(
        f"{report.calls:10}  calls in {report.episodes} episodes, {seconds:.1f} s, "
        f"{seconds / max(1, report.calls) * 1e6:.0f} µs each"
    )
    traced = _trace(report, options.trace)
    if report.failed is None:
        return 0 if traced else 1
    print(f"\nVIOLATED: {report.failed.violation}")
    print(f"machine: {report.failed.settings}")
    kind = f" --kind {options.kind}" if options.kind else ""
    print(
        f"again: python -m proctor.model.sim.simulate --seed {seed} --episode {report.failed.number}{kind}"
    )
    return 1


def _from(least: int) -> Callable[[str], int]:
    """What reads a whole number that is not below ``least``."""

    def whole(text: str) -> int:
        if (number := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{number} is less than {least}")
        return number

    whole.__name__ = "int"  # argparse names it when the text is no number
    return whole


def _trace(report: Report, where: str | None) -> bool:
    """Prints or draws the last events; False if the drawing could not be written."""
    if report.last is None:
        return True
    drawn = True
    events = report.last.events
    if where:
        from proctor.model.draw.chart import draw

        try:
            with open(where, "w", encoding="utf-8") as file:
                file.write(draw(events, f"seed {report.seed}, episode {report.last.number}"))
            print(f"drawn: {where}")
        except OSError as problem:
            print(f"--trace {where}: {problem.strerror}", file=sys.stderr)
            drawn = False
    if where == "" or report.failed is not None:
        print("\nthe last events:")
        for event in events[-60:]:
            about = f"#{event.call}" if event.call else ""
            whom = f" ({event.other})" if event.other else ""
            print(f"{event.now:12.6f}  {event.who:12} {event.kind:15} {about:8} {event.text}{whom}")
    return drawn


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # "| head" ends it without a word
    sys.exit(main())
