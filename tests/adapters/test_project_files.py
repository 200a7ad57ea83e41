"""A billing project is read whole and checked whole; each problem is one line that says file, key, found, accepted."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.adapters.price_book_files import read_price_book
from pipeline.adapters.project_files import STARTER_PROJECT, load_project, load_settings, write_starter_project
from pipeline.core.errors import InputError
from pipeline.core.manifest import sha256_hex
from pipeline.core.price_book import PerUnitCharge
from pipeline.core.price_book_rules import book_problems
from pipeline.core.project import Project
from tests.fixtures_project import ACCOUNTS, BILLING, CONTRACT, METERS, PRICE_BOOK, PROJECT_FILES, write_project

BOOK = "price_books/2025-01-01.toml"
HEADER = ACCOUNTS.partition("\n")[0]
Load = Callable[..., Project]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the test project with some files replaced: ``load({"meters.toml": text})``."""
    return lambda files=None: load_project(write_project(tmp_path / "project", files=files))


def problems(load: Load, name: str, content: str) -> list[str]:
    """Return the problems of the test project with one file replaced."""
    with pytest.raises(InputError) as refused:
        load({name: content})
    assert refused.value.code == "project.invalid"
    return list(refused.value.details)


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


def test_a_valid_project_is_read_with_exact_decimals_and_the_bytes_of_each_file(load: Load) -> None:
    project = load()

    charge = project.price_books[0].book.plans["standard"].charge("tokens-input", "EUR")
    assert isinstance(charge, PerUnitCharge)
    assert charge.unit_price == Decimal("2.8")
    assert project.directory.accounts()["acct-2"].time_zone == "America/New_York"
    assert project.directory.rows[1].external_references == ("customer-2", "customer-2b")
    assert sorted(project.files) == sorted(PROJECT_FILES)
    assert project.price_books[0].version == f"standard@{sha256_hex(PRICE_BOOK.encode())[:12]}"


