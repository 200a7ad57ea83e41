"""The demo: a small LLM company bills its first three days, in the real DAGs, from a real S3 server on loopback.

It publishes and approves its prices as two people, bills three nights, holds an account about which there is a
question, closes January with numbered invoices, and settles what is known a day later by documents of their own.

It makes everything below one folder (`.demo/` of the repository): the files that the producers drop, a copy of this
billing project, the lake, the databases and the reports. It starts and stops the S3 server itself. The three nights
are 30 and 31 January and 1 February 2026; the third is needed because an account west of UTC ends its January on
1 February.

    python examples/llm_api/demo.py [--folder FOLDER] [--small] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]

from sample_usage import EVENTS_PER_HOUR, SampleFile, sample_files  # noqa: E402 - this folder is no package

from pipeline.adapters.object_store import ObjectStore  # noqa: E402
from pipeline.adapters.s3_server import S3Endpoint, serve_s3  # noqa: E402
from pipeline.airflow_plugin.one_process import DagRunFailed, DagRunResult, OneProcessAirflow  # noqa: E402
from pipeline.core.decimals import plain_text  # noqa: E402
from pipeline.core.errors import BillingError  # noqa: E402
from pipeline.core.reason import EXCLUSION_SENTENCES, QUARANTINE_SENTENCES, ExclusionReason  # noqa: E402
from pipeline.core.window import ONE_DAY, BillingWindow  # noqa: E402

if TYPE_CHECKING:
    from pipeline.core.revision import WindowRevision
    from pipeline.steps.workspace import Workspace

PROJECT_FILES = ("billing.toml", "meters.toml", "accounts.csv", "taxes.toml", "sources", "price_books")
MARKER = ".made-by-the-billing-demo"
FIRST_WINDOW = BillingWindow(datetime(2026, 1, 30, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC))
NIGHTS = tuple(BillingWindow(FIRST_WINDOW.start + n * ONE_DAY, FIRST_WINDOW.end + n * ONE_DAY) for n in range(3))
GRACE_PERIOD = timedelta(hours=6)
PUBLISHER, APPROVER = "priya.pricing@nimbus.example", "omar.finance@nimbus.example"
BEFORE_THE_NIGHTS = FIRST_WINDOW.start - ONE_DAY
SETTLED_AT = datetime(2026, 2, 6, 12, tzinfo=UTC)
PERIOD = "2026-01"
# Whose page is worth a look, and what it shows.
SHOWN_ACCOUNTS = {
    "acct-0083": "a fee in advance, tiers, included units, packages, two taxes, a credit that is drawn",
    "acct-0001": "a commitment and what goes beyond it, prices by region, a discount of the plan",
    "acct-0013": "another plan from 31 January on, each part of the month at its own prices",
    "acct-0029": "a price agreed by contract",
    "acct-0115": "reverse charge",
}
CREDITED_ACCOUNT = "acct-0083"
SMALL_EVENTS_PER_HOUR = 12
OF_NO_WINDOW_SENTENCES = {
    "before_the_first_window": f"used before the first window, {FIRST_WINDOW.window_id}; never billed",
    "in_the_future": "used later than received by more than the tolerance, after the last window that has run",
    "window_has_not_run": "of windows that have not run yet; each is counted by its own window",
}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SettledDocument:
    """A document that settles what was known after the close."""

    number: str
    kind: str
    account_id: str
    corrects: str
    total: Decimal
    currency: str
    event_count: int
    page: str


@dataclass
class DemoResult:
    """What the demo came to, in numbers."""

    totals: dict[str, Decimal] = field(default_factory=dict)
    invoice_count: int = 0
    line_count: int = 0
    raw_event_count: int = 0
    billed_event_count: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    of_no_window: Counter[str] = field(default_factory=Counter)
    revisions: dict[str, int] = field(default_factory=dict)
    reports: dict[str, str] = field(default_factory=dict)
    control_count: int = 0
    controls_not_zero: list[str] = field(default_factory=list)
    rounding: dict[str, Decimal] = field(default_factory=dict)
    models: Counter[str] = field(default_factory=Counter)
    taxes: dict[str, Decimal] = field(default_factory=dict)
    credits_drawn: dict[str, Decimal] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    settled: list[SettledDocument] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=dict)

    @property
    def unexplained_event_count(self) -> int:
        """Return how many events of those collected are neither billed nor counted under a reason."""
        return self.raw_event_count - self.billed_event_count - self.excluded.total() - self.of_no_window.total()

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "unexplained_event_count": self.unexplained_event_count,
            "settled": [{**asdict(one), "total": f"{one.total:f}"} for one in self.settled],
            **{
                name: {currency: f"{amount:f}" for currency, amount in getattr(self, name).items()}
                for name in ("totals", "rounding", "taxes", "credits_drawn")
            },
        }


def run_demo(folder: Path, events_per_hour: int, say: Say) -> DemoResult:
    """Make the company's three nights in the folder, bill them, close and settle January, return what came out."""
    _start_afresh(folder)
    project = folder / "project"
    project.mkdir()
    for name in PROJECT_FILES:
        source = Path(__file__).with_name(name)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, project / name)
    files = sample_files(events_per_hour=events_per_hour)
    say(f"{len(files)} files of sample usage generated for {NIGHTS[0].window_id} to {NIGHTS[-1].window_id}")
    with serve_s3(folder / "s3") as endpoint:
        say(f"S3 server listens on {endpoint.url}")
        _point_billing_at(project, endpoint)
        airflow = OneProcessAirflow(folder / "airflow", REPOSITORY / "dags", say)
        say("Airflow is ready, DAGs: " + ", ".join(airflow.dag_ids))
        return _bill(project, files, airflow, say)


