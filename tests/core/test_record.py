"""Records: a line is one event or one rejection with its reason; nothing is repaired, no digit is lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.contract import SourceContract
from pipeline.core.event_time import parse_event_time
from pipeline.core.manifest import sha256_hex
from pipeline.core.reason import QuarantineReason
from pipeline.core.record import (
    LongLine,
    RawEvent,
    RecordParser,
    Rejection,
    comment_fault,
    is_comment,
    parser_for,
    read_header,
    split_lines,
)

KEY = "usage/eu/2026-01-15.ndjson"
OBJECT_ID = f"{KEY}@0123456789ab"
RECEIVED_AT = datetime(2026, 1, 15, 13, tzinfo=UTC)


def contract(**changed: Any) -> SourceContract:
    return SourceContract.model_validate(
        {"name": "feed", "version": "1", "prefix": "usage/", "format": "ndjson"} | changed
    )


def parser(feed: SourceContract | None = None, header: bytes | None = None) -> RecordParser:
    made = parser_for(feed or contract(), OBJECT_ID, KEY, RECEIVED_AT, header)
    assert isinstance(made, RecordParser), made
    return made


def event(**changed: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "source": "gateway",
        "id": "req-1",
        "type": "request.completed",
        "subject": "customer-1",
        "time": "2026-01-15T12:00:00Z",
        "data": {"input_tokens": 10},
    }
    return {name: value for name, value in (fields | changed).items() if value is not ...}


def parse(fields: dict[str, Any] | bytes, feed: SourceContract | None = None) -> RawEvent | Rejection:
    return parser(feed).parse(1, fields if isinstance(fields, bytes) else json.dumps(fields).encode())


def rejected(fields: dict[str, Any] | bytes, feed: SourceContract | None = None) -> QuarantineReason:
    result = parse(fields, feed)
    assert isinstance(result, Rejection), result
    return result.reason


def accepted(fields: dict[str, Any] | bytes, feed: SourceContract | None = None) -> RawEvent:
    result = parse(fields, feed)
    assert isinstance(result, RawEvent), result
    return result


TYPED = contract(
    event={
        "quantity": {"field": "data.quantity", "type": "decimal", "minimum": 0, "required": False},
        "data": {
            "input_tokens": {"field": "data.input_tokens", "type": "decimal", "minimum": 0, "maximum": 1_000_000_000},
            "model": {"field": "data.model", "required": False},
        },
    }
)


# CloudEvents ---------------------------------------------------------------------------------------------------------


def test_a_cloud_event_becomes_a_raw_event() -> None:
    assert accepted(event()) == RawEvent(
        source="gateway",
        id="req-1",
        type="request.completed",
        subject="customer-1",
        event_at=datetime(2026, 1, 15, 12, tzinfo=UTC),
        quantity=None,
        data='{"input_tokens":"10"}',
    )


def test_data_is_the_same_text_whatever_the_order_of_keys_and_the_way_numbers_are_written() -> None:
    first = b'{"b": 1.50, "a": {"y": 1e3, "x": [1e-7, true, null, "1.50"]}}'
    second = b'{"a":{"x":[0.00000010,true,null,"1.50"],"y":1000.0},"b":1.5}'
    line = json.dumps(event(data="DATA")).encode()

    texts = {accepted(line.replace(b'"DATA"', data)).data for data in (first, second)}

    assert texts == {'{"a":{"x":["0.0000001",true,null,"1.50"],"y":"1000"},"b":"1.5"}'}


def test_numbers_keep_digits_that_a_float_would_lose() -> None:
    line = json.dumps(event(data="DATA")).encode().replace(b'"DATA"', b'{"q":90071992547409931.100000000000000001}')

    assert accepted(line).data == '{"q":"90071992547409931.100000000000000001"}'


def test_an_event_without_data_has_empty_data() -> None:
    assert accepted(event(data=...)).data == "{}"


@pytest.mark.parametrize("name", ["source", "id", "type", "subject", "time"])
@pytest.mark.parametrize("missing", [..., None], ids=["absent", "null"])
def test_a_missing_attribute_is_a_missing_field(name: str, missing: Any) -> None:
    assert rejected(event(**{name: missing})) is QuarantineReason.MISSING_FIELD


@pytest.mark.parametrize("name", ["source", "id", "type", "subject"])
def test_an_empty_attribute_is_a_missing_field(name: str) -> None:
    assert rejected(event(**{name: ""})) is QuarantineReason.MISSING_FIELD


@pytest.mark.parametrize("name", ["source", "id", "type", "subject", "time"])
@pytest.mark.parametrize("wrong", [7, True, ["a"], {"a": "b"}])
def test_an_attribute_that_is_no_string_has_the_wrong_type(name: str, wrong: Any) -> None:
    assert rejected(event(**{name: wrong})) is QuarantineReason.WRONG_TYPE


@pytest.mark.parametrize("wrong", ["text", 1, ["a"], None])
def test_data_that_is_no_object_has_the_wrong_type(wrong: Any) -> None:
    assert rejected(event(data=wrong)) is QuarantineReason.WRONG_TYPE


@pytest.mark.parametrize("wrong", ["2.0", 1.0, None])
def test_another_version_of_cloud_events_is_refused(wrong: Any) -> None:
    assert rejected(event(specversion=wrong)) is QuarantineReason.WRONG_TYPE


@pytest.mark.parametrize("character", ["\u0000", "\n", "\u0085"])
def test_an_attribute_with_a_control_character_has_the_wrong_type(character: str) -> None:
    assert rejected(event(id=f"a{character}b")) is QuarantineReason.WRONG_TYPE


def test_an_event_type_outside_the_contract_is_refused_and_one_inside_is_not() -> None:
    feed = contract(event_types=["request.completed"])

    assert isinstance(parse(event(), feed), RawEvent)
    assert rejected(event(type="request.started"), feed) is QuarantineReason.UNKNOWN_EVENT_TYPE


# Lines that are not JSON ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(json.dumps(event()).encode()[:-1], id="truncated by one byte"),
        pytest.param(json.dumps(event()).encode()[:40], id="truncated"),
        pytest.param(json.dumps(event()).encode() * 2, id="two events on one line"),
        pytest.param(b'{"source":"a",}', id="trailing comma"),
        pytest.param(b"{'source':'a'}", id="single quotes"),
        pytest.param(b'["a"]', id="an array"),
        pytest.param(b"7", id="a number"),
        pytest.param(b'"text"', id="a string"),
        pytest.param(b"null", id="null"),
        pytest.param(b"\x00\x00\x00\x00", id="zero bytes of a torn write"),
        pytest.param(b'{"data":{"q":01}}', id="leading zero"),
        pytest.param(b'{"id":"a\tb"}', id="raw control character"),
        pytest.param(b"\xef\xbb\xbf{}", id="a byte order mark inside the object"),
    ],
)
def test_a_line_that_is_not_one_json_object_is_malformed(line: bytes) -> None:
    assert rejected(line) is QuarantineReason.MALFORMED_LINE


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_python_reads_and_json_does_not_have_is_not_a_number(constant: str) -> None:
    assert rejected(f'{{"data":{{"q":{constant}}}}}'.encode()) is QuarantineReason.NOT_A_NUMBER


@pytest.mark.parametrize("levels", [100_000, 600, 64])
def test_a_record_nested_deeper_than_the_limit_is_refused(levels: int) -> None:
    line = json.dumps(event(data="DATA")).replace('"DATA"', "[" * levels + "]" * levels).encode()

    assert rejected(line) is QuarantineReason.NESTED_TOO_DEEP


@pytest.mark.parametrize(("levels", "is_accepted"), [(62, True), (63, False)])
@pytest.mark.parametrize("innermost", ["", "1"])
def test_the_record_and_its_data_count_as_levels_and_a_value_does_not(
    levels: int, is_accepted: bool, innermost: str
) -> None:
    deep = '{"deep":' + "[" * levels + innermost + "]" * levels + ',"wide":[[],[]]}'
    line = json.dumps(event(data="DATA")).replace('"DATA"', deep).encode()

    result = parse(line)

    assert isinstance(result, RawEvent) is is_accepted
    assert is_accepted or result.reason is QuarantineReason.NESTED_TOO_DEEP  # type: ignore[union-attr]


def test_the_depth_that_is_accepted_is_the_contract_s() -> None:
    feed = contract(limits={"json_depth_max": 3})

    assert isinstance(parse(event(data={"a": {"b": 1}}), feed), RawEvent)
    assert rejected(event(data={"a": {"b": {}}}), feed) is QuarantineReason.NESTED_TOO_DEEP


@pytest.mark.parametrize(("keys", "is_accepted"), [(10, True), (11, False)])
def test_an_object_with_more_keys_than_the_contract_accepts_is_refused_at_any_depth(
    keys: int, is_accepted: bool
) -> None:
    feed = contract(limits={"columns_max": 10})

    result = parse(event(data={"list": [{f"key{number}": 1 for number in range(keys)}]}), feed)

    assert isinstance(result, RawEvent) is is_accepted
    assert is_accepted or result.reason is QuarantineReason.TOO_MANY_COLUMNS  # type: ignore[union-attr]


CUT_OFF = "; it does not end with } and may be cut off"
ARRAY = '; format = "json" reads an array of records'
SEQUENCE = '; format = "json" reads records with a comma or nothing between them'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id":"a","source', f"not one whole JSON object: column 11, found '\"source'{CUT_OFF}"),
        ('{"id":', f"not one whole JSON object: column 7, found the end{CUT_OFF}"),
        ('{"id":1} x', f"not one whole JSON object: column 10, found 'x'{CUT_OFF}"),
        ('{"id":01}', "not one whole JSON object: column 8, found '1}'"),
        ('{"id":\n01}', "not one whole JSON object: line 2 column 2 of it, found '1}'"),
        ("id,source", "not one whole JSON object: column 1, found 'id,source'"),
        ("7", "expected a JSON object, got a number"),
        ('[{"id":"a"},{"id":"b"}]', f"expected a JSON object, got an array{ARRAY}"),
        ("[", f"not one whole JSON object: column 2, found the end{ARRAY}"),
        ('{"id":"a"},', f"not one whole JSON object: column 11, found ','{SEQUENCE}"),
        ('{"id":"a"}{"id":"b"}', f'not one whole JSON object: column 11, found \'{{"id":"b"}}\'{SEQUENCE}'),
        ("]", f"not one whole JSON object: column 1, found ']'{ARRAY}"),
    ],
)
def test_a_line_that_is_not_one_object_says_where_and_what_was_found(line: str, message: str) -> None:
    assert parse(line.encode()) == Rejection(QuarantineReason.MALFORMED_LINE, message)


def test_a_record_of_a_sequence_is_not_told_to_be_one() -> None:
    feed = contract(format="json")

    assert parse(b"[1]", feed) == Rejection(QuarantineReason.MALFORMED_LINE, "expected a JSON object, got an array")
    assert parse(b"]", feed) == Rejection(
        QuarantineReason.MALFORMED_LINE, "not one whole JSON object: column 1, found ']'"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (..., "source: the field source is missing in the record"),
        (None, "source: the field source is null in the record"),
    ],
)
def test_a_field_that_is_not_there_is_said_to_be_missing_in_the_record(value: Any, message: str) -> None:
    assert parse(event(source=value)) == Rejection(QuarantineReason.MISSING_FIELD, message)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("2026-02-30T12:00:00Z", ": 2026-02-30 is no date"),
        ("2026-01-15T24:00:00Z", ": 24:00:00 is no time of day"),
        ("2026-06-30T23:59:60Z", ": 23:59:60 is no time of day"),
        ("2026-01-15T12:00:00+24:00", ": +24:00 is no offset of a zone"),
        ("2026-01-15T12:00:00", ': it has no zone, and the contract declares none (time_zone = "UTC")'),
        (
            "2026-01-15 12:00:00Z",
            ': a space stands for the T, which is read with time_zone = "UTC" in the contract only',
        ),
        ("0001-01-01T00:00:00+01:00", ": it is outside of the years 1 to 9999 in UTC"),
        (
            "2026-01-15T12:00:00." + "1" * 19 + "Z",
            ": a second has 19 digits after the point, accepted 18",
        ),
        ("15.01.2026 12:00", ""),
        ("2026-1-15T12:00:00Z", ""),
    ],
)
def test_a_time_that_cannot_be_says_which_part_of_it(text: str, fault: str) -> None:
    assert parse(event(time=text)) == Rejection(
        QuarantineReason.INVALID_TIME,
        f"time: expected a time with its zone such as 2026-01-15T12:00:00Z, got {text!r}{fault}",
    )


def test_nesting_within_the_limit_is_read_however_many_brackets_there_are() -> None:
    deep = json.loads("[" * 60 + "]" * 60)

    assert isinstance(parse(event(data={"deep": deep, "wide": [[]] * 200})), RawEvent)


@pytest.mark.parametrize(
    "line",
    [b'{"id":"caf\xe9"}', b"\x89PNG\r", json.dumps(event()).encode("utf-16")],
    ids=["latin-1", "binary", "utf-16"],
)
def test_bytes_that_are_not_utf_8_are_an_invalid_encoding(line: bytes) -> None:
    assert rejected(line) is QuarantineReason.INVALID_ENCODING


@pytest.mark.parametrize("changed", [{"id": "\ud800"}, {"data": {"a": "\udfff"}}, {"data": {"\ud800": 1}}])
def test_half_a_surrogate_pair_is_an_invalid_encoding(changed: dict[str, Any]) -> None:
    assert rejected(event(**changed)) is QuarantineReason.INVALID_ENCODING


@pytest.mark.parametrize(
    "line",
    [b'{"id":"a","id":"b"}', b'{"id":"a","id":"a"}', b'{"data":{"a":[{"q":1,"q":2}]}}'],
)
def test_a_repeated_key_is_refused_at_any_depth(line: bytes) -> None:
    assert rejected(line) is QuarantineReason.DUPLICATE_JSON_KEY


@pytest.mark.parametrize("number", ["1e101", "1e-101", "-1e999999999", "1e99999999999999999999999", "1" * 101])
def test_a_number_too_large_to_be_written_out_is_refused_before_it_is(number: str) -> None:
    line = json.dumps(event(data="DATA")).replace('"DATA"', f'{{"q":{number}}}').encode()

    assert rejected(line) is QuarantineReason.NUMBER_TOO_LARGE


def test_a_line_over_the_limit_is_too_long() -> None:
    result = parser().parse(1, LongLine(b"{", 2_000_000, "hash"))

    assert result == Rejection(
        QuarantineReason.LINE_TOO_LONG, "2,000,000 bytes, accepted 1,048,576 (limits.line_bytes_max)"
    )


# Times ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-15T12:00:00Z", "2026-01-15T12:00:00"),
        ("2026-01-15t12:00:00z", "2026-01-15T12:00:00"),
        ("2026-01-15T12:00:00.5+02:00", "2026-01-15T10:00:00.500000"),
        ("2026-01-15T00:30:00+05:45", "2026-01-14T18:45:00"),
        ("2026-01-15T12:00:00-00:00", "2026-01-15T12:00:00"),
        ("2026-01-15T12:00:00.123456999Z", "2026-01-15T12:00:00.123456"),
        ("2024-02-29T23:59:59.999999Z", "2024-02-29T23:59:59.999999"),
    ],
)
def test_a_time_with_its_zone_becomes_utc_microseconds(text: str, expected: str) -> None:
    assert accepted(event(time=text)).event_at == datetime.fromisoformat(expected + "+00:00")


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-15T12:00:00",
        "2026-01-15 12:00:00Z",
        "2026-01-15",
        "2026-01-15T12:00Z",
        "20260115T120000Z",
        "2026-01-15T24:00:00Z",
        "2026-01-15T12:60:00Z",
        "2026-01-15T23:59:60Z",
        "2026-02-29T12:00:00Z",
        "2026-01-15T12:00:00+0200",
        "2026-01-15T12:00:00+24:00",
        "2026-01-15T12:00:00,5Z",
        "2026-01-15T12:00:00 Z",
        " 2026-01-15T12:00:00Z",
        "2026-01-15T12:00:00Z\n",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "\uff12\uff10\uff12\uff16-01-15T12:00:00Z",
        "1768478400",
        "now",
        "",
    ],
)
def test_a_time_that_is_not_rfc_3339_with_a_zone_is_refused(text: str) -> None:
    assert rejected(event(time=text)) is QuarantineReason.INVALID_TIME


@pytest.mark.parametrize(
    "text", ["2023-11-16 18:17:03.9799600", "2023-11-16T18:17:03.97996", "2023-11-16T18:17:03.97996Z"]
)
def test_a_contract_that_declares_utc_reads_times_without_zone(text: str) -> None:
    feed = contract(event={"time": {"field": "time", "time_zone": "UTC"}})

    assert accepted(event(time=text), feed).event_at == datetime(2023, 11, 16, 18, 17, 3, 979_960, tzinfo=UTC)


@given(st.datetimes(timezones=st.timezones()))
def test_every_time_that_python_writes_is_read_back(moment: datetime) -> None:
    offset = moment.utcoffset()
    assert offset is not None
    if offset.total_seconds() % 60:
        return
    try:
        expected = moment.astimezone(UTC)
    except OverflowError:
        expected = None

    assert parse_event_time(moment.isoformat()) == expected


# Quantities and declared data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "quantity"),
    [
        ('"1e-7"', "0.0000001"),
        ("1e-7", "0.0000001"),
        ('"12.500"', "12.5"),
        ("12.5000000000", "12.5"),
        ("0", "0"),
        ("-0", "0"),
        ('"-0.0"', "0"),
        ("0E+50", "0"),
        ("90071992547409931", "90071992547409931"),
        ("0.12345678900", "0.123456789"),
        ('"12345678901234567"', "12345678901234567"),
        ("123456789012345678901.123456789", "123456789012345678901.123456789"),
        ('"123456789012345678901.123456789"', "123456789012345678901.123456789"),
        ('"99999999999999999999999999999.9999999990"', "99999999999999999999999999999.999999999"),
        ('"99999999999999999999999999999.999999999"', "99999999999999999999999999999.999999999"),
    ],
)
def test_a_quantity_is_exact_whether_it_is_a_string_or_a_number(written: str, quantity: str) -> None:
    line = json.dumps(event(data={"input_tokens": 1, "quantity": "Q"})).replace('"Q"', written).encode()

    assert str(accepted(line, TYPED).quantity) == str(Decimal(quantity))


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ('"NaN"', QuarantineReason.NOT_A_NUMBER),
        ('"nan"', QuarantineReason.NOT_A_NUMBER),
        ('"Infinity"', QuarantineReason.NOT_A_NUMBER),
        ('"-inf"', QuarantineReason.NOT_A_NUMBER),
        ('"sNaN"', QuarantineReason.NOT_A_NUMBER),
        ('"1_000"', QuarantineReason.INVALID_QUANTITY),
        ('" 5"', QuarantineReason.INVALID_QUANTITY),
        ('"5 "', QuarantineReason.INVALID_QUANTITY),
        ('"1,5"', QuarantineReason.INVALID_QUANTITY),
        ('"0x10"', QuarantineReason.INVALID_QUANTITY),
        ('"٣"', QuarantineReason.INVALID_QUANTITY),
        ('"+-1"', QuarantineReason.INVALID_QUANTITY),
        ('"."', QuarantineReason.INVALID_QUANTITY),
        ('"many"', QuarantineReason.INVALID_QUANTITY),
        ("-1", QuarantineReason.BELOW_MINIMUM),
        ('"-0.000000001"', QuarantineReason.BELOW_MINIMUM),
        ("0.0000000001", QuarantineReason.NUMBER_TOO_LARGE),
        ('"1e-10"', QuarantineReason.NUMBER_TOO_LARGE),
        ("100000000000000000000000000000", QuarantineReason.NUMBER_TOO_LARGE),
        ('"1e29"', QuarantineReason.NUMBER_TOO_LARGE),
        ('"1e9999"', QuarantineReason.NUMBER_TOO_LARGE),
    ],
)
def test_a_quantity_that_is_no_finite_decimal_of_the_column_is_refused(written: str, reason: QuarantineReason) -> None:
    line = json.dumps(event(data={"input_tokens": 1, "quantity": "Q"})).replace('"Q"', written).encode()

    assert rejected(line, TYPED) is reason


@pytest.mark.parametrize("wrong", [True, False, ["1"], {"value": 1}])
def test_a_quantity_that_is_neither_string_nor_number_has_the_wrong_type(wrong: Any) -> None:
    assert rejected(event(data={"input_tokens": wrong}), TYPED) is QuarantineReason.WRONG_TYPE


def test_a_declared_text_that_is_no_string_has_the_wrong_type() -> None:
    assert rejected(event(data={"input_tokens": 1, "model": 4}), TYPED) is QuarantineReason.WRONG_TYPE


@pytest.mark.parametrize("missing", [{}, {"input_tokens": None}, {"input_tokens": ""}])
def test_a_required_field_of_data_is_a_missing_field(missing: dict[str, Any]) -> None:
    assert rejected(event(data=missing), TYPED) is QuarantineReason.MISSING_FIELD


@pytest.mark.parametrize("missing", [{}, {"model": None, "quantity": None}, {"model": ""}])
def test_an_optional_field_may_be_absent(missing: dict[str, Any]) -> None:
    found = accepted(event(data={"input_tokens": 1} | missing), TYPED)

    assert (found.data, found.quantity) == ('{"input_tokens":"1"}', None)


# Unknown fields ------------------------------------------------------------------------------------------------------


def test_an_unknown_attribute_is_refused_by_name() -> None:
    result = parse(event(region="eu"))

    assert result == Rejection(QuarantineReason.UNKNOWN_FIELD, "not in the contract: 'region'")


def test_every_field_of_data_is_known_while_the_contract_lists_none() -> None:
    assert accepted(event(data={"anything": {"deep": 1}})).data == '{"anything":{"deep":"1"}}'


def test_a_field_of_data_that_the_contract_does_not_list_is_refused() -> None:
    result = parse(event(data={"input_tokens": 1, "colour": "red"}), TYPED)

    assert result == Rejection(QuarantineReason.UNKNOWN_FIELD, "not in the contract: 'data.colour'")


def test_kept_unknown_fields_are_inside_data_under_their_names() -> None:
    feed = TYPED.model_copy(update={"unknown_fields": "keep"})

    found = accepted(event(region="eu", data={"input_tokens": 1, "colour": {"hue": 2}}), feed)

    assert json.loads(found.data) == {"input_tokens": "1", "region": "eu", "colour": {"hue": "2"}}


def test_a_kept_field_never_hides_one_of_the_same_name() -> None:
    feed = contract(unknown_fields="keep")

    assert rejected(event(input_tokens=9), feed) is QuarantineReason.UNKNOWN_FIELD


def test_ignored_unknown_fields_leave_no_trace() -> None:
    feed = TYPED.model_copy(update={"unknown_fields": "ignore"})

    assert accepted(event(region="eu", data={"input_tokens": 1, "colour": "red"}), feed).data == '{"input_tokens":"1"}'


# Mapping -------------------------------------------------------------------------------------------------------------

ORDER_FEED: dict[str, Any] = {
    "id": {"derive": "hash", "of": ["order.number", "at"]},
    "source": {"constant": "shop"},
    "type": {"constant": "sale"},
    "subject": {"object_key": r"^usage/(\w+)/"},
    "time": {"field": "at"},
    "data": {"amount": {"field": "order.amount", "type": "decimal"}},
}


def order(**changed: Any) -> dict[str, Any]:
    return {"order": {"number": 7, "amount": "3.5"} | changed, "at": "2026-01-15T12:00:00Z"}


def test_a_record_of_another_shape_is_mapped_by_the_contract() -> None:
    found = accepted(order(), contract(event=ORDER_FEED))

    assert (found.source, found.type, found.subject, found.data) == ("shop", "sale", "eu", '{"amount":"3.5"}')


def test_a_hashed_id_depends_on_the_named_fields_and_on_nothing_else() -> None:
    feed = contract(event=ORDER_FEED)
    first = accepted(order(), feed).id

    assert accepted(order(amount="4"), feed).id == first
    assert accepted(order(number=8), feed).id != first
    assert accepted(order() | {"at": "2026-01-15T12:00:01Z"}, feed).id != first
    assert rejected(order(number=None), feed) is QuarantineReason.MISSING_FIELD


def test_an_unknown_field_beside_a_mapped_one_is_refused_at_its_depth() -> None:
    result = parse(order(note="x"), contract(event=ORDER_FEED))

    assert result == Rejection(QuarantineReason.UNKNOWN_FIELD, "not in the contract: 'order.note'")


def test_an_id_derived_from_object_and_line_differs_on_every_line() -> None:
    feed = contract(event={"id": {"derive": "object_and_line"}})
    line = json.dumps(event()).encode()

    ids = [found.id for number in (1, 2) if isinstance(found := parser(feed).parse(number, line), RawEvent)]

    assert ids == [f"{OBJECT_ID}:1", f"{OBJECT_ID}:2"]


def test_a_key_that_the_contract_cannot_read_rejects_the_whole_object() -> None:
    feed = contract(event={"subject": {"object_key": r"^other/(\w+)/"}})

    rejection = parser_for(feed, OBJECT_ID, KEY, RECEIVED_AT, None)

    assert isinstance(rejection, Rejection)
    assert rejection.reason is QuarantineReason.MISSING_FIELD


# CSV -----------------------------------------------------------------------------------------------------------------

CSV = contract(
    format="csv",
    event={
        "id": {"derive": "object_and_line"},
        "source": {"constant": "trace"},
        "type": {"constant": "inference"},
        "subject": {"field": "customer"},
        "time": {"field": "at", "time_zone": "UTC"},
        "data": {
            "tokens": {"field": "tokens", "type": "decimal", "minimum": 0},
            "model": {"field": "model", "required": False},
        },
    },
)
HEADER = b"at,customer,tokens,model"


@pytest.mark.parametrize(("tokens", "is_accepted"), [("1000000000", True), ("1000000000.000000001", False)])
def test_a_quantity_above_the_maximum_of_the_contract_is_quarantined(tokens: str, is_accepted: bool) -> None:
    result = parse(event(data={"input_tokens": tokens}), TYPED)

    assert isinstance(result, RawEvent) is is_accepted
    assert is_accepted or result.reason is QuarantineReason.ABOVE_MAXIMUM  # type: ignore[union-attr]


def csv_result(line: bytes, feed: SourceContract = CSV, header: bytes = HEADER) -> RawEvent | Rejection:
    return parser(feed, header).parse(2, line)


def csv_reason(line: bytes) -> QuarantineReason:
    result = csv_result(line)
    assert isinstance(result, Rejection), result
    return result.reason


def test_a_csv_record_becomes_the_same_kind_of_event() -> None:
    assert csv_result(b'2023-11-16 18:17:03.9799600,code,4808,"large, ""v2"""') == RawEvent(
        source="trace",
        id=f"{OBJECT_ID}:2",
        type="inference",
        subject="code",
        event_at=datetime(2023, 11, 16, 18, 17, 3, 979_960, tzinfo=UTC),
        quantity=None,
        data='{"model":"large, \\"v2\\"","tokens":"4808"}',
    )