def test_problems_of_all_files_are_shown_together(load: Load) -> None:
    files = {
        "billing.toml": replaced(BILLING, 'grace_period = "6h"', 'grace_period = "6 hours"'),
        "sources/usage.toml": replaced(CONTRACT, 'format = "ndjson"', 'format = "xml"'),
        "meters.toml": replaced(METERS, 'unit = "requests"', 'unit = ""'),
        "accounts.csv": replaced(ACCOUNTS, "acct-2,Second Customer,USD", "acct-2,Second Customer,BUCKS"),
        BOOK: replaced(PRICE_BOOK, "unit_price = 2.8", "unit_price = nan"),
    }

    with pytest.raises(InputError) as refused:
        load(files)

    assert [line.partition(":")[0] for line in refused.value.details] == [
        "billing.toml",
        "sources/usage.toml",
        "meters.toml",
        f"{BOOK} line 21",
        "accounts.csv line 3",
    ]
    assert "has 5 problems; nothing was done" in refused.value.summary


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        (
            "billing.toml",
            replaced(BILLING, 'grain = "1h"', "grain = 3600"),
            "billing.toml: window.grain: found 3600; expected a duration such as 15m, 6h or 1d",
        ),
        (
            "billing.toml",
            replaced(BILLING, "first_window = 2026-01-01", ""),
            "billing.toml: window.first_window: found nothing, accepted a value (the key is required)",
        ),
        (
            "billing.toml",
            replaced(BILLING, 'bucket = "{bucket}"', 'bucket = "s3://raw usage"'),
            "billing.toml: raw.bucket: found 's3://raw usage'; accepted a name of 3 to 255 letters, digits and . _ -, "
            "with a letter or digit at each end",
        ),
        (
            "billing.toml",
            replaced(BILLING, "[raw]", '[raw]\nregoin = "eu"'),
            "billing.toml: raw.regoin: found an unknown key, accepted bucket, endpoint_url, region",
        ),
        (
            "sources/usage.toml",
            replaced(CONTRACT, 'format = "ndjson"', 'format = "xml"'),
            "sources/usage.toml: format: found 'xml', accepted 'ndjson', 'json', 'csv' or 'parquet'",
        ),
        (
            "sources/usage.toml",
            CONTRACT + '[event.id]\nfield = "id"\nconstant = "1"\n',
            "sources/usage.toml: event.id: set exactly one of field, first_of, constant, object_key, derive",
        ),
        (
            "sources/usage.toml",
            CONTRACT + '[completeness]\nkey_pattern = "x"\n',
            "sources/usage.toml: completeness.evidence: found nothing, "
            "accepted 'control_file', 'elapsed', 'heartbeat', 'offsets'",
        ),
        (
            "sources/usage.toml",
            CONTRACT + '[event]\nid = { derive = "offset" }\n',
            'sources/usage.toml: derive = "offset" needs [completeness] with evidence = "offsets" and its key_pattern',
        ),
        (
            "sources/usage.toml",
            CONTRACT + "delimiter = ';'\n",
            'sources/usage.toml: delimiter is for format = "csv", got format = "ndjson"',
        ),
        (
            "sources/usage.toml",
            CONTRACT + '[schemas]\n"other.type" = "other.json"\n',
            "sources/usage.toml: schemas names other.type, which event_types does not",
        ),
        (
            "sources/usage.toml",
            CONTRACT + '[schemas]\n"request.completed" = "../../secret.json"\n',
            "sources/usage.toml: schemas.request.completed: found '../../secret.json', "
            "accepted the name of a file below sources/ that ends in .json",
        ),
        (
            "sources/usage.toml",
            CONTRACT + '[schemas]\n"request.completed" = "missing.json"\n',
            "sources/missing.json: found no readable file (No such file or directory), accepted a file of this name",
        ),
        (
            "meters.toml",
            replaced(METERS, 'value = "data.input_tokens"', ""),
            'meters.toml: meters.#1: value: found none, accepted "quantity" or "data.<path>" for aggregation = "sum"',
        ),
        (
            "meters.toml",
            replaced(METERS, 'aggregation = "sum"', 'aggregation = "sum_of_maxima"\nbucket = "90m"'),
            "meters.toml: bucket of tokens-input: found 90m, accepted a whole multiple of the grain of 1h "
            "(window.grain in billing.toml)",
        ),
        (
            "meters.toml",
            replaced(METERS, 'unit = "tokens"', 'unit = "tokens"\nbilling_unit = "GB"'),
            "meters.toml: meters.#1: billing_unit: found 'GB', accepted { name = \"...\", size = <how many of unit> } "
            "for unit = 'tokens'; names alone are known for unit = \"bytes\"",
        ),
        (
            BOOK,
            replaced(PRICE_BOOK, 'model = "graduated"', 'model = "tiered"'),
            f"{BOOK} line 27: plans.standard.charges.#3.model: found 'tiered', accepted 'per_unit', 'graduated', "
            "'volume', 'stairstep', 'package', 'percentage', 'graduated_percentage', 'matrix', 'dynamic', 'flat_fee'",
        ),
        (
            BOOK,
            replaced(PRICE_BOOK, 'model = "graduated"', ""),
            f"{BOOK} line 24: plans.standard.charges.#3.model: found nothing, accepted 'dynamic', 'flat_fee', "
            "'graduated', 'graduated_percentage', 'matrix', 'package', 'per_unit', 'percentage', 'stairstep', 'volume'",
        ),
        (
            BOOK,
            replaced(PRICE_BOOK, "{ unit_price = 0.01 }", "{ unit_prize = 0.01 }"),
            f"{BOOK} line 29: plans.standard.charges.#3.tiers.#2.unit_prize: found an unknown key, "
            "accepted flat_fee, unit_price, up_to",
        ),
        (
            BOOK,
            replaced(PRICE_BOOK, "unit_price = 2.8", "unit_price = inf"),
            f"{BOOK} line 21: plans.standard.charges.#2.unit_price: found Infinity, accepted a finite number",
        ),
        (
            BOOK,
            replaced(PRICE_BOOK, "unit_price = 2.8", "unit_price = true"),
            f"{BOOK} line 21: plans.standard.charges.#2.unit_price: "
            "found True; expected an exact decimal, got bool True",
        ),
        (
            "billing.toml",
            replaced(BILLING, '"6h"', '"999999999999d"'),
            "billing.toml: window.grace_period: found '999999999999d'; expected a duration such as 15m, 6h or 1d",
        ),
        (
            "billing.toml",
            replaced(BILLING, '"6h"', '"9999d"'),
            "billing.toml: window.grace_period: found '9999d'; expected a duration of at most 366d",
        ),
        (
            "billing.toml",
            replaced(BILLING, "2026-01-01", "9999-12-31"),
            "billing.toml: window.first_window: found 9999-12-31, accepted less than 3000-01-01",
        ),
        (
            BOOK,
            replaced(PRICE_BOOK, "2025-01-01", "2025-01-01T00:00:00Z"),
            f"{BOOK} line 4: effective_from: found 2025-01-01T00:00:00+00:00; "
            "expected a calendar date such as 2026-01-01, without a time",
        ),
    ],
)
def test_a_problem_names_file_key_what_was_found_and_what_is_accepted(
    load: Load, name: str, content: str, line: str
) -> None:
    assert line in problems(load, name, content)


