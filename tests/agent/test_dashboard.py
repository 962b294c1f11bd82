"""deploy/grafana: each query of the dashboard, asked of a Prometheus that watches a real agent; and the
units of deploy/systemd."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.clients import hand_over
from tests.agent.running import RunningAgent, eventually
from tests.agent.test_seeing import free_port

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/proctor.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
#: What there is nothing of where all is well, or nothing was performed for a while.
MAY_BE_EMPTY = "proctor_performing_seconds"


class Prometheus:
    """A real one, which watches one address."""

    def __init__(self, place: Path, watched: int) -> None:
        self.port, self.watched = free_port(), watched
        (place / "prometheus.yml").write_text(
            "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
            "scrape_configs:\n- job_name: proctor\n  static_configs:\n"
            f"  - targets: ['127.0.0.1:{watched}']\n"
        )
        self.process = subprocess.Popen(
            [
                "prometheus", f"--config.file={place}/prometheus.yml",
                f"--storage.tsdb.path={place}/data",
                f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=error",
            ]
        )  # fmt: skip

    def ask(self, query: str) -> list[Any]:
        """The result of a query; nothing while it does not answer."""
        words = urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/api/v1/query?{words}", timeout=20
            ) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as problem:
            if problem.code == 503:
                return []  # it starts
            raise AssertionError(f"{query}: {problem.read().decode()}") from None
        except OSError:
            return []
        assert found["status"] == "success", found
        result: list[Any] = found["data"]["result"]
        return result

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def watched(
    agent: Callable[..., RunningAgent], place: Path
) -> Iterator[tuple[RunningAgent, Prometheus]]:
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus")
    port = free_port()
    running = agent("--metrics", f"127.0.0.1:{port}")
    prometheus = Prometheus(place, port)
    yield running, prometheus
    prometheus.close()


def told(prometheus: Prometheus) -> str:
    """What the agent tells."""
    with urllib.request.urlopen(f"http://127.0.0.1:{prometheus.watched}/metrics") as answer:
        return str(answer.read().decode())


def query(text: str) -> str:
    """As Grafana would send it, with everything chosen."""
    for name, value in (("$__rate_interval", "30s"), ("$__range", "1h")):
        text = text.replace(name, value)
    text = re.sub(r"\$(policy|job)", ".*", text)
    assert "$" not in text, text
    return text


def test_every_query_of_the_dashboard(watched: tuple[RunningAgent, Prometheus]) -> None:
    running, prometheus = watched
    script = "while :; do mkdir /tmp/forbidden-1; sleep 0.1; done"
    with hand_over(running.socket, "web", "sh", "-c", script) as target:
        running.heard("EROFS")
        for text in QUERIES:
            if MAY_BE_EMPTY in text:
                prometheus.ask(query(text))
                metric = re.search(r"(proctor_performing_seconds)_", text)
                assert metric is not None
                assert f"# TYPE {metric[1]} histogram" in told(prometheus)
            else:
                eventually(lambda text=text: prometheus.ask(query(text)))
        (refusals,) = [text for text in QUERIES if "deny" in text]
        (refused,) = prometheus.ask(query(refusals))
        assert refused["metric"] == {"call": "mkdir", "verdict": "deny EROFS"}
        assert float(refused["value"][1]) > 0
        target.kill()
        target.wait(30)


def test_every_variable_is_one_of_a_metric_that_there_is(
    watched: tuple[RunningAgent, Prometheus],
) -> None:
    _, prometheus = watched
    for each in DASHBOARD["templating"]["list"]:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", each.get("query", ""))
        if found is not None and found[1] != "proctor_calls_total":
            eventually(lambda found=found: prometheus.ask(found[1]))
            assert found[2] in prometheus.ask(found[1])[0]["metric"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        mine = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not mine & taken
        assert max(x for x, _ in mine) < 24
        taken |= mine


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", sorted((ROOT / "deploy/systemd").iterdir()), ids=lambda p: p.name)
def test_units_are_some(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr, done.stderr
