"""The Airflow plugin: "Billing" in the navigation, and the pages behind it at ``/billing``.

Airflow finds it through the entry point ``airflow.plugins`` of this package. It loads plugins in every process, also
in that of a task, so the pages are only made when the first one is asked for.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

from airflow.plugins_manager import AirflowPlugin

URL_PREFIX = "/billing"


class LazyPages:
    """An ASGI application that makes the real one at the first request."""

    def __init__(self) -> None:
        self._pages: Any = None
        self._lock = Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._pages is None:
            self._pages = self._made()
        await self._pages(scope, receive, send)

    def _made(self) -> Any:
        from airflow.configuration import conf

        from pipeline import settings
        from pipeline.airflow_plugin.pages import create_pages

        with self._lock:
            secret = conf.get_mandatory_value("api", "secret_key")  # the same on every api-server of an Airflow
            return self._pages or create_pages(settings.project_folder, secret.encode())


class BillingPlugin(AirflowPlugin):
    """What Airflow registers."""

    name = "billing"
    # Airflow reads plain class attributes.
    fastapi_apps = [{"app": LazyPages(), "url_prefix": URL_PREFIX, "name": "billing"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "Billing",
            "href": f"{URL_PREFIX}/",
            "destination": "nav",
            "url_route": "billing",
            "nav_top_level": True,
        }
    ]