@pytest.mark.parametrize("name", ["billing.toml", "sources/usage.toml", "meters.toml", BOOK])
def test_text_that_is_not_toml_names_file_and_line(load: Load, name: str) -> None:
    [problem] = [p for p in problems(load, name, '# line 1\nname = "open\n') if p.startswith(name)]

    assert "not TOML" in problem
    assert "line 2" in problem


@pytest.mark.parametrize("name", ["billing.toml", "meters.toml", "accounts.csv"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_project(tmp_path)
    (folder / name).unlink()

    with pytest.raises(InputError, match=rf"{name}: found no readable file"):
        load_project(folder)


@pytest.mark.parametrize("name", ["sources/usage.toml", BOOK])
def test_a_folder_without_a_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_project(tmp_path)
    (folder / name).unlink()

    with pytest.raises(InputError, match=rf"{name.partition('/')[0]}/: found no file"):
        load_project(folder)


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    folder = write_project(tmp_path)
    (folder / "accounts.csv").write_bytes(ACCOUNTS.replace("Dritte Kundin", "Dritte K\xfcndin").encode("latin-1"))

    with pytest.raises(InputError, match=r"accounts\.csv line 4: found bytes that are not UTF-8"):
        load_project(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"project\.not_found"):
        load_project(tmp_path / "nowhere")


# ---- accounts.csv ----


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            replaced(ACCOUNTS, "account_id,name", "id,name"),
            f"accounts.csv line 1: found the header {HEADER.removeprefix('account_')!r}, accepted {HEADER}",
        ),
        ("", f"accounts.csv line 1: found the header '', accepted {HEADER}"),
        (HEADER, "accounts.csv: found no account, accepted one or more rows below the header"),
        (
            replaced(ACCOUNTS, ",,customer-1\n", ",customer-1\n"),
            f"accounts.csv line 2: found 7 columns, accepted 8: {HEADER}",
        ),
        (
            replaced(ACCOUNTS, "America/New_York", "America/NewYork"),
            "accounts.csv line 3: time_zone: found 'America/NewYork'; "
            "'America/NewYork' is not an IANA time zone such as Europe/Berlin",
        ),
        (
            replaced(ACCOUNTS, "2026-01-01T00:00:00Z", "20260101"),
            "accounts.csv line 2: valid_from: found '20260101', "
            "accepted an instant with a zone such as 2026-01-01T00:00:00Z",
        ),
        (
            replaced(ACCOUNTS, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00"),
            "accounts.csv line 2: valid_from: found '2026-01-01T00:00:00', "
            "accepted an instant with a zone such as 2026-01-01T00:00:00Z",
        ),
        (
            replaced(ACCOUNTS, ",,customer-1\n", ",, ; \n"),
            "accounts.csv line 2: external_references: found an empty list, accepted 1 or more",
        ),
        (
            replaced(ACCOUNTS, ",customer-3", ",customer-2b"),
            "accounts.csv: external reference 'customer-2b' belongs to acct-2 and acct-3 at the same time",
        ),
        (
            replaced(ACCOUNTS, "acct-3,Dritte Kundin", '"acct-3,Dritte Kundin'),
            "accounts.csv line 4: found text that is not CSV: unexpected end of data",
        ),
    ],
)
def test_a_problem_of_an_account_names_its_line(load: Load, content: str, line: str) -> None:
    assert line in problems(load, "accounts.csv", content)


def test_a_line_is_counted_as_in_an_editor_also_after_a_name_with_a_line_break(load: Load) -> None:
    broken = replaced(
        replaced(ACCOUNTS, "First Customer", '"First\nCustomer"'), "Dritte Kundin,EUR", "Dritte Kundin,EURO"
    )

    [problem] = problems(load, "accounts.csv", broken)

    assert problem.startswith("accounts.csv line 5: currency: found 'EURO'")


def test_a_spreadsheet_may_add_a_byte_order_mark_and_carriage_returns(load: Load) -> None:
    project = load({"accounts.csv": "\ufeff" + ACCOUNTS.replace("\n", "\r\n")})

    assert list(project.directory.accounts()) == ["acct-1", "acct-2", "acct-3"]