def test_csv_columns_are_found_by_name_and_not_by_position() -> None:
    swapped = csv_result(b"code,4808,2026-01-15T12:00:00Z,", header=b"customer,tokens,at,model")

    assert isinstance(swapped, RawEvent)
    assert (swapped.subject, swapped.data) == ("code", '{"tokens":"4808"}')


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"2026-01-15T12:00:00Z,code,4808", QuarantineReason.MALFORMED_LINE),
        (b"2026-01-15T12:00:00Z,code,4808,large,more", QuarantineReason.MALFORMED_LINE),
        (b'2026-01-15T12:00:00Z,code,4808,"large', QuarantineReason.MALFORMED_LINE),
        (b'2026-01-15T12:00:00Z,code,4808,"lar"ge', QuarantineReason.MALFORMED_LINE),
        (b"2026-01-15T12:00:00Z,c\xf6de,4808,large", QuarantineReason.INVALID_ENCODING),
        (b"2026-01-15T12:00:00Z,code,,large", QuarantineReason.MISSING_FIELD),
        (b"2026-01-15T12:00:00Z,,4808,large", QuarantineReason.MISSING_FIELD),
        (b"2026-01-15T12:00:00Z,code,NaN,large", QuarantineReason.NOT_A_NUMBER),
        (b"2026-01-15T12:00:00Z,code,-1,large", QuarantineReason.BELOW_MINIMUM),
        (b"yesterday,code,4808,large", QuarantineReason.INVALID_TIME),
    ],
)
def test_a_csv_record_that_is_not_right_is_rejected_with_its_reason(line: bytes, reason: QuarantineReason) -> None:
    assert csv_reason(line) is reason