def _start_afresh(folder: Path) -> None:
    """Empty the folder, but only one that a demo made."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise SystemExit(f"{folder} is not empty and was not made by the demo; name another --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


def _point_billing_at(project: Path, endpoint: S3Endpoint) -> None:
    """Set the environment of the steps as an operator would: which project, which bucket, which keys."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "BILLING_DATABASE_URL"):
        os.environ.pop(name, None)
    os.environ.update(
        endpoint.environment(), BILLING_PROJECT=str(project), BILLING_S3_ENDPOINT_URL=endpoint.url, TZ="UTC"
    )


def _bill(project: Path, files: list[SampleFile], airflow: OneProcessAirflow, say: Say) -> DemoResult:
    from pipeline.steps.workspace import open_workspace

    with airflow.quiet():
        workspace = open_workspace(project)
        workspace.raw.create_bucket()
        sentences = [*_approve_prices(workspace), _grant_credit(workspace)]
        workspace = open_workspace(project)  # with the prices that are in force by now
    for sentence in sentences:
        say(sentence)
    result = DemoResult()
    delivered_until = datetime.min.replace(tzinfo=UTC)
    for night in NIGHTS:
        cutoff_at = night.cutoff_at(GRACE_PERIOD)
        say(f"---- the night of {night.window_id}: everything the bucket received before {cutoff_at:%d %B %H:%M} UTC")
        delivery = [file for file in files if delivered_until <= file.received_at < cutoff_at]
        with airflow.quiet():
            _deliver(workspace.raw, delivery)
        say(f"{len(delivery)} files dropped into the bucket")
        collected = airflow.run("collect_usage", cutoff_at + timedelta(minutes=5))
        _say_collected(collected, result, say)
        _bill_late_windows(airflow, collected, cutoff_at, say)
        airflow.run("bill_window", night.end)
        delivered_until = cutoff_at
    say(f"---- closing the period {PERIOD}")
    with airflow.quiet():
        held = _hold_disputed(workspace)
    for account_id, reason in held.items():
        say(f"{account_id} is held and gets no invoice: {reason}")
    closed = airflow.run("close_period", datetime(2026, 2, 5, 12, tzinfo=UTC), {"period": PERIOD})
    result.totals = {currency: Decimal(total) for currency, total in closed.returned["close"]["totals"].items()}
    result.invoice_count = closed.returned["close"]["invoices"]
    say("---- a day after the close: usage of January that was lost, and requests that support takes back")
    with airflow.quiet():
        _deliver(workspace.raw, [file for file in files if file.received_at >= delivered_until])
    collected = airflow.run("collect_usage", SETTLED_AT - timedelta(hours=4))
    _say_collected(collected, result, say)
    _bill_late_windows(airflow, collected, SETTLED_AT - timedelta(hours=4), say)
    with airflow.quiet():
        sentences = _settle(workspace)
    for sentence in sentences:
        say(sentence)
    with airflow.quiet():
        _gather(workspace, result)
    return result


# ---- what people do: the commands `billing price`, `billing credit`, `billing hold` and `billing adjust` -------------


