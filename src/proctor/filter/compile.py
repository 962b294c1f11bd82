"""From rules to classic BPF.

Facts about the target machine and what they mean here:

* A bitmap in the kernel answers for calls that every filter provably allows, but its proof gives
  up at the first load of an argument (``seccomp_is_const_allow``).  So the way to any action
  loads the architecture, then the number, and an argument only where that very call has a
  condition on it.  The numbers are found by a balanced search, most of all for x32 and old
  kernels that have no bitmap.
* There are only forward jumps, and conditional ones reach 255 instructions.  What is farther is
  reached through a bridge: a copy of the RET it would reach, or a JA.
* There are no 64-bit loads: one comparison of a register is one to three of its halves.

The filter first becomes a graph of tests that ends in returns; equal parts of it are one part
(so rules with the same conditions share code).  The graph is then written down backwards,
last instruction first: every target's place is known before the jump to it, and each jump may
enter its target behind the load if it arrives with the right word in the accumulator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.errors import FilterError
from proctor.filter import opcodes as op
from proctor.filter.conditions import Test
from proctor.kernel import abi
from proctor.records import NamedTuple
from proctor.syscalls.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from proctor.filter.actions import Action
    from proctor.filter.rules import Clause, Filter

_M32 = 0xFFFFFFFF
_NR = 0
_ARCH = 4
_ARGS = 16

#: A node of the graph: (offset of the word to load, mask or -1, jump opcode, k, true, false); a
#: return is (-1, 0, 0, value, 0, 0).  Targets are indexes of earlier nodes.
_Node = tuple[int, int, int, int, int, int]

#: Clauses of one number, in a form that compares equal when they mean the same.
_Body = tuple[tuple[tuple[Test, ...], int], ...]


class _Span(NamedTuple):
    """Numbers ``first`` to ``last`` are judged by ``body``."""

    first: int
    last: int
    body: _Body


def assemble(source: Filter) -> bytes:
    """The packed program for ``source``.

    :raises FilterError: more than 4096 instructions.
    """
    graph = _Graph()
    root = graph.returns(source.foreign.value)
    by_number: dict[int, list[str]] = {}
    for arch in source.arches:
        by_number.setdefault(ARCHITECTURES[arch].audit, []).append(arch)
    # Backwards, so that the first architecture's search follows directly on the test for it.
    for audit, arches in reversed(by_number.items()):
        search = _Search(graph, source.default, ARCHITECTURES[arches[0]].big_endian)
        root = graph.test(_ARCH, -1, op.JEQ_K, audit, search.tree(_spans(source, arches)), root)
    return _write(graph.nodes, root)


def _spans(source: Filter, arches: list[str]) -> list[_Span]:
    """Everything on one audit number that is not simply the default, sorted."""
    default = source.default.value
    bodies = source.bodies()
    points: list[tuple[int, _Body]] = []
    for arch in arches:
        for nr, clauses in bodies[arch].items():
            body = _body(clauses, default)
            if body:
                points.append((nr, body))
    points.sort(key=_first)
    spans: list[_Span] = []
    for nr, body in points:
        if spans and spans[-1].last == nr - 1 and spans[-1].body == body:
            spans[-1] = _Span(spans[-1].first, nr, body)
        else:
            spans.append(_Span(nr, nr, body))
    if ARCHITECTURES[arches[0]].audit == abi.AUDIT_ARCH_X86_64:
        if "x32" not in arches and source.x32 != source.default:
            spans = _overlay(spans, _Span(abi.X32_SYSCALL_BIT, _M32 - 1, _constant(source.x32)))
        if "x86_64" not in arches and source.foreign != source.default:
            foreign = _constant(source.foreign)
            spans = _overlay(spans, _Span(0, abi.X32_SYSCALL_BIT - 1, foreign))
            spans = _overlay(spans, _Span(_M32, _M32, foreign))
    return spans


def _first(point: tuple[int, _Body]) -> int:
    return point[0]


def _constant(action: Action) -> _Body:
    return (((), action.value),)


def _overlay(spans: list[_Span], new: _Span) -> list[_Span]:
    """``spans`` with ``new``, which overlaps none of them."""
    return sorted([*spans, new])


def _body(clauses: list[Clause], default: int) -> _Body:
    """Clauses without those at the end that only repeat what follows; empty for the default."""
    body = [(clause.tests, clause.action.value) for clause in clauses]
    final = default
    if not body[-1][0]:
        final = body.pop()[1]
    while body and body[-1][1] == final:
        body.pop()
    if final != default:
        body.append(((), final))
    return tuple(body)


class _Graph:
    """Nodes, each once."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self._index: dict[_Node, int] = {}

    def _add(self, node: _Node) -> int:
        index = self._index.get(node)
        if index is None:
            index = self._index[node] = len(self.nodes)
            self.nodes.append(node)
        return index

    def returns(self, value: int) -> int:
        """The node that ends with ``value``."""
        return self._add((-1, 0, 0, value, 0, 0))

    def test(self, offset: int, mask: int, jump: int, k: int, true: int, false: int) -> int:
        """A node that loads, masks (unless ``mask`` is -1), compares with ``k`` and branches."""
        if true == false:
            return true
        return self._add((offset, mask, jump, k, true, false))