@pytest.mark.parametrize(
    "header",
    [b"at,customer", b"at,customer,tokens,model,tokens", b"\x00", b'{"at":"2026"}'],
    ids=["column missing", "column twice", "binary", "json"],
)
def test_a_header_without_the_needed_columns_rejects_the_whole_object(header: bytes) -> None:
    rejection = parser_for(CSV, OBJECT_ID, KEY, RECEIVED_AT, header)

    assert isinstance(rejection, Rejection)
    assert rejection.reason is QuarantineReason.WRONG_HEADER


def test_a_header_may_lack_a_column_that_is_optional() -> None:
    assert isinstance(csv_result(b"2026-01-15T12:00:00Z,code,1", header=b"at,customer,tokens"), RawEvent)


def test_an_unknown_column_follows_the_contract() -> None:
    header, line = HEADER + b",region", b"2026-01-15T12:00:00Z,code,1,large,eu"

    rejection = parser_for(CSV, OBJECT_ID, KEY, RECEIVED_AT, header)
    kept = csv_result(line, CSV.model_copy(update={"unknown_fields": "keep"}), header)
    ignored = csv_result(line, CSV.model_copy(update={"unknown_fields": "ignore"}), header)

    assert rejection == Rejection(QuarantineReason.UNKNOWN_FIELD, "not in the contract: 'region'")
    assert isinstance(kept, RawEvent)
    assert kept.data == '{"model":"large","region":"eu","tokens":"1"}'
    assert isinstance(ignored, RawEvent)
    assert ignored.data == '{"model":"large","tokens":"1"}'


