"""Airflow of the tests, configured before any of them imports it."""

import tests.airflow_home  # noqa: F401