# ---- rules across files ----


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (
            {"accounts.csv": replaced(ACCOUNTS, "UTC,standard", "UTC,gold")},
            "accounts.csv: plan of account acct-1: found 'gold', accepted standard (plans of the price books)",
        ),
        (
            {BOOK: replaced(PRICE_BOOK, 'sku = "requests"', 'sku = "request"')},
            f"{BOOK} line 25: plans.standard.charges.#3.sku: "
            "found 'request', accepted requests, tokens-input (meters.toml)",
        ),
        (
            {"sources/other.toml": replaced(CONTRACT, 'prefix = "usage/"', 'prefix = "other/"')},
            "sources/: name: found 'usage' in two contracts, accepted one contract of a name",
        ),
        (
            {"sources/other.toml": replaced(replaced(CONTRACT, '"usage"', '"other"'), '"usage/"', '"usage/eu/"')},
            "sources/: prefix and suffixes: found keys that both other and usage cover, "
            "accepted one contract for each key",
        ),
        (
            {"price_books/again.toml": PRICE_BOOK + "\n"},
            f"price_books/again.toml: effective_from: found 2025-01-01, the same as {BOOK}, "
            "accepted one book for each date",
        ),
        (
            {
                "sources/usage.toml": CONTRACT + '[event.data.input_tokens]\nfield = "data.input_tokens"\n',
                "meters.toml": replaced(METERS, "data.input_tokens", "data.inputs"),
            },
            "meters.toml: value of tokens-input: found 'inputs', which no contract takes from a record; "
            "accepted input_tokens ([event.data] in sources/)",
        ),
        (
            {"meters.toml": replaced(METERS, '"data.input_tokens"', '"quantity"')},
            "meters.toml: value of tokens-input: found 'quantity', which no contract maps; "
            "accepted a path of data, or [event.quantity] in sources/",
        ),
        (
            {"accounts.csv": replaced(ACCOUNTS, "Dritte Kundin,EUR", "Dritte Kundin,GBP")},
            "accounts.csv: currency of account acct-3: found GBP, "
            "accepted EUR, USD (charges of plan 'standard' in the price books)",
        ),
        (
            {BOOK: replaced(PRICE_BOOK, "2025-01-01", "2026-01-01")},
            f"{BOOK}: effective_from: found 2026-01-01, accepted 2025-12-01 or before, "
            "the month in which the first window begins in America/New_York",
        ),
        (
            {"meters.toml": replaced(METERS, "request.completed", "request.done")},
            "meters.toml: event_type of tokens-input: found 'request.done', "
            "accepted request.completed (event_types in sources/)",
        ),
        (
            {"accounts.csv": replaced(ACCOUNTS, "America/New_York", "Asia/Kathmandu")},
            "accounts.csv: time_zone of account acct-2: found Asia/Kathmandu, whose months do not start on a grain of "
            "1h; accepted a zone that the grain cuts, or a smaller window.grain in billing.toml",
        ),
        (
            {"billing.toml": BILLING + '[lake]\nurl = "gs://bucket"\n'},
            "billing.toml: lake.url: found 'gs://bucket', accepted a folder or \"s3://bucket/prefix\"",
        ),
        (
            {"billing.toml": BILLING + '[lake]\nurl = "s3://{bucket}/lake"\n'},
            "billing.toml: lake.url: found 's3://raw-usage/lake', "
            "accepted a bucket other than raw.bucket, which is only read",
        ),
        (
            {"billing.toml": BILLING + '[control_plane]\nurl = "mysql://user:secret@host/billing"\n'},
            "billing.toml: control_plane.url: found 'mysql', "
            'accepted "sqlite:///file.db" or "postgresql+psycopg://..."',
        ),
    ],
)
def test_files_that_contradict_each_other_are_refused(load: Load, files: dict[str, str], line: str) -> None:
    with pytest.raises(InputError) as refused:
        load(files)

    assert refused.value.details == (line,)


def test_a_grain_of_a_quarter_hour_cuts_kathmandu(load: Load) -> None:
    load(
        {
            "billing.toml": replaced(BILLING, 'grain = "1h"', 'grain = "15m"'),
            "accounts.csv": replaced(ACCOUNTS, "America/New_York", "Asia/Kathmandu"),
        }
    )


def test_a_zone_whose_summer_time_alone_is_off_the_grain_is_refused(load: Load) -> None:
    """Lord Howe Island is at +11:00 in the southern summer and at +10:30 in its winter."""
    found = problems(load, "accounts.csv", replaced(ACCOUNTS, "America/New_York", "Australia/Lord_Howe"))

    assert "found Australia/Lord_Howe" in found[0]