# Lines ---------------------------------------------------------------------------------------------------------------


def lines_of(content: bytes, chunk_bytes: int = 3, line_bytes_max: int = 1024) -> list[tuple[int, bytes | LongLine]]:
    chunks = [content[start : start + chunk_bytes] for start in range(0, len(content), chunk_bytes)]
    return list(split_lines(chunks, line_bytes_max))


def test_line_numbers_are_physical_and_blank_lines_are_not_records() -> None:
    assert lines_of(b"\n  \r\na\n\t\nb") == [(3, b"a"), (5, b"b")]


def test_the_last_line_needs_no_line_end() -> None:
    assert lines_of(b"a\nb") == lines_of(b"a\nb\n") == [(1, b"a"), (2, b"b")]


def test_a_line_of_the_limit_is_read_and_a_longer_one_is_hashed_with_its_head() -> None:
    content = b"x" * 10 + b"\r\n" + b"y" * 11 + b"\nz\n"

    first, second, third = lines_of(content, chunk_bytes=4, line_bytes_max=10)

    assert first == (1, b"x" * 10)
    assert third == (3, b"z")
    assert isinstance(second[1], LongLine)
    assert (second[0], second[1].head, second[1].byte_count) == (2, b"y" * 10, 11)


@given(
    st.lists(st.sampled_from([b"a", b" ", b"\n", b"\r", b"\r\n", b"\x0b", b"bc", b'"', b"0123456789ABCDEF"])),
    st.integers(1, 7),
    st.integers(1, 12),
)
def test_the_lines_are_those_that_are_not_blank_for_any_content_in_any_chunks(
    pieces: list[bytes], chunk_bytes: int, line_bytes_max: int
) -> None:
    content = b"".join(pieces)

    lines = lines_of(content, chunk_bytes, line_bytes_max)

    assert [line if isinstance(line, bytes) else line.byte_count for _, line in lines] == [
        part.removesuffix(b"\r") if len(part.removesuffix(b"\r")) <= line_bytes_max else len(part)
        for part in content.split(b"\n")
        if part.strip()
    ]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
)