def _approve_prices(workspace: Workspace) -> list[str]:
    """Publish the drafts of price_books/ and approve them as somebody else, as finance does before the first night."""
    from pipeline.steps.price_books import approve_book, publish_book

    sentences = []
    for draft in sorted((workspace.project.folder / "price_books").glob("*.toml")):
        published = publish_book(workspace, draft, PUBLISHER, "launch prices", BEFORE_THE_NIGHTS).version
        sentences.append(f"price book {published.version}: published by {PUBLISHER}")
        try:
            approve_book(workspace, published.version, PUBLISHER, BEFORE_THE_NIGHTS + timedelta(minutes=30))
        except BillingError as refusal:
            sentences.append(f"she tries to approve it, too, and is refused: {str(refusal).splitlines()[0]}")
        approve_book(workspace, published.version, APPROVER, BEFORE_THE_NIGHTS + timedelta(hours=1))
        sentences.append(f"price book {published.version}: approved by {APPROVER}")
    return sentences


def _grant_credit(workspace: Workspace) -> str:
    from pipeline.core.credit import CreditKind
    from pipeline.steps.credits import grant_credit

    grant = grant_credit(
        *(workspace, CREDITED_ACCOUNT, "USD", CreditKind.PROMOTIONAL, Decimal("25.00"), "launch credit"),
        *(BEFORE_THE_NIGHTS, APPROVER),
        expires_on=date(2026, 6, 30),
    )
    return f"{grant.account_id} is granted a credit of {grant.amount:f} {grant.currency} ({grant.reason})"


def _hold_disputed(workspace: Workspace) -> dict[str, str]:
    """Hold each account that has one request with two contents: which of them is right is a question for people."""
    from pipeline.core.dataset import EXCLUDED_EVENTS
    from pipeline.steps.holds import hold_account

    held = {}
    for night in NIGHTS:
        for event in _rows(workspace, EXCLUDED_EVENTS, _accepted(workspace, night)):
            if event["reason"] != ExclusionReason.CONFLICTING_DUPLICATE:
                continue
            [account_id] = {
                row.account_id
                for row in workspace.project.directory.rows
                if event["subject"] in row.external_references
            }
            reason = f"request {event['id']} came with two quantities"
            held[account_id] = hold_account(workspace, PERIOD, account_id, reason, SETTLED_AT, APPROVER).reason
    return held


def _settle(workspace: Workspace) -> list[str]:
    from pipeline.steps.adjust import adjust

    return [
        f"{one.account_id}: {one.kind.value.replace('_', ' ')} {one.number}, {one.total:+f} {one.currency} with taxes"
        for one in adjust(workspace, PERIOD, datetime.now(UTC)).accounts
    ]


def _deliver(bucket: ObjectStore, files: Iterable[SampleFile]) -> None:
    """Put the files into the bucket with the receipt time of the story, not of now."""
    for file in files:
        bucket.put_bytes(file.key, file.content, {"mtime": f"{file.received_at.timestamp():.9f}"})


def _say_collected(collected: DagRunResult, result: DemoResult, say: Say) -> None:
    receipt = collected.returned["collect"]
    result.raw_event_count += receipt["raw_events"]
    result.quarantined.update(receipt["quarantined"])
    count = sum(receipt["quarantined"].values())
    say(f"{receipt['objects']} objects collected: {receipt['raw_events']:,} events, {count} in quarantine")


def _bill_late_windows(airflow: OneProcessAirflow, collected: DagRunResult, cutoff_at: datetime, say: Say) -> None:
    """Run what collect_usage has triggered: under a scheduler these runs start by themselves."""
    for number, late in enumerate(collected.returned["late_windows"], start=1):
        say(f"late events reached the window {late['conf']['window']}: it is billed again")
        airflow.run("bill_window", cutoff_at + timedelta(minutes=5 + number), late["conf"])


# ---- what came out ---------------------------------------------------------------------------------------------