class _Search:
    """The part of the graph behind one architecture test."""

    def __init__(self, graph: _Graph, default: Action, big_endian: bool) -> None:
        self._graph = graph
        self._default = graph.returns(default.value)
        self._low, self._high = (4, 0) if big_endian else (0, 4)
        self._bodies: dict[_Body, int] = {}

    def tree(self, spans: list[_Span]) -> int:
        """The node where the number is looked at first."""
        return self._tree(spans, 0, len(spans), 0, _M32)

    def _tree(self, spans: list[_Span], start: int, stop: int, low: int, high: int) -> int:
        """The search among ``spans[start:stop]`` for a number known to be in low..high."""
        count = stop - start
        if count == 0:
            return self._default
        if count == 1:
            return self._leaf(spans[start], self._default, low, high)
        if count == 2 and all(span.first == span.last for span in spans[start:stop]):
            behind = self._leaf(spans[start + 1], self._default, low, high)
            return self._leaf(spans[start], behind, low, high)
        middle = (start + stop) // 2
        split = spans[middle].first
        below = self._tree(spans, start, middle, low, split - 1)
        above = self._tree(spans, middle, stop, split, high)
        return self._graph.test(_NR, -1, op.JGE_K, split, above, below)

    def _leaf(self, span: _Span, otherwise: int, low: int, high: int) -> int:
        node = self._body(span.body)
        first, last, _ = span
        if first == last and low != high:
            return self._graph.test(_NR, -1, op.JEQ_K, first, node, otherwise)
        if last < high:
            node = self._graph.test(_NR, -1, op.JGT_K, last, otherwise, node)
        if low < first:
            node = self._graph.test(_NR, -1, op.JGE_K, first, node, otherwise)
        return node

    def _body(self, body: _Body) -> int:
        node = self._bodies.get(body)
        if node is None:
            node = self._default
            for tests, value in reversed(body):
                otherwise = node
                node = self._graph.returns(value)
                for test in reversed(tests):
                    node = self._register(test, node, otherwise)
            self._bodies[body] = node
        return node

    def _register(self, test: Test, true: int, false: int) -> int:
        """One test of a 64-bit register, as tests of its halves."""
        index, at_least, value, mask, negated = test
        if negated:
            true, false = false, true
        low = _ARGS + 8 * index + self._low
        high = _ARGS + 8 * index + self._high
        mask_high, mask_low = mask >> 32, mask & _M32
        value_high, value_low = value >> 32, value & _M32
        half = self._at_least if at_least else self._equal
        node = half(low, mask_low, value_low, true, false)
        if not mask_high:
            return node
        node = self._equal(high, mask_high, value_high, node, false)
        if at_least and value_high < mask_high:
            node = self._at_least(high, mask_high, value_high + 1, true, node)
        return node

    def _equal(self, offset: int, mask: int, value: int, true: int, false: int) -> int:
        """(word & mask) == value."""
        test = self._graph.test
        if value & ~mask:
            return false
        if not mask:
            return true
        if mask == _M32:
            return test(offset, -1, op.JEQ_K, value, true, false)
        if not value:
            return test(offset, -1, op.JSET_K, mask, false, true)
        if not mask & (mask - 1):  # one bit
            return test(offset, -1, op.JSET_K, mask, true, false)
        return test(offset, mask, op.JEQ_K, value, true, false)

    def _at_least(self, offset: int, mask: int, value: int, true: int, false: int) -> int:
        """(word & mask) >= value."""
        if not value:
            return true
        if value > mask:
            return false
        return self._graph.test(offset, -1 if mask == _M32 else mask, op.JGE_K, value, true, false)