@given(st.binary() | st.dictionaries(st.text(), JSON_VALUES).map(lambda fields: json.dumps(event() | fields).encode()))
def test_any_bytes_are_one_event_or_one_rejection(line: bytes) -> None:
    result = parser().parse(1, line)

    assert isinstance(result, RawEvent | Rejection)
    if isinstance(result, RawEvent):
        result.data.encode()
        assert (
            json.dumps(json.loads(result.data), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            == result.data
        )


# Other shapes of events ----------------------------------------------------------------------------------------------


def shaped(**event_mapping: Any) -> SourceContract:
    return contract(event=event_mapping)


def test_the_first_field_that_is_there_and_not_null_is_taken() -> None:
    feed = contract(event={"subject": {"first_of": ["customer", "data.account"]}}, unknown_fields="ignore")

    assert accepted(event(customer="a", data={"account": "b"}), feed).subject == "a"
    assert accepted(event(customer=None, data={"account": "b"}), feed).subject == "b"
    assert accepted(event(data={"account": "b"}), feed).subject == "b"
    assert rejected(event(customer=""), feed) is QuarantineReason.MISSING_FIELD
    assert rejected(event(data={"account": 7}), feed) is QuarantineReason.WRONG_TYPE
    assert parse(event(customer=None, data={}), feed) == Rejection(
        QuarantineReason.MISSING_FIELD, "subject: the field customer or data.account is missing in the record"
    )


def wrapped(**changed: Any) -> dict[str, Any]:
    fields = {name: value for name, value in event().items() if name not in ("data", "specversion")}
    return fields | {"body": {"properties": {"tokens": 1}}} | changed


def test_data_may_stand_anywhere_in_the_record() -> None:
    feed = shaped(data_object="body.properties")

    assert accepted(wrapped(), feed).data == '{"tokens":"1"}'
    assert accepted({**wrapped(), "body": {}}, feed).data == "{}"
    assert rejected(wrapped(body={"properties": None}), feed) is QuarantineReason.WRONG_TYPE
    assert rejected(wrapped(body="text"), feed) is QuarantineReason.WRONG_TYPE


@pytest.mark.parametrize("name", ["data", "specversion", "dataschema", "other"])
def test_a_record_that_is_no_cloud_event_has_no_attributes_but_the_mapped_ones(name: str) -> None:
    result = parse(wrapped(**{name: "x"}), shaped(data_object="body.properties"))

    assert result == Rejection(QuarantineReason.UNKNOWN_FIELD, f"not in the contract: '{name}'")


def test_a_field_beside_the_data_object_follows_the_contract() -> None:
    feed = shaped(data_object="body.properties")
    record = wrapped(body={"properties": {"tokens": 1}, "note": "x"})

    assert parse(record, feed) == Rejection(QuarantineReason.UNKNOWN_FIELD, "not in the contract: 'body.note'")
    kept = accepted(record, feed.model_copy(update={"unknown_fields": "keep"}))
    assert kept.data == '{"body.note":"x","tokens":"1"}'


def test_a_derived_id_of_key_and_line_does_not_change_with_the_version_of_the_object() -> None:
    feed = shaped(id={"derive": "key_and_line"})

    assert accepted(event(id=...), feed).id == f"{KEY}:1"


OFFSETS = {"evidence": "offsets", "key_pattern": r"usage/(?P<topic>\w+)\+(?P<partition>\d+)\+(?P<offset>\d+)\.json"}


def test_an_offset_counts_records_and_not_lines() -> None:
    feed = contract(event={"id": {"derive": "offset"}}, completeness=OFFSETS)
    made = parser_for(feed, "object", "usage/calls+3+0000041207.json", RECEIVED_AT, None)
    assert isinstance(made, RecordParser)

    first, second = (made.parse(line, json.dumps(event(id=...)).encode(), record) for line, record in ((1, 1), (9, 2)))

    assert isinstance(first, RawEvent) and isinstance(second, RawEvent)
    assert (first.id, second.id) == ("calls+3+41207", "calls+3+41208")
    assert made.needs_record_number
    with pytest.raises(ValueError, match="number of the record"):
        made.parse(1, b"{}")


def test_an_object_whose_key_holds_no_offset_is_rejected() -> None:
    feed = contract(event={"id": {"derive": "offset"}}, completeness=OFFSETS)

    rejection = parser_for(feed, "object", "usage/calls.json", RECEIVED_AT, None)

    assert isinstance(rejection, Rejection)
    assert rejection.reason is QuarantineReason.MISSING_FIELD


# Times of other kinds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "written", "expected"),
    [
        ("unix_seconds", "1768478400", "2026-01-15T12:00:00"),
        ("unix_seconds", '"1768478400"', "2026-01-15T12:00:00"),
        ("unix_seconds", "1768478400.1234569", "2026-01-15T12:00:00.123456"),
        ("unix_seconds", '"1768478400.000001"', "2026-01-15T12:00:00.000001"),
        ("unix_seconds", "1.7684784E9", "2026-01-15T12:00:00"),
        ("unix_seconds", "1768478400." + "9" * 40, "2026-01-15T12:00:00.999999"),
        ("unix_seconds", "0", "1970-01-01T00:00:00"),
        ("unix_seconds", "253402300799.999999", "9999-12-31T23:59:59.999999"),
        ("unix_milliseconds", "1768478400123", "2026-01-15T12:00:00.123000"),
        ("unix_milliseconds", "1768478400123.4569", "2026-01-15T12:00:00.123456"),
    ],
)
def test_seconds_and_milliseconds_are_exact_and_cut_off_at_microseconds(unit: str, written: str, expected: str) -> None:
    feed = contract(event={"time": {"field": "time", "format": unit}}, received="event_time")
    line = json.dumps(event(time="T")).replace('"T"', written).encode()

    assert accepted(line, feed).event_at == datetime.fromisoformat(expected + "+00:00")


