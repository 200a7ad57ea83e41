"""Lineage: what each step of a night read and wrote, as OpenLineage run events (spec 2-0-2).

The events are plain values, so that a night does not import a client that takes half a second; a test makes each of
them with the classes of the client and compares. A run id follows from its window, revision and step: the same step
told twice is the same run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from pipeline import __version__
from pipeline.core.check import CheckReport, CheckResult, Severity
from pipeline.core.manifest import Receipt

PRODUCER = f"urn:usage-billing-pipeline:{__version__}"
JOB = "bill_window"
_SPEC = "https://openlineage.io/spec"
RUN_EVENT = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"


@dataclass(frozen=True, slots=True)
class NightFacts:
    """What a night published, its verdicts, and why it was rejected, if it was."""

    project: str
    window_id: str
    revision: int
    window_start: datetime
    window_end: datetime
    receipts: Sequence[Receipt]
    checks: CheckReport | None
    control_count: int | None
    failed_control_count: int
    rejected_because: str


# Which datasets each step reads and writes; ``raw_events`` are named by the files that the revision pins.
STEPS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "deduplicate": (("raw_events",), ("excluded_events",)),
    "aggregate": (("raw_events", "excluded_events"), ("usage_values", "usage_levels", "usage")),
    "rate": (("usage", "usage_values", "usage_levels"), ("line_items",)),
    "check": (("excluded_events", "usage", "line_items"), ()),
    "reconcile": (("raw_events", "excluded_events", "usage", "line_items"), ("reconciliation",)),
}


def night_events(facts: NightFacts, at: datetime) -> list[dict[str, Any]]:
    """Return one run event for each step that has done its work, and one for the night they belong to."""
    of_dataset: dict[str, list[Receipt]] = {}
    for receipt in facts.receipts:
        of_dataset.setdefault(receipt.dataset, []).append(receipt)
    parent = {"run": {"runId": _run_id(facts, "")}, "job": {"namespace": _namespace(facts), "name": JOB}}
    events = []
    for step, (reads, writes) in STEPS.items():
        written = [receipt for name in writes for receipt in of_dataset.get(name, [])]
        is_done = bool(written) or (step == "check" and facts.checks is not None)
        if not is_done:
            continue
        checked = facts.checks if step == "check" else None
        inputs = [_raw_events(facts)] if "raw_events" in reads else []
        inputs += [
            _dataset(facts, receipt, inputFacets=_assertions(checked, receipt))
            for name in reads
            for receipt in of_dataset.get(name, [])
        ]
        outputs = [_dataset(facts, receipt, outputFacets=_statistics(receipt)) for receipt in written]
        run_facets: dict[str, Any] = {"parent": _facet("1-2-0/ParentRunFacet", parent)}
        if step == "reconcile" and facts.control_count is not None:
            run_facets["usageBilling_controlTotals"] = {
                "_producer": PRODUCER,
                "_schemaURL": f"{PRODUCER}:controlTotals",
                "controls": facts.control_count,
                "failed": facts.failed_control_count,
            }
        has_failed = (checked is not None and bool(checked.failed(Severity.CRITICAL))) or (
            step == "reconcile" and facts.failed_control_count > 0 and bool(facts.rejected_because)
        )
        events.append(_event(facts, step, at, "FAIL" if has_failed else "COMPLETE", run_facets, inputs, outputs))
    outcome: dict[str, Any] = {}
    if facts.rejected_because:
        message = {"message": facts.rejected_because, "programmingLanguage": "Python"}
        outcome["errorMessage"] = _facet("1-0-1/ErrorMessageRunFacet", message)
    events.append(_event(facts, "", at, "FAIL" if outcome else "COMPLETE", outcome, [], []))
    return events


def _event(
    facts: NightFacts,
    step: str,
    at: datetime,
    state: str,
    run_facets: Mapping[str, Any],
    inputs: Iterable[Mapping[str, Any]],
    outputs: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    nominal = {
        "nominalStartTime": facts.window_start.isoformat(),
        "nominalEndTime": facts.window_end.isoformat(),
    }
    return {
        "eventTime": at.isoformat(),
        "producer": PRODUCER,
        "schemaURL": RUN_EVENT,
        "eventType": state,
        "run": {
            "runId": _run_id(facts, step),
            "facets": {"nominalTime": _facet("1-0-1/NominalTimeRunFacet", nominal), **run_facets},
        },
        "job": {"namespace": _namespace(facts), "name": f"{JOB}.{step}" if step else JOB, "facets": {}},
        "inputs": list(inputs),
        "outputs": list(outputs),
    }


def _namespace(facts: NightFacts) -> str:
    return f"billing:{facts.project}"


def _run_id(facts: NightFacts, step: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"{_namespace(facts)}/{facts.window_id}/{facts.revision}/{step}"))


def _raw_events(facts: NightFacts) -> dict[str, Any]:
    return {"namespace": _namespace(facts), "name": "raw_events", "facets": {}, "inputFacets": {}}


def _dataset(facts: NightFacts, receipt: Receipt, **facets: Mapping[str, Any]) -> dict[str, Any]:
    """Name a publication: the dataset by name and scope of its rows, the version by the hash of its manifest."""
    version = {"datasetVersion": receipt.manifest_hash}
    return {
        "namespace": _namespace(facts),
        "name": f"{receipt.dataset}/{receipt.scope}",
        "facets": {"version": _facet("1-0-1/DatasetVersionDatasetFacet", version)},
        **facets,
    }


def _statistics(receipt: Receipt) -> dict[str, Any]:
    return {"outputStatistics": _facet("1-0-2/OutputStatisticsOutputDatasetFacet", {"rowCount": receipt.row_count})}


def _assertions(checked: CheckReport | None, receipt: Receipt) -> dict[str, Any]:
    """Return what the expectations found in a dataset; usage events are checked where what defines them is read."""
    name = "usage_events" if receipt.dataset == "excluded_events" else receipt.dataset
    results = [] if checked is None else [one for one in checked.results if one.dataset == name]
    if not results:
        return {}
    assertions = {"assertions": [_assertion(one) for one in results]}
    return {"dataQualityAssertions": _facet("1-1-0/DataQualityAssertionsDatasetFacet", assertions)}


def _assertion(result: CheckResult) -> dict[str, Any]:
    assertion = {
        "assertion": result.expectation,
        "success": result.success,
        "severity": "error" if result.severity is Severity.CRITICAL else "warn",
        "description": result.why,
        "expected": result.expected,
        "actual": result.observed,
    }
    return assertion | ({"column": result.column} if result.column else {})


def _facet(schema: str, content: Mapping[str, Any]) -> dict[str, Any]:
    name = schema.partition("/")[2]
    return {"_producer": PRODUCER, "_schemaURL": f"{_SPEC}/facets/{schema}.json#/$defs/{name}", **content}
