"""A billed project with something on every page, and the pages behind Airflow's own auth manager."""

import tests.airflow_home  # noqa: F401
from tests.airflow_plugin.billed import billed_folder, closed_folder
from tests.airflow_plugin.signed_in import airflow_users

__all__ = ["airflow_users", "billed_folder", "closed_folder"]
