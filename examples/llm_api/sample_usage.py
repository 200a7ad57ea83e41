"""The usage files that the producers of a small LLM company write in three days: the same seed gives the same bytes.

Two gateway nodes write one file per hour, the media workers and the tool router one file every six hours. As in real
life, clients retry, nodes go down and come back, and some lines and some files are wrong. Each fault is planted on
purpose, once, by the function that its name says; `sample_files` is the list of everything, with the instant the
bucket received it. Two files come after January was closed: usage that was lost, and requests that are taken back.

    python examples/llm_api/sample_usage.py FOLDER [--events-per-hour N]     writes the files into a folder to look at
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.adapters.decompress import zstd

FIRST_HOUR = datetime(2026, 1, 30, tzinfo=UTC)
DAYS = 3
HOUR = timedelta(hours=1)
NODES = ("node-a", "node-b")
EVENTS_PER_HOUR = 260
QUIET_ACCOUNT, RETIRED_KEY, NEW_KEY = "acct-0011", "key_9qn5web3jg", "key_vk8fn3pbm8"  # changed on 31 January at noon
DISPUTED_KEY = "key_8hfbq2aq0p"  # of acct-0056: one of its requests is counted with two quantities
LOST_KEY = "key_zyff0w8pk8"  # of acct-0083: a node lost its batch job and found it after January was closed
FAILED_KEYS = ("key_gr6qpkw5hs", "key_jw7wyb908q", "key_zfqnrg1c0g")  # of acct-0115: support takes back what failed
ACCOUNTS_FILE = Path(__file__).with_name("accounts.csv")

MODELS = ("nimbus-small", "nimbus-small", "nimbus-small", "nimbus-large", "nimbus-large", "nimbus-embed")
REGIONS = ("us-west", "us-east", "eu-central", "ap-northeast")
TOOLS = ("web-search", "code-sandbox", "weather", "translation")  # of partners, sold in US dollars
# Requests by hour of the day in UTC, in percent of the mean.
DAILY_CURVE = (
    *(60, 50, 45, 45, 50, 60, 70, 85, 100, 110, 115, 120),
    *(120, 130, 145, 155, 160, 160, 150, 140, 125, 105, 85, 70),
)

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SampleFile:
    """One file as the bucket received it."""

    key: str
    content: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class HourOfNode:
    """What one gateway node wrote in one hour: events, and lines that are no events."""

    start: datetime
    node: str
    events: tuple[Event, ...]
    broken_lines: tuple[bytes, ...] = ()

    @property
    def received_at(self) -> datetime:
        return self.start + HOUR + timedelta(minutes=3 + 2 * NODES.index(self.node))

    @property
    def key(self) -> str:
        return f"gateway/{self.start:%Y/%m/%d}/{self.start:%H}-{self.node}.ndjson"

    def lines(self) -> bytes:
        return _lines(self.events) + b"".join(line + b"\n" for line in self.broken_lines)


def sample_files(seed: int = 2026, events_per_hour: int = EVENTS_PER_HOUR) -> list[SampleFile]:
    """Return every file of the three days in the order in which the bucket received them."""
    subjects = _subjects()
    rng = random.Random(seed)
    hours = {
        (start, node): HourOfNode(start, node, tuple(_events(rng, subjects, start, node, events_per_hour)))
        for start in _starts(HOUR)
        for node in NODES
    }
    hours = {place: _with_retries(rng, hour) for place, hour in hours.items()}
    _retry_in_a_later_file(rng, hours)
    _plant_faulty_lines(hours)
    files = [_gateway_file(hour) for hour in hours.values()]
    files += [_media_file(rng, subjects, start, events_per_hour) for start in _starts(6 * HOUR)]
    in_dollars = _subjects("USD")
    files += [_tools_file(rng, in_dollars, start, events_per_hour) for start in _starts(6 * HOUR)]
    files = [*_plant_faulty_files(files, hours), *_files_after_the_close(hours)]
    return sorted(files, key=lambda file: (file.received_at, file.key))


def _starts(step: timedelta) -> list[datetime]:
    return [FIRST_HOUR + step * number for number in range(timedelta(days=DAYS) // step)]


def _subjects(currency: str = "") -> list[str]:
    """Return API keys, those of busy accounts many times: a few accounts make most of the usage.

    The account that changed its key during the three days has been quiet, but for the events planted below.
    """
    with ACCOUNTS_FILE.open(encoding="utf-8", newline="") as file:
        accounts = {row["account_id"]: row for row in csv.DictReader(file)}
    rows = [row for account_id, row in accounts.items() if account_id != QUIET_ACCOUNT]
    return [
        reference
        for number, row in enumerate(rows)
        if currency in ("", row["currency"])
        for reference in row["external_references"].split(";")
        for _ in range(1 + 240 // (3 + number * 37 % len(rows)))
    ]


def _events(
    rng: random.Random, subjects: list[str], start: datetime, node: str, events_per_hour: int
) -> Iterator[Event]:
    count = max(4, events_per_hour * DAILY_CURVE[start.hour] // 100)
    for number, offset in enumerate(sorted(rng.randrange(3_600_000) for _ in range(count))):
        model = rng.choice(MODELS)
        data = {"model": model, "region": rng.choice(REGIONS), "input_tokens": 40 + rng.randrange(1, 300) ** 2}
        if model != "nimbus-embed":
            data["output_tokens"] = 1 + rng.randrange(1, 90) ** 2
        yield {
            "specversion": "1.0",
            "source": "gateway",
            "id": f"{start:%m%d%H}-{node[-1]}-{number:05d}",
            "type": "embedding.completed" if model == "nimbus-embed" else "inference.completed",
            "time": _text(start + timedelta(milliseconds=offset)),
            "subject": rng.choice(subjects),
            "data": data,
        }


# ---- what goes wrong -------------------------------------------------------------------------------------------


def _with_retries(rng: random.Random, hour: HourOfNode) -> HourOfNode:
    """A client that saw no answer sends again: the same event twice in one file."""
    events = [copy for event in hour.events for copy in [event] * (2 if rng.randrange(100) == 0 else 1)]
    return replace(hour, events=tuple(events))


def _retry_in_a_later_file(rng: random.Random, hours: dict[tuple[datetime, str], HourOfNode]) -> None:
    """A node that saw no acknowledgement sends again through the other node an hour later."""
    for (start, node), hour in list(hours.items()):
        later = (start + HOUR, NODES[1 - NODES.index(node)])
        if later in hours:
            repeated = [event for event in hour.events[:200] if rng.randrange(200) == 0]
            hours[later] = replace(hours[later], events=(*hours[later].events, *repeated))


def _plant_faulty_lines(hours: dict[tuple[datetime, str], HourOfNode]) -> None:
    def plant(day: int, hour: int, node: str, *lines: Event | bytes) -> None:
        place = (FIRST_HOUR + timedelta(days=day, hours=hour), node)
        events = tuple(line for line in lines if isinstance(line, dict))
        broken = tuple(line for line in lines if isinstance(line, bytes))
        old = hours[place]
        hours[place] = replace(old, events=old.events + events, broken_lines=old.broken_lines + broken)

    def event(day: int, hour: int, node: str, number: int, **changes: Any) -> Event:
        original = hours[FIRST_HOUR + timedelta(days=day, hours=hour), node].events[number]
        return {**original, "id": f"{original['id']}-{number}", **changes}

    def data(day: int, hour: int, node: str, number: int, **changes: Any) -> Event:
        original = event(day, hour, node, number)
        return {**original, "data": {**original["data"], "model": "nimbus-large", "output_tokens": 7, **changes}}

    # 30 January
    plant(0, 0, "node-a", event(0, 0, "node-a", 0, time="2026-01-29T23:59:58Z"))  # before the company launched
    plant(0, 9, "node-a", _line(hours[FIRST_HOUR + 9 * HOUR, "node-a"].events[1])[:70])  # cut by a crash
    plant(0, 11, "node-b", _line(data(0, 11, "node-b", 0, input_tokens={"count": 5})))  # wrong type
    missing = event(0, 12, "node-b", 0)
    del missing["subject"]
    plant(0, 12, "node-b", _line(missing))
    plant(0, 13, "node-b", _line({**event(0, 13, "node-b", 0), "debug": True}))  # unknown field
    plant(0, 14, "node-a", *(event(0, 14, "node-a", number, subject="key_unknown") for number in range(3)))
    # The same key with another quantity, an hour after the first: which one is right is a question for people.
    first = {**data(0, 15, "node-a", 2), "subject": DISPUTED_KEY}
    plant(0, 15, "node-a", first)
    plant(0, 16, "node-b", {**first, "data": {**first["data"], "input_tokens": 999_999}})
    # 31 January
    plant(1, 8, "node-a", _line(data(1, 8, "node-a", 0, input_tokens="NaN")))
    plant(1, 9, "node-a", _line(event(1, 9, "node-a", 0, time="2026-01-31T09:10:11")))  # a time without zone
    plant(1, 10, "node-a", *(data(1, 10, "node-a", number, model="nimbus-preview") for number in range(4)))
    plant(1, 9, "node-b", *(event(1, 9, "node-b", number, subject=RETIRED_KEY) for number in range(4)))  # still valid
    plant(1, 13, "node-b", *(event(1, 13, "node-b", number, subject=NEW_KEY) for number in range(4)))
    plant(1, 14, "node-a", *(event(1, 14, "node-a", number, subject=RETIRED_KEY) for number in range(2)))  # too late
    unread = event(1, 15, "node-a", 0, type="inference.completed")
    unread["data"] = {"model": "nimbus-large", "region": "us-east", "input_tokens": 12}  # output_tokens are missing
    plant(1, 15, "node-a", unread)
    # 1 February
    plant(2, 6, "node-b", event(2, 6, "node-b", 0, time="2026-02-01T08:30:00Z"))  # a clock that runs ahead
    plant(2, 7, "node-b", b'{"specversion":"1.0","source":"gateway","id":"\xff\xfe","type":"inference.completed"}')
    plant(2, 8, "node-b", _line(event(2, 8, "node-b", 0, type="inference.started")))  # the contract has no such type


def _plant_faulty_files(files: list[SampleFile], hours: dict[tuple[datetime, str], HourOfNode]) -> Iterator[SampleFile]:
    late = {
        # node-b lost its network on 30 January and delivered the morning after, node-a a day later: after the cutoff.
        _hour(0, 17, "node-b").key: datetime(2026, 1, 31, 9, 20, tzinfo=UTC),
        _hour(1, 21, "node-a").key: datetime(2026, 2, 1, 8, 40, tzinfo=UTC),
    }
    cut = _hour(1, 14, "node-b")
    for file in files:
        plain_key = file.key.removesuffix(".gz").removesuffix(".zst")
        if plain_key == cut.key:
            # The upload was cut. The producer sends the whole file again under the same key, the day after.
            yield replace(file, content=file.content[: len(file.content) // 2])
            yield replace(file, received_at=datetime(2026, 2, 1, 10, 5, tzinfo=UTC))
        else:
            yield replace(file, received_at=late.get(plain_key, file.received_at))
    yield SampleFile("gateway/2026/01/30/18-node-c.ndjson", b"", _received(0, 19))  # an empty file
    picture = b"\x89PNG\r\n\x1a\n" + bytes(64)
    yield SampleFile("gateway/2026/01/31/11-node-c.ndjson.gz", picture, _received(1, 12))  # not what its name says
    yield SampleFile("gateway/README.txt", b"files of the gateway\n", _received(0, 1))  # covered by no contract
    # A whole file that was uploaded twice under two names, the second time as plain text with a name that says gzip.
    again = hours[FIRST_HOUR + timedelta(days=2, hours=3), "node-a"]
    yield SampleFile(f"{again.key}-retry.ndjson.gz", again.lines(), _received(2, 5))


def _files_after_the_close(hours: dict[tuple[datetime, str], HourOfNode]) -> Iterator[SampleFile]:
    """On 6 February, a day after January was closed: usage of the 31st that was lost, and usage that is taken back."""
    start = FIRST_HOUR + timedelta(days=1, hours=10)
    lost = [
        {
            "specversion": "1.0",
            "source": "gateway",
            "id": f"{start:%m%d%H}-c-{number:05d}",
            "type": "inference.completed",
            "time": _text(start + timedelta(minutes=number)),
            "subject": LOST_KEY,
            "data": {"model": "nimbus-large", "region": "us-east", "input_tokens": 90_000, "output_tokens": 30_000},
        }
        for number in range(40)
    ]
    yield SampleFile(f"gateway/{start:%Y/%m/%d}/{start:%H}-node-c.ndjson", _lines(lost), _received(7, 7))
    failed = {
        event["id"]: event
        for (hour_start, _), hour in hours.items()
        if start <= hour_start < start + 8 * HOUR
        for event in hour.events
        if event["subject"] in FAILED_KEYS and event["data"]["model"] == "nimbus-large"
    }
    voids = [
        {
            "specversion": "1.0",
            "source": "support-desk",
            "id": f"void-{event['id']}",
            "type": "request.voided",
            "time": _text(_received(7, 6)),
            "subject": event["subject"],
            "data": {"source": event["source"], "id": event["id"]},
        }
        for event in failed.values()
    ]
    yield SampleFile("support/2026-02-06.ndjson", _lines(voids), _received(7, 7))


def _hour(day: int, hour: int, node: str) -> HourOfNode:
    return HourOfNode(FIRST_HOUR + timedelta(days=day, hours=hour), node, ())


def _received(day: int, hour: int) -> datetime:
    return FIRST_HOUR + timedelta(days=day, hours=hour, minutes=11)


# ---- files -----------------------------------------------------------------------------------------------------


def _gateway_file(hour: HourOfNode) -> SampleFile:
    """node-a compresses with gzip by day and not at all by night, node-b with gzip and zstd in turn."""
    content = hour.lines()
    if hour.node == "node-b" and hour.start.hour % 2:
        return SampleFile(f"{hour.key}.zst", zstd.compress(content), hour.received_at)
    if hour.node == "node-b" or hour.start.hour >= 6:
        return SampleFile(f"{hour.key}.gz", gzip.compress(content, mtime=0), hour.received_at)
    return SampleFile(hour.key, content, hour.received_at)


def _media_file(rng: random.Random, subjects: list[str], start: datetime, events_per_hour: int) -> SampleFile:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["job_id", "api_key", "finished_at", "kind", "quantity"])
    for number in range(max(4, events_per_hour // 2)):
        finished_at = start + timedelta(seconds=rng.randrange(6 * 3600))
        is_image = rng.randrange(3) > 0
        quantity = str(rng.randrange(1, 5)) if is_image else f"{rng.randrange(2, 900)}.{rng.randrange(1000):03d}"
        kind = "image.generated" if is_image else "speech.transcribed"
        job_id, text_of_time = f"job-{start:%m%d%H}-{number:04d}", f"{finished_at:%Y-%m-%d %H:%M:%S}"
        rows.writerow([job_id, rng.choice(subjects), text_of_time, kind, quantity])
    if start == FIRST_HOUR + timedelta(hours=12):
        rows.writerow(["job-bad", subjects[0], "2026-01-30 13:00:00", "image.generated", "two"])  # not a number
    key = f"media/{start:%Y-%m-%d}/jobs-{start:%H}.csv"
    return SampleFile(key, text.getvalue().encode(), start + timedelta(hours=6, minutes=10))


def _tools_file(rng: random.Random, subjects: list[str], start: datetime, events_per_hour: int) -> SampleFile:
    calls = [
        {
            "specversion": "1.0",
            "source": "tool-router",
            "id": f"{start:%m%d%H}-{number:04d}",
            "type": "tool.completed",
            "time": _text(start + timedelta(seconds=rng.randrange(6 * 3600))),
            "subject": rng.choice(subjects),
            "data": {"tool": rng.choice(TOOLS), "price": f"0.{rng.randrange(1, 2000):05d}"},
        }
        for number in range(max(4, events_per_hour))
    ]
    return SampleFile(f"tools/{start:%Y-%m-%d}/calls-{start:%H}.ndjson", _lines(calls), start + timedelta(hours=6))


def _lines(events: Iterable[Event]) -> bytes:
    return b"".join(_line(event) + b"\n" for event in events)


def _line(event: Event) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()


def _text(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the sample usage files into a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--events-per-hour", type=int, default=EVENTS_PER_HOUR)
    options = parser.parse_args()
    for file in sample_files(options.seed, options.events_per_hour):
        path = options.folder / f"{file.received_at:%Y%m%dT%H%MZ}" / file.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)


if __name__ == "__main__":
    main()
