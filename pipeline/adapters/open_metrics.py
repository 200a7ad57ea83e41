"""OpenMetrics text, and the file that Prometheus' node exporter reads it from."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple


class Gauge(NamedTuple):
    """A metric: its name, what it says, the names of its labels, and a value for each set of them."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: tuple[tuple[tuple[str, ...], Decimal | int], ...]


def open_metrics_text(gauges: Iterable[Gauge]) -> str:
    """Return gauges as OpenMetrics text, which the older text format of Prometheus can read as well."""
    from prometheus_client.core import GaugeMetricFamily  # here: it takes a tenth of a second to import
    from prometheus_client.openmetrics.exposition import generate_latest
    from prometheus_client.registry import CollectorRegistry

    families = []
    for gauge in gauges:
        family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
        for values, number in gauge.samples:
            family.add_metric(values, number)  # type: ignore[arg-type]  # it makes the float itself
        families.append(family)

    class _Collector:
        def collect(self) -> list[GaugeMetricFamily]:
            return families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector())
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text.decode()


def write_text_file(path: Path, text: str) -> None:
    """Put a file there as a whole: whoever reads it sees the one before or this one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