def _gather(workspace: Workspace, result: DemoResult) -> None:
    from pipeline.core.dataset import EXCLUDED_EVENTS, LINE_ITEMS, RECONCILIATION
    from pipeline.steps.outcomes import published_outcomes

    for night in NIGHTS:
        revision = _accepted(workspace, night)
        result.revisions[night.window_id] = revision.revision
        report = workspace.out / "reports" / f"{night.window_id}-r{revision.revision}.html"
        result.reports[night.window_id] = str(report)
        result.excluded.update(row["reason"] for row in _rows(workspace, EXCLUDED_EVENTS, revision))
        outcomes = published_outcomes(workspace, revision)
        result.billed_event_count += outcomes.billed_event_count if outcomes else 0
        _gather_controls(_rows(workspace, RECONCILIATION, revision), result)
    result.of_no_window = _of_no_window(workspace)
    for scope in (f"period={PERIOD}", f"period={PERIOD}/adjusted"):
        _gather_controls(_newest_rows(workspace, RECONCILIATION, scope), result)
    lines = _newest_rows(workspace, LINE_ITEMS, f"period={PERIOD}")
    result.line_count = len(lines)
    result.models.update(line["model"] or line["kind"] for line in lines)
    for line in lines:
        _add(result.rounding, line["currency"], line["residual"])
    result.held = workspace.control_plane.held_accounts(PERIOD)
    _gather_documents(workspace, result)


def _gather_documents(workspace: Workspace, result: DemoResult) -> None:
    from pipeline.core.invoice import DocumentKind
    from pipeline.steps.documents import document_bytes
    from pipeline.steps.render import invoice_folder

    folder = invoice_folder(workspace, PERIOD)
    for document in workspace.control_plane.documents(PERIOD):
        content = json.loads(document_bytes(workspace, document))
        [page] = folder.glob(f"*/{document.number}_*.html")
        if document.kind is DocumentKind.INVOICE:
            for tax in content["taxes"]:
                _add(result.taxes, document.currency, Decimal(tax["tax"]))
            _add(result.credits_drawn, document.currency, document.total - document.amount_due)
            if document.account_id in SHOWN_ACCOUNTS:
                result.pages[document.account_id] = str(page)
            continue
        event_count = sum(cause["event_count"] for cause in content["causes"])
        result.settled.append(
            SettledDocument(
                *(document.number, document.kind.value, document.account_id, document.corrects or ""),
                *(document.total, document.currency, event_count, str(page)),
            )
        )


def _add(totals: dict[str, Decimal], currency: str, amount: Decimal) -> None:
    totals[currency] = totals.get(currency, Decimal(0)) + amount


def _accepted(workspace: Workspace, night: BillingWindow) -> WindowRevision:
    revision = workspace.control_plane.accepted_revision(night.window_id)
    if revision is None:
        raise SystemExit(f"window {night.window_id} has no accepted revision")
    return revision


def _gather_controls(rows: list[dict[str, Any]], result: DemoResult) -> None:
    """An equation is zero when its delta is; a derived tolerance is only for what was rounded."""
    result.control_count += len(rows)
    result.controls_not_zero += [
        f"{row['control']} of {row['scope']}: {row['delta']:f} {row['unit']}"
        for row in rows
        if row["verdict"] != "pass" or (row["delta"] != 0 and row["tolerance"] == 0)
    ]


def _of_no_window(workspace: Workspace) -> Counter[str]:
    """Count, in the raw events themselves, those that are used outside the windows that have run, by why they are."""
    from pyarrow import parquet

    from pipeline.steps.publish import manifest_files

    tolerance = workspace.project.settings.window.future_tolerance
    object_ids = workspace.control_plane.object_ids()
    counts: Counter[str] = Counter()
    for manifest in workspace.control_plane.collections_of(object_ids)["raw_events"]:
        for file in manifest_files(workspace, manifest):
            for event in parquet.read_table(file, columns=["event_at", "received_at"]).to_pylist():
                if event["event_at"] < NIGHTS[0].start:
                    counts["before_the_first_window"] += 1
                elif event["event_at"] >= NIGHTS[-1].end:
                    is_in_the_future = event["event_at"] > event["received_at"] + tolerance
                    counts["in_the_future" if is_in_the_future else "window_has_not_run"] += 1
    return counts


def _rows(workspace: Workspace, dataset: Any, revision: WindowRevision) -> list[dict[str, Any]]:
    return _newest_rows(workspace, dataset, revision.scope, revision.revision)


