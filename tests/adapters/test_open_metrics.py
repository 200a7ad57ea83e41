"""Metrics as text: what Prometheus and its own checker read."""

from __future__ import annotations

import subprocess
from decimal import Decimal
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pipeline.adapters.open_metrics import Gauge, open_metrics_text, write_text_file
from tests.monitoring import tool

GAUGES = [
    Gauge("billing_windows", "What it says.", (), (((), 3),)),
    Gauge(
        "billing_share_ratio",
        "By label.",
        ("who",),
        ((('say "hi"\n',), Decimal("0.995")), (("b",), Decimal("Infinity"))),
    ),
]


def test_gauges_are_open_metrics() -> None:
    families = {family.name: family for family in text_string_to_metric_families(open_metrics_text(GAUGES))}

    assert families["billing_windows"].documentation == "What it says."
    assert [(sample.labels, sample.value) for sample in families["billing_share_ratio"].samples] == [
        ({"who": 'say "hi"\n'}, 0.995),
        ({"who": "b"}, float("inf")),
    ]


def test_prometheus_checks_the_text() -> None:
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=open_metrics_text(GAUGES),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_is_there_as_a_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.prom"
    write_text_file(path, "before\n")

    with pytest.raises(UnicodeEncodeError):
        write_text_file(path, "after \ud800")

    assert path.read_text() == "before\n"
    assert [one.name for one in path.parent.iterdir()] == ["metrics.prom"]
