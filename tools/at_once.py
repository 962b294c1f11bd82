"""For pytest, as ``-p tools.at_once``: a failure is told when it happens, whole, and only its name once more at the end."""

from __future__ import annotations

import pytest


class AtOnce:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.tell(f"{report.when} of {report.nodeid}", report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.tell(f"collecting {report.nodeid}", report)

    def tell(self, what: str, report: pytest.TestReport | pytest.CollectReport) -> None:
        writer = self.config.get_terminal_writer()
        writer.line()
        writer.sep("_", what)
        report.toterminal(writer)
        for title, text in report.sections:
            writer.sep("-", title)
            writer.line(text.rstrip("\n"))
        writer.flush()

    def pytest_sessionfinish(self) -> None:
        self.config.option.tbstyle = "no"  # it was told


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(AtOnce(config), "at-once")