def test_a_meter_may_count_any_type_when_a_contract_declares_none(load: Load) -> None:
    load(
        {
            "sources/usage.toml": replaced(CONTRACT, 'event_types = ["request.completed"]', ""),
            "meters.toml": replaced(METERS, "request.completed", "request.done"),
        }
    )


def test_two_feeds_may_share_a_prefix_when_their_suffixes_differ(load: Load) -> None:
    csv_feed = 'name = "batch"\nversion = "1"\nprefix = "usage/"\nsuffixes = [".csv"]\nformat = "csv"\n'

    assert len(load({"sources/batch.toml": csv_feed}).contracts) == 2


def test_a_new_price_book_has_another_version_when_any_byte_changes(load: Load) -> None:
    before = load().price_books[0].version

    assert load({BOOK: PRICE_BOOK + "# a note\n"}).price_books[0].version != before


# ---- the starter project, and billing.toml alone ----


def test_the_starter_project_loads_as_it_is_written(tmp_path: Path) -> None:
    written = write_starter_project(tmp_path / "new")

    project = load_project(tmp_path / "new")
    assert {path.relative_to(tmp_path / "new").as_posix() for path in written} >= {*project.files, "README.md"}
    assert len(written) == sum(path.is_file() for path in STARTER_PROJECT.rglob("*"))
    draft = read_price_book("standard.toml", (tmp_path / "new" / "price_books" / "standard.toml").read_bytes())
    assert draft.book is not None
    assert book_problems(draft.book, project.meters, project.directory.rows) == []
    assert {meter.sku for meter in project.meters} == {charge.sku for charge in draft.book.plans["standard"].charges}


def test_drafts_are_no_part_of_a_project_that_two_people_approve_books_of(load: Load) -> None:
    project = load({"billing.toml": replaced(BILLING, '"files"', '"four_eyes"'), BOOK: "this is no TOML"})

    assert project.price_books == ()
    assert BOOK not in project.files


def test_a_folder_that_holds_anything_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(InputError, match=r"init\.folder_not_empty"):
        write_starter_project(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_billing_toml_can_be_read_alone(tmp_path: Path) -> None:
    (tmp_path / "billing.toml").write_text(
        BILLING.replace("{bucket}", "raw-usage").replace("{endpoint_url}", "http://127.0.0.1:9")
    )
    assert load_settings(tmp_path).raw.bucket == "raw-usage"

    (tmp_path / "billing.toml").write_text("name = 3")
    with pytest.raises(InputError, match="name: found 3, accepted a valid string"):
        load_settings(tmp_path)


# JSON Schemas --------------------------------------------------------------------------------------------------------

WITH_SCHEMA = CONTRACT + '[schemas]\n"request.completed" = "request.json"\n'


def test_the_schema_of_an_event_type_is_read_and_kept_with_its_contract(load: Load) -> None:
    schema = '{"type": "object", "required": ["input_tokens"]}'

    project = load({"sources/usage.toml": WITH_SCHEMA, "sources/request.json": schema})

    assert project.contracts[0].schema_documents == {"request.completed": schema}
    assert project.files["sources/request.json"] == schema.encode()


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ("{", "line 1 column 2: found text that is not JSON: Expecting property name enclosed in double quotes"),
        ("[]", "found an array, accepted a JSON Schema: an object, true or false"),
        ('{"properties": {"a": {"type": "decimal"}}}', "$.properties.a.type: 'decimal' is not valid under any"),
        (
            '{"$schema": "http://json-schema.org/draft-07/schema#"}',
            "$schema: found 'http://json-schema.org/draft-07/schema#', accepted",
        ),
        (
            '{"properties": {"a": {"$ref": "https://example.com/schema.json"}}}',
            "$.properties.a.$ref: found 'https://example.com/schema.json', accepted a reference inside the file",
        ),
        ('{"allOf": [{"$ref": "other.json"}]}', "$.allOf[0].$ref: found 'other.json', accepted a reference inside"),
        ('{"$ref": "#/$defs/missing"}', "$.$ref: found '#/$defs/missing', which is nowhere in the file"),
    ],
)
def test_a_schema_that_cannot_be_used_stops_the_project_with_file_and_place(load: Load, schema: str, line: str) -> None:
    with pytest.raises(InputError) as refused:
        load({"sources/usage.toml": WITH_SCHEMA, "sources/request.json": schema})

    [problem] = refused.value.details
    assert problem.startswith(f"sources/request.json: {line}")