@pytest.mark.parametrize("written", ["-1", "253402300800", "1e30", "1e-101", '"2026-01-15T12:00:00Z"', '"NaN"', '""'])
def test_a_number_that_is_no_time_is_refused(written: str) -> None:
    feed = contract(event={"time": {"field": "time", "format": "unix_seconds"}}, received="event_time")
    line = json.dumps(event(time="T")).replace('"T"', written).encode()

    assert rejected(line, feed) in (QuarantineReason.INVALID_TIME, QuarantineReason.NUMBER_TOO_LARGE)


@pytest.mark.parametrize("wrong", [True, ["1768478400"], {"seconds": 1}])
def test_a_time_that_is_neither_number_nor_text_has_the_wrong_type(wrong: Any) -> None:
    feed = contract(event={"time": {"field": "time", "format": "unix_seconds"}})

    assert rejected(event(time=wrong), feed) is QuarantineReason.WRONG_TYPE


def test_a_date_and_a_time_are_joined() -> None:
    feed = contract(event={"time": {"fields": ["data.date", "data.time"], "time_zone": "UTC"}})

    assert accepted(event(time=..., data={"date": "2026-01-15", "time": "12:00:00"}), feed).event_at == datetime(
        2026, 1, 15, 12, tzinfo=UTC
    )
    assert rejected(event(data={"date": "2026-01-15"}), feed) is QuarantineReason.MISSING_FIELD
    assert rejected(event(data={"date": "15/01/2026", "time": "12:00:00"}), feed) is QuarantineReason.INVALID_TIME


