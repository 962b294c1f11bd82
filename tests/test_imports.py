"""No two modules need each other: what the import contract does not see is inside of rooms."""

from __future__ import annotations

import grimp
import pytest


def circles(graph: grimp.ImportGraph) -> list[set[str]]:
    """Sets of modules each of which imports, by any way, each other one."""
    reach = {each: graph.find_downstream_modules(each) for each in graph.modules}
    together = {
        frozenset({each} | {other for other in reach[each] if each in reach[other]})
        for each in graph.modules
    }
    return [set(found) for found in together if len(found) > 1]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """What imports what when it runs: inside of functions too, for annotations alone not."""
    return grimp.build_graph("proctor", exclude_type_checking_imports=True, cache_dir=None)


def test_there_is_no_circle(graph: grimp.ImportGraph) -> None:
    assert graph.count_imports() > 500
    assert not circles(graph)


def test_a_circle_would_be_found(graph: grimp.ImportGraph) -> None:
    """Also one that closes far away, inside of a function or not."""
    planted = graph
    planted.add_import(importer="proctor.words", imported="proctor.cli.run")
    (found,) = circles(planted)
    assert {"proctor.words", "proctor.cli.run", "proctor.supervisor.supervisor"} <= found
    planted.remove_import(importer="proctor.words", imported="proctor.cli.run")