#: Where a jump enters a node: at its load, at its mask, or at its comparison.
_LOAD, _MASK, _COMPARE = range(3)

#: How far back a target may be before a bridge is laid.  Two bridges may still come in between,
#: and a conditional jump skips at most 255.
_REACH = 252


def _write(nodes: list[_Node], root: int) -> bytes:
    """Nodes as packed instructions."""
    entry = _entries(nodes, root)
    out: list[tuple[int, int, int, int]] = []  # backwards
    #: 3 * node + entry to its place in `out`; the nearest one, where there are bridges.
    place: dict[int, int] = {}

    def reach(node: int, offset: int, mask: int) -> int:
        """A place for a jump to ``node``, arriving with that word loaded and masked."""
        key = 3 * node + _enter(nodes[node], offset, mask)
        if len(out) - place[key] > _REACH:
            if nodes[node][0] < 0:
                out.append((op.RET_K, 0, 0, nodes[node][3]))
            else:
                out.append((op.JA, 0, 0, len(out) - place[key] - 1))
            place[key] = len(out) - 1
        return key

    for index, (offset, mask, jump, k, true, false) in enumerate(nodes):
        first = entry[index]
        if first < 0:
            continue  # built, then not needed
        if offset < 0:
            out.append((op.RET_K, 0, 0, k))
            place[3 * index] = len(out) - 1
            continue
        on_false = reach(false, offset, mask)
        on_true = reach(true, offset, mask)
        here = len(out)
        out.append((jump, here - place[on_true] - 1, here - place[on_false] - 1, k))
        place[3 * index + _COMPARE] = here
        if first <= _MASK and mask >= 0:
            out.append((op.AND_K, 0, 0, mask))
            place[3 * index + _MASK] = len(out) - 1
        if first == _LOAD:
            out.append((op.LD_ABS, 0, 0, offset))
            place[3 * index + _LOAD] = len(out) - 1
    if len(out) > abi.MAX_INSTRUCTIONS:
        raise FilterError(
            f"the filter compiles to {len(out)} instructions and the kernel takes at most "
            f"{abi.MAX_INSTRUCTIONS}: use fewer conditions, fewer architectures or two filters"
        )
    pack = abi.SOCK_FILTER.pack
    return b"".join([pack(*instruction) for instruction in reversed(out)])


def _enter(node: _Node, offset: int, mask: int) -> int:
    """Where to enter ``node`` with the word at ``offset``, masked by ``mask``, loaded."""
    if node[0] != offset:
        return _LOAD
    if node[1] == mask:
        return _COMPARE
    return _MASK if mask == -1 else _LOAD


def _entries(nodes: list[_Node], root: int) -> list[int]:
    """For each node the earliest entry that some jump needs; -1 for unreachable nodes."""
    entry = [-1] * len(nodes)
    entry[root] = _LOAD
    for index in range(root, -1, -1):  # targets have lower indexes
        if entry[index] < 0:
            continue
        offset, mask, _, _, true, false = nodes[index]
        if offset < 0:
            continue
        for target in (true, false):
            wanted = _enter(nodes[target], offset, mask)
            if entry[target] < 0 or wanted < entry[target]:
                entry[target] = wanted
    return entry