@pytest.mark.parametrize(
    ("text", "is_accepted"), [("2026-01-15T14:00:00Z", True), ("2026-01-15T14:00:00.000001Z", False)]
)
def test_an_event_that_is_later_than_its_receipt_by_more_than_the_limit_is_in_the_future(
    text: str, is_accepted: bool
) -> None:
    feed = contract(limits={"future_max": "1h"})

    result = parse(event(time=text), feed)

    assert isinstance(result, RawEvent) is is_accepted
    assert is_accepted or result.reason is QuarantineReason.TIME_IN_THE_FUTURE  # type: ignore[union-attr]
    assert isinstance(parse(event(time=text), feed.model_copy(update={"received": "event_time"})), RawEvent)


def test_a_week_ahead_is_accepted_unless_the_contract_says_less() -> None:
    assert isinstance(parse(event(time="2026-01-22T13:00:00Z")), RawEvent)
    assert rejected(event(time="2026-01-22T13:00:00.000001Z")) is QuarantineReason.TIME_IN_THE_FUTURE


# JSON Schemas --------------------------------------------------------------------------------------------------------


def checked_by(schema: dict[str, Any]) -> SourceContract:
    return contract(schemas={"request.completed": "request.json"}).with_schema_documents(
        {"request.completed": json.dumps(schema)}
    )


@pytest.mark.parametrize(
    ("schema", "data", "is_accepted"),
    [
        ({"type": "integer"}, "1", True),
        ({"type": "integer"}, "1.0", True),
        ({"type": "integer"}, "1e3", True),
        ({"type": "integer"}, "1.5", False),
        ({"type": "integer"}, "true", False),
        ({"type": "integer"}, '"1"', False),
        ({"type": "number"}, "0.1", True),
        ({"type": "number"}, "true", False),
        ({"multipleOf": 0.1}, "0.3", True),
        ({"multipleOf": 0.01}, "12345678901234567890123456789012345678.91", True),
        ({"multipleOf": 0.01}, "12345678901234567890123456789012345678.911", False),
        ({"maximum": 90071992547409931}, "90071992547409931", True),
        ({"maximum": 90071992547409931}, "90071992547409931.000000001", False),
        ({"const": 1}, "1.0", True),
        ({"const": 1}, "true", False),
        ({"enum": [0.1, "a"]}, "0.10", True),
        ({"enum": [True]}, "1", False),
        ({"uniqueItems": True}, "[1, 1.0]", False),
    ],
)
def test_a_schema_is_checked_on_exact_numbers(schema: dict[str, Any], data: str, is_accepted: bool) -> None:
    feed = checked_by({"properties": {"x": schema}})
    line = json.dumps(event(data={"x": "X"})).replace('"X"', data).encode()

    result = parse(line, feed)

    assert isinstance(result, RawEvent) is is_accepted, result
    assert is_accepted or result.reason is QuarantineReason.SCHEMA_VIOLATION  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"properties": {"input_tokens": {"type": "string"}}},
            'data.input_tokens: expected type "string", got 10',
        ),
        ({"required": ["model"]}, "data: expected 'model', got nothing"),
        (
            {"properties": {}, "additionalProperties": False},
            "data: expected no other than the declared properties, got 'input_tokens'",
        ),
        ({"properties": {"input_tokens": {"maximum": 5}}}, "data.input_tokens: expected maximum 5, got 10"),
    ],
)
def test_a_violation_names_the_place_what_is_expected_and_what_was_found(schema: dict[str, Any], message: str) -> None:
    assert parse(event(), checked_by(schema)) == Rejection(QuarantineReason.SCHEMA_VIOLATION, message)


def test_a_type_without_a_schema_is_not_checked_and_no_data_is_an_empty_object() -> None:
    feed = checked_by({"required": ["model"]})

    assert isinstance(parse(event(type="other"), feed), RawEvent)
    assert rejected(event(data=...), feed) is QuarantineReason.SCHEMA_VIOLATION


# Other kinds of CSV --------------------------------------------------------------------------------------------------

