"""The kinds of expectations that suites have, as Great Expectations runs them: its own classes, made cheaper.

Great Expectations makes the configuration of an expectation some fifty times while it runs it once, which is half of
what checking a small night costs; here it is made once. Of a query of wrong rows it counts the rows, and does not run
the query a second time to fetch 200 of them: samples are taken in the order of their key, by adapters/checks.py.

Importing this module imports Great Expectations, which takes seconds.
"""

from __future__ import annotations

from typing import Any, ClassVar

from great_expectations.compatibility.pydantic import PrivateAttr
from great_expectations.expectations.core.expect_column_values_to_be_in_set import ExpectColumnValuesToBeInSet
from great_expectations.expectations.core.expect_column_values_to_be_unique import ExpectColumnValuesToBeUnique
from great_expectations.expectations.core.expect_column_values_to_match_regex import ExpectColumnValuesToMatchRegex
from great_expectations.expectations.core.expect_column_values_to_not_be_null import ExpectColumnValuesToNotBeNull
from great_expectations.expectations.core.expect_compound_columns_to_be_unique import ExpectCompoundColumnsToBeUnique
from great_expectations.expectations.core.expect_table_row_count_to_be_between import ExpectTableRowCountToBeBetween
from great_expectations.expectations.core.unexpected_rows_expectation import UnexpectedRowsExpectation
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration


class _ConfiguredOnce(Expectation):
    _configured: Any = PrivateAttr(None)

    @property
    def configuration(self) -> ExpectationConfiguration:
        if self._configured is None:
            self._configured = super().configuration
        configured: ExpectationConfiguration = self._configured
        return configured


class NotNull(_ConfiguredOnce, ExpectColumnValuesToNotBeNull):
    """``expect_column_values_to_not_be_null``."""


class InSet(_ConfiguredOnce, ExpectColumnValuesToBeInSet):
    """``expect_column_values_to_be_in_set``."""


class MatchRegex(_ConfiguredOnce, ExpectColumnValuesToMatchRegex):
    """``expect_column_values_to_match_regex``."""


class Unique(_ConfiguredOnce, ExpectColumnValuesToBeUnique):
    """``expect_column_values_to_be_unique``."""


class CompoundUnique(_ConfiguredOnce, ExpectCompoundColumnsToBeUnique):
    """``expect_compound_columns_to_be_unique``."""


class RowCountBetween(_ConfiguredOnce, ExpectTableRowCountToBeBetween):
    """``expect_table_row_count_to_be_between``."""


class WrongRows(_ConfiguredOnce, UnexpectedRowsExpectation):
    """``unexpected_rows_expectation``, which counts the rows of its query."""

    metric_dependencies: ClassVar[tuple[str, ...]] = ("unexpected_rows_query.row_count",)

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> dict[str, Any]:
        count = int(metrics["unexpected_rows_query.row_count"])
        return {"success": count == 0, "result": {"observed_value": count}}


CLASSES: dict[str, Any] = {
    "expect_column_values_to_not_be_null": NotNull,
    "expect_column_values_to_be_in_set": InSet,
    "expect_column_values_to_match_regex": MatchRegex,
    "expect_column_values_to_be_unique": Unique,
    "expect_compound_columns_to_be_unique": CompoundUnique,
    "expect_table_row_count_to_be_between": RowCountBetween,
    "unexpected_rows_expectation": WrongRows,
}
