"""Re-run: compute a window revision once more from what it pins, beside the lake, and compare (P1).

Nothing is written to the lake or to the control plane. What today's project says (directory, meters, price books, SQL,
settings) plays no part, nor does the raw bucket: every input is read from the lake by its hash, and verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.adapters.scratch import scratch_folder
from pipeline.adapters.versions import engine_versions
from pipeline.adapters.warehouse import Warehouse
from pipeline.core.dataset import (
    DATASETS,
    EXCLUDED_EVENTS,
    LINE_ITEMS,
    RECONCILIATION,
    USAGE,
    USAGE_LEVELS,
    USAGE_VALUES,
)
from pipeline.core.errors import NotReadyError, PublicationError
from pipeline.core.manifest import Manifest, Receipt, canonical_json, sha256_hex
from pipeline.core.outcome import EventOutcomes
from pipeline.core.reconciliation import window_controls
from pipeline.core.revision import RevisionState, WindowRevision
from pipeline.steps.aggregate import computed_usage, find_revision, view_metered_events
from pipeline.steps.control_totals import revision_totals
from pipeline.steps.deduplicate import computed_events, revision_warehouse
from pipeline.steps.derivation import Row, collected_then, derived_links
from pipeline.steps.inputs import inputs_hash, pinned_meters
from pipeline.steps.links import CollectedEvents
from pipeline.steps.outcomes import EVENT_OUTCOMES, computed_outcomes, outcome_sql, published_outcomes
from pipeline.steps.publish import read_manifest
from pipeline.steps.rate import pinned_lines, write_lines
from pipeline.steps.reconcile import write_controls
from pipeline.steps.run_manifest import published_by, run_manifest
from pipeline.steps.workspace import Workspace

DIFFERENCES_MAX = 10


@dataclass(frozen=True, slots=True)
class RowDifference:
    """One row that differs: as it was published and as it is computed now; None on the side that lacks it."""

    published: Mapping[str, Any] | None
    computed: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class DatasetComparison:
    """One published dataset beside the same computed again."""

    dataset: str
    scope: str
    revision: int
    row_count_published: int
    row_count_computed: int
    content_hash_published: str
    content_hash_computed: str
    is_identical: bool
    differences: tuple[RowDifference, ...]


@dataclass(frozen=True, slots=True)
class RerunResult:
    """What a re-run came to. ``changed_versions`` names (then, now) of code and engines that are other ones by now."""

    window_id: str
    revision: int
    state: RevisionState
    is_identical: bool
    datasets: tuple[DatasetComparison, ...]
    verified_file_count: int
    changed_versions: Mapping[str, tuple[str, str]]


def rerun(workspace: Workspace, window_id: str, revision: int | None = None) -> RerunResult:
    """Compute a revision again from its pins and compare it with what was published.

    By default it is the newest accepted one; the newest of all where none is accepted. Compared are its datasets, what
    became of its events, the drafts of line items that were rated for it or that invoices rest on, and its
    reconciliation; and the links that it pins with those that the raw events of other dates make. A file that is
    missing or damaged raises ``PublicationError`` with its name and expected hash; a revision whose usage was never
    published raises ``NotReadyError``.
    """
    found = _revision(workspace, window_id, revision)
    if inputs_hash(found.pins) != found.inputs_hash:
        raise PublicationError(
            "rerun.pins_changed",
            f"the pins of revision {found.revision} of window {found.window_id} are not those it was opened with",
            [f"expected {found.inputs_hash}, got {inputs_hash(found.pins)}", "look at the control plane's audit log"],
        )
    with scratch_folder(workspace.scratch, "rerun") as folder:
        ws = replace(workspace, lake=workspace.lake.read_only(folder / "staging"))
        published = {_name(receipt): receipt for receipt in _published(ws, found)}
        if (USAGE.name, found.scope) not in published:
            raise NotReadyError(
                "rerun.not_computed",
                f"revision {found.revision} of window {found.window_id} has published no usage",
                [f"it is {found.state.value}; there is nothing to compare with"],
            )
        manifests = {name: read_manifest(ws, receipt.manifest_hash) for name, receipt in published.items()}
        then = collected_then(ws, found, folder / "derived")
        links = [
            _compare_rows(name, found, found.scope, *rows) for name, rows in derived_links(ws, found, then).items()
        ]
        computed, outcomes = _computed(ws, found, manifests, then, folder)
        datasets = [
            _compare(ws, published[name], manifests[name], computed.get(name, [])) for name in sorted(published)
        ]
        compared = (*links, _compare_outcomes(ws, found, outcomes), *datasets)
        recorded = run_manifest(ws, found)
    now = engine_versions()
    versions = now if recorded is None else recorded["versions"]
    return RerunResult(
        window_id=found.window_id,
        revision=found.revision,
        state=found.state,
        is_identical=all(one.is_identical for one in compared),
        datasets=compared,
        verified_file_count=sum(len(manifest.files) for manifest in manifests.values()),
        changed_versions={
            name: (versions.get(name, "none"), now.get(name, "none"))
            for name in sorted({*versions, *now})
            if versions.get(name) != now.get(name)
        },
    )


def require_identical(result: RerunResult) -> dict[str, str]:
    """Return the content hash of each dataset; a re-run that is not identical raises ``PublicationError``."""
    differing = [one for one in result.datasets if not one.is_identical]
    if differing:
        raise PublicationError(
            "rerun.not_identical",
            f"revision {result.revision} of window {result.window_id} is not what its inputs make",
            [
                line
                for one in differing
                for line in (
                    f"{one.dataset} {one.scope}: expected {one.content_hash_published}, "
                    f"got {one.content_hash_computed}",
                    *(f"published {row.published}, computed {row.computed}" for row in one.differences),
                )
            ],
        )
    return {f"{one.dataset} {one.scope}": one.content_hash_computed for one in result.datasets}


def _revision(ws: Workspace, window_id: str, revision: int | None) -> WindowRevision:
    if revision is not None:
        return find_revision(ws, window_id, revision)
    found = ws.control_plane.accepted_revision(window_id) or ws.control_plane.latest_revision(window_id)
    if found is None:
        raise NotReadyError(
            "rerun.no_revision",
            f"window {window_id} has no revision yet, so there is none to run again",
            [f"run: billing run --window {window_id}"],
        )
    return found


def _name(receipt: Receipt) -> tuple[str, str]:
    return receipt.dataset, receipt.scope if receipt.dataset != LINE_ITEMS.name else _draft_name(receipt)


def _draft_name(draft: Receipt | Manifest) -> str:
    """A period may have been drafted for the window and once more, later, for its invoices."""
    return f"{draft.scope}/revision={draft.revision}"


def _published(ws: Workspace, revision: WindowRevision) -> list[Receipt]:
    """Return what the revision published, and the drafts of final periods whose invoices rest on its usage."""
    published = list(published_by(ws, revision))
    usage = next((receipt.manifest_hash for receipt in published if receipt.dataset == USAGE.name), None)
    for period_id in sorted(ws.control_plane.final_periods()):
        draft = ws.control_plane.publication(LINE_ITEMS.name, f"period={period_id}")
        if draft is None or draft in published:
            continue
        if read_manifest(ws, draft.manifest_hash).pins["usage"].get(revision.window_id) == usage:
            published.append(draft)
    return published


def _computed(
    ws: Workspace,
    revision: WindowRevision,
    manifests: Mapping[tuple[str, str], Manifest],
    collected: CollectedEvents,
    folder: Path,
) -> tuple[dict[tuple[str, str], list[Path]], EventOutcomes]:
    """Return the files of each dataset, computed from pins, and what became of the events.

    Drafts are computed from this usage and the pinned one of other windows.
    """
    computed: dict[tuple[str, str], list[Path]] = {}
    with revision_warehouse(ws, revision, outcome_sql(ws, revision)) as warehouse:
        events = computed_events(ws, warehouse, revision, folder)
        outcomes = computed_outcomes(ws, warehouse, collected, revision)
        excluded = [file for dataset, file in events if dataset is EXCLUDED_EVENTS]
        meters = pinned_meters(ws, revision)
        view_metered_events(warehouse, ws, revision, meters, excluded)
        for dataset, file in (*events, *computed_usage(warehouse, meters, revision, folder)):
            computed.setdefault((dataset.name, revision.scope), []).append(file)
    own = {
        (dataset.name, revision.window_id): computed[dataset.name, revision.scope]
        for dataset in (USAGE, USAGE_VALUES, USAGE_LEVELS)
    }
    for (dataset_name, name), manifest in manifests.items():
        if dataset_name == LINE_ITEMS.name:
            lines = pinned_lines(ws, manifest, own)
            draft_folder = folder / name.replace("/", "_")
            with Warehouse(ws.scratch) as warehouse:
                computed[dataset_name, name] = [write_lines(warehouse, lines, draft_folder)]
        elif dataset_name == RECONCILIATION.name:
            totals = revision_totals(ws, revision, manifest.pins)
            computed[dataset_name, name] = [write_controls(ws, window_controls(totals.totals), folder)]
    return computed, outcomes


def _files(ws: Workspace, manifest: Manifest) -> list[Path]:
    """Return the files of a manifest, each verified against its hash."""
    return [ws.lake.local_file(file.path) for file in manifest.files]


def _compare(ws: Workspace, receipt: Receipt, manifest: Manifest, computed: Sequence[Path]) -> DatasetComparison:
    """Compare by content hash: that of the manifest, of the published files and of the computed ones are the same."""
    dataset, files = DATASETS[receipt.dataset], _files(ws, manifest)
    with Warehouse(ws.scratch) as warehouse:
        row_count_published, content_of_files = warehouse.describe_file(dataset, files)
        row_count, content_hash = warehouse.describe_file(dataset, computed)
        is_identical = {content_of_files, manifest.content_hash, receipt.content_hash} == {content_hash}
        differing = [] if is_identical else warehouse.differing_rows(dataset, files, computed, DIFFERENCES_MAX)
    return DatasetComparison(
        dataset=receipt.dataset,
        scope=receipt.scope,
        revision=receipt.revision,
        row_count_published=row_count_published,
        row_count_computed=row_count,
        content_hash_published=receipt.content_hash,
        content_hash_computed=content_hash,
        is_identical=is_identical,
        differences=tuple(RowDifference(published, again) for published, again in differing),
    )


def _compare_outcomes(ws: Workspace, revision: WindowRevision, computed: EventOutcomes) -> DatasetComparison:
    outcomes = published_outcomes(ws, revision)
    published = {} if outcomes is None else outcomes.to_json()
    sides = [[{name: value} for name, value in sorted(fields.items())] for fields in (published, computed.to_json())]
    return _compare_rows(EVENT_OUTCOMES, revision, revision.document_scope, *sides)


def _compare_rows(
    name: str, revision: WindowRevision, scope: str, published: Sequence[Row], computed: Sequence[Row]
) -> DatasetComparison:
    """Compare rows that are kept as JSON; one that is on both sides is no difference."""
    sides = [{canonical_json(row): row for row in rows} for rows in (published, computed)]
    only_published, only_computed = (
        [row for key, row in one.items() if key not in other] for one, other in (sides, sides[::-1])
    )
    differences = [
        *(RowDifference(row, None) for row in only_published),
        *(RowDifference(None, row) for row in only_computed),
    ]
    hashes = [sha256_hex(canonical_json(list(rows))) for rows in (published, computed)]
    return DatasetComparison(
        dataset=name,
        scope=scope,
        revision=revision.revision,
        row_count_published=len(published),
        row_count_computed=len(computed),
        content_hash_published=hashes[0],
        content_hash_computed=hashes[1],
        is_identical=hashes[0] == hashes[1],
        differences=tuple(differences[:DIFFERENCES_MAX]),
    )