def _newest_rows(workspace: Workspace, dataset: Any, scope: str, revision: int | None = None) -> list[dict[str, Any]]:
    from pyarrow import parquet

    from pipeline.steps.publish import dataset_files

    receipt = workspace.control_plane.publication(dataset.name, scope, revision)
    if receipt is None:
        raise SystemExit(f"{dataset.name} of {scope} was not published")
    files = dataset_files(workspace, dataset, scope, receipt.revision)
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def _summary(result: DemoResult) -> list[str]:
    lines = ["", f"Billed for {PERIOD}: {result.invoice_count} invoices, {result.line_count:,} line items"]
    for currency, total in sorted(result.totals.items()):
        tax, drawn = result.taxes.get(currency, Decimal(0)), result.credits_drawn.get(currency, Decimal(0))
        lines.append(f"  {total:>14,f} {currency} due; taxes {tax:,f}, paid by credits {drawn:,f}")
    priced = ", ".join(f"{model} {count:,}" for model, count in result.models.most_common())
    lines.append(f"Line items by price model: {priced}")
    rounded = ", ".join(f"{plain_text(residual)} {currency}" for currency, residual in sorted(result.rounding.items()))
    lines.append(f"Exact amounts minus rounded amounts, in all: {rounded}")
    lines += [f"{account_id} is held and has no invoice: {reason}" for account_id, reason in result.held.items()]
    lines += [
        f"{result.billed_event_count:,} events of three nights were counted, each once. Those that are in February in",
        "their account's time zone wait for the next invoice.",
        "",
    ]
    lines.append(f"Every event that was read, once: {result.raw_event_count:,} collected =")
    lines.append(f"  {result.billed_event_count:>6,}  billed")
    lines += _counts(result.excluded, EXCLUSION_SENTENCES)
    lines += _counts(result.of_no_window, OF_NO_WINDOW_SENTENCES)
    lines.append(f"  {result.unexplained_event_count:>6,}  unexplained")
    lines.append("Not billed, and why: lines or files that could not be read, kept in quarantine")
    lines += _counts(result.quarantined, QUARANTINE_SENTENCES)
    again = [window_id for window_id, revision in result.revisions.items() if revision > 1]
    lines += ["", f"Late files reached {' and '.join(again) or 'no window'}: billed again, each as a new revision."]
    if result.unexplained_event_count:
        lines.append(f"NOT every event is accounted for: {result.unexplained_event_count:,} unexplained.")
    if result.controls_not_zero:
        lines += ["NOT every equation is zero:", *(f"  {control}" for control in result.controls_not_zero)]
    if is_accounted_for(result):
        lines.append(
            f"Everything is accounted for: {result.control_count:,} equations, each with nothing unexplained (0)."
        )
    lines += ["", "Reconciliation reports of the nights:", *(f"  {_short(path)}" for path in result.reports.values())]
    lines.append("Invoices worth a look:")
    for account_id, page in sorted(result.pages.items()):
        lines += [f"  {_short(page)}", f"    {SHOWN_ACCOUNTS[account_id]}"]
    lines.append("Settled after the close, with the events that caused it:")
    for one in result.settled:
        what = f"{one.kind.replace('_', ' ')} of {one.total:+,f} {one.currency} with taxes"
        lines += [f"  {_short(one.page)}", f"    {what}; corrects {one.corrects}, {one.event_count} events"]
    return lines


def is_accounted_for(result: DemoResult) -> bool:
    """Return whether every equation is zero, that of all events collected among them."""
    return not result.controls_not_zero and result.unexplained_event_count == 0


def _counts(counts: Counter[str], sentences: Mapping[Any, str]) -> list[str]:
    """Return a line for each reason that occurred, in the order of the list of reasons."""
    return [f"  {counts[reason]:>6,}  {sentence}" for reason, sentence in sentences.items() if counts[reason]]


def _short(path: str) -> str:
    relative = Path(path).resolve()
    return str(relative.relative_to(Path.cwd())) if relative.is_relative_to(Path.cwd()) else path


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 if everything was billed and every equation is zero."""
    parser = argparse.ArgumentParser(description="Bill three nights of a small LLM company and close the month.")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".demo", help="made afresh; default: %(default)s")
    parser.add_argument("--small", action="store_true", help="a twentieth of the events")
    parser.add_argument("--json", action="store_true", help="print one JSON document; progress goes to standard error")
    options = parser.parse_args(arguments)
    progress = sys.stderr if options.json else sys.stdout
    started_at = time.monotonic()

    def say(sentence: str) -> None:
        print(f"[{time.monotonic() - started_at:5.1f} s] {sentence}", file=progress, flush=True)

    try:
        result = run_demo(options.folder.resolve(), SMALL_EVENTS_PER_HOUR if options.small else EVENTS_PER_HOUR, say)
    except (BillingError, DagRunFailed) as error:
        print(error, file=sys.stderr)
        return 1
    say("done")
    print(json.dumps(result.to_json(), indent=2) if options.json else "\n".join(_summary(result)))
    return 0 if is_accounted_for(result) else 1


if __name__ == "__main__":
    raise SystemExit(main())