LOG: dict[str, Any] = {
    "format": "csv",
    "delimiter": "\t",
    "quoted": False,
    "comment": "#",
    "header": "fields_comment",
    "null_text": "-",
    "unknown_fields": "ignore",
    "event": {
        "id": {"derive": "object_and_line"},
        "source": {"constant": "log"},
        "type": {"constant": "request"},
        "subject": {"first_of": ["account", "user"]},
        "time": {"fields": ["date", "time"], "time_zone": "UTC"},
        "data": {"agent": {"field": "cs(User-Agent)", "required": False}},
    },
}
NUMBERED = [
    (1, b"#Version: 1.0"),
    (3, b"#Fields: date time account user cs(User-Agent)"),
    (4, b"a"),
    (5, b"#Fields: x"),
]


def test_a_log_is_read_by_the_names_of_its_comment() -> None:
    feed = contract(**LOG)
    found = read_header(feed, NUMBERED)
    assert found == NUMBERED[1]
    line = b'2026-01-15\t12:00:00\t-\tuser-1\tMozilla "5.0'

    result = csv_result(line, feed, NUMBERED[1][1])

    assert isinstance(result, RawEvent)
    assert (result.subject, result.data) == ("user-1", '{"agent":"Mozilla \\"5.0"}')
    assert is_comment(feed, b"#Version") and not is_comment(feed, b"a#")


def test_a_later_comment_with_other_columns_is_a_fault_of_the_object_and_a_repeated_one_is_not() -> None:
    feed, header = contract(**LOG), NUMBERED[1][1]

    fault = comment_fault(feed, header, 5, b"#Fields: date account time user")

    assert fault is not None
    assert fault.reason is QuarantineReason.WRONG_HEADER
    assert comment_fault(feed, header, 5, header) is None
    assert comment_fault(feed, header, 5, b"#Remark: rotated") is None


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({}, [(1, b"2026-01-15\t12:00:00")]),
        ({}, [(1, b"#Version: 1.0")]),
        ({}, [(1, LongLine(b"#Fields: date", 2_000_000, "hash"))]),
        ({"header": "first_line"}, [(1, b"# only"), (2, b"# comments")]),
    ],
    ids=["a record first", "no list of columns", "too long", "comments only"],
)
def test_an_object_without_its_header_is_rejected(
    changed: dict[str, Any], lines: list[tuple[int, bytes | LongLine]]
) -> None:
    found = read_header(contract(**LOG | changed), lines)

    assert isinstance(found, Rejection)
    assert found.reason is QuarantineReason.WRONG_HEADER


def test_a_first_line_may_follow_comments_and_columns_may_come_from_the_contract() -> None:
    lines = [(1, b"# made by hand"), (2, b"date,time")]

    assert read_header(contract(**LOG | {"header": "first_line"}), lines) == (2, b"date,time")
    assert read_header(contract(**LOG | {"header": "columns", "columns": ["date"]}), lines) == (0, None)
    assert read_header(contract(), lines) == (0, None)


def test_a_header_needs_one_of_the_alternatives() -> None:
    rejection = parser_for(contract(**LOG), OBJECT_ID, KEY, RECEIVED_AT, b"#Fields: date time")

    assert rejection == Rejection(
        QuarantineReason.WRONG_HEADER,
        "the header lacks 'account' and 'user'; found '#Fields: date time' with the delimiter '\\t'",
    )


def test_a_long_header_is_shown_by_its_first_characters() -> None:
    header = "id;source;" + "x" * 200
    found = parser_for(contract(format="csv"), OBJECT_ID, KEY, RECEIVED_AT, header.encode())

    assert isinstance(found, Rejection)
    assert found.message.endswith(f"; found '{header[:80]}...' with the delimiter ','")


def test_a_line_with_other_columns_names_the_delimiter() -> None:
    feed = contract(format="csv", unknown_fields="ignore")
    by_comma = parser_for(feed, OBJECT_ID, KEY, RECEIVED_AT, b"id,source,type,subject,time")

    assert isinstance(by_comma, RecordParser)
    assert by_comma.parse(2, b"1;2;3;4;5") == Rejection(
        QuarantineReason.MALFORMED_LINE, "expected 5 columns, got 1 (the delimiter is ',')"
    )


def test_a_header_with_more_columns_than_accepted_is_refused() -> None:
    feed = contract(**LOG | {"limits": {"columns_max": 4}})

    rejection = parser_for(feed, OBJECT_ID, KEY, RECEIVED_AT, NUMBERED[1][1])

    assert isinstance(rejection, Rejection)
    assert rejection.reason is QuarantineReason.TOO_MANY_COLUMNS


# Decoded rows --------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(), JSON_VALUES))
def test_a_decoded_row_is_the_same_event_as_its_json_without_nulls(fields: dict[str, Any]) -> None:
    def without_nulls(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without_nulls(item) for name, item in value.items() if item is not None}
        return [without_nulls(item) for item in value] if isinstance(value, list) else value

    record = event() | fields

    assert parser().parse_record(1, record) == parse(without_nulls(record))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0.1, QuarantineReason.WRONG_TYPE),
        (Decimal("NaN"), QuarantineReason.NOT_A_NUMBER),
        (b"\xff", QuarantineReason.INVALID_ENCODING),
        ({"a": [{}] * 2 + [[[[]]]]}, QuarantineReason.NESTED_TOO_DEEP),
        (dict.fromkeys(map(str, range(20)), 1), QuarantineReason.TOO_MANY_COLUMNS),
    ],
)
def test_a_decoded_value_that_is_not_exact_or_over_a_limit_is_refused(value: Any, reason: QuarantineReason) -> None:
    feed = contract(limits={"json_depth_max": 4, "columns_max": 10})

    result = parser(feed).parse_record(1, event(data={"x": value}))

    assert isinstance(result, Rejection)
    assert result.reason is reason


def test_a_hash_of_a_nested_value_holds_every_digit_of_its_numbers() -> None:
    feed = contract(event={"id": {"derive": "hash", "of": ["data.sizes"]}})
    line = b'{"source":"s","type":"t","subject":"c","time":"2026-01-15T12:00:00Z","data":{"sizes":[%s,{"b":2}]}}'

    first, same, other = (accepted(line % number, feed).id for number in (b"1.5", b"1.50", b"1.51"))

    assert first == same == sha256_hex(b'[["1.5",{"b":"2"}]]') != other
