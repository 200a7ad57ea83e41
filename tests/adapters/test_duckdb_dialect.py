"""The dialect: Great Expectations' SQL runs on a lent DuckDB connection, and no dataset comes through it."""

from collections.abc import Iterator
from decimal import Decimal

import duckdb
import pytest
import sqlalchemy as sa

from pipeline.adapters import duckdb_dialect
from pipeline.adapters.duckdb_dialect import RESULT_ROWS_MAX, connection_url


@pytest.fixture
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE TEMP TABLE words (word VARCHAR, quantity DECIMAL(38, 9), seen_at TIMESTAMPTZ)")
        connection.execute("INSERT INTO words VALUES ('abc', 0.000000001, '2026-01-15 12:00:00Z'), ('xyz', 2, NULL)")
        yield connection


@pytest.fixture
def engine(duck: duckdb.DuckDBPyConnection) -> Iterator[sa.Engine]:
    with connection_url(duck) as url:
        yield sa.create_engine(url)


def words_matching(engine: sa.Engine, operator: str, pattern: str) -> list[str]:
    column = sa.column("word")
    query = sa.select(column).select_from(sa.table("words")).where(column.op(operator)(pattern)).order_by(column)
    with engine.connect() as connection:
        return list(connection.execute(query).scalars())


def test_temporary_relations_of_the_lent_connection_are_there(engine: sa.Engine) -> None:
    inspector = sa.inspect(engine)

    assert inspector.has_table("words")
    assert not inspector.has_table("no_such_table")


def test_columns_are_described_with_their_exact_types(engine: sa.Engine) -> None:
    columns = {column["name"]: column["type"] for column in sa.inspect(engine).get_columns("words")}

    assert list(columns) == ["word", "quantity", "seen_at"]
    assert isinstance(columns["word"], sa.VARCHAR)
    assert (columns["quantity"].precision, columns["quantity"].scale) == (38, 9)
    assert isinstance(columns["seen_at"], sa.TIMESTAMP)


def test_a_decimal_comes_back_with_every_digit(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT quantity FROM words WHERE word = 'abc'")).scalar_one()

    assert found == Decimal("0.000000001")


def test_a_regular_expression_matches_anywhere_in_the_text(engine: sa.Engine) -> None:
    assert words_matching(engine, "~", "b") == ["abc"]
    assert words_matching(engine, "!~", "b") == ["xyz"]


def test_a_result_can_be_read_after_its_connection_was_closed(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        result = connection.execute(sa.text("SELECT word FROM words ORDER BY word"))

    assert list(result.scalars()) == ["abc", "xyz"]


def test_a_result_of_the_allowed_size_is_read(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        rows = connection.execute(sa.text(f"SELECT * FROM range({RESULT_ROWS_MAX})")).fetchall()

    assert len(rows) == RESULT_ROWS_MAX


def test_one_row_too_many_is_refused_and_the_connection_goes_on(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(sa.exc.ProgrammingError, match="at most 10,000 rows into Python"):
            connection.execute(sa.text(f"SELECT * FROM range({RESULT_ROWS_MAX + 1})"))

        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1


def test_the_lent_connection_stays_open_and_is_forgotten(duck: duckdb.DuckDBPyConnection) -> None:
    with connection_url(duck) as url, sa.create_engine(url).connect() as connection:
        connection.execute(sa.text("SELECT 1"))

    assert duck.execute("SELECT COUNT(*) FROM words").fetchall() == [(2,)]
    assert duckdb_dialect._connections == {}
    with pytest.raises(KeyError):
        sa.create_engine(url).connect()


def test_a_connection_is_forgotten_when_its_use_fails(duck: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(ZeroDivisionError), connection_url(duck):
        raise ZeroDivisionError

    assert duckdb_dialect._connections == {}
