"""Requests to the pages as somebody whom Airflow's auth manager knows, or as nobody."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ORIGIN = "http://testserver"
SECRET = b"the secret of these tests"
SignIn = Callable[[str], dict[str, str]]


@pytest.fixture(scope="session")
def airflow_users() -> SignIn:
    """Return what makes the cookies of a user: a token that Airflow's own auth manager signs, and checks."""
    from airflow.api_fastapi.app import create_auth_manager
    from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.utils.db import initdb

    initdb()
    manager = create_auth_manager()

    def cookies(name: str) -> dict[str, str]:
        return {COOKIE_NAME_JWT_TOKEN: manager.generate_jwt(SimpleAuthManagerUser(username=name, role="VIEWER"))}

    return cookies


def browser(folder: Path, cookies: Mapping[str, str] | None = None) -> Any:
    """Return a client of the pages of a project, mounted as Airflow mounts them."""
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from pipeline.airflow_plugin.pages import create_pages

    airflow = FastAPI()
    airflow.mount("/billing", create_pages(lambda: folder, SECRET))
    return TestClient(airflow, base_url=ORIGIN, cookies=dict(cookies or {}), follow_redirects=False)


def token_of(client: Any, path: str = "/billing/") -> str:
    """Return the token of the forms of the viewer, as a page with a form has it."""
    found = re.search(r'name="token" value="([^"]+)"', client.get(path).text)
    assert found is not None, f"{path} has no form for this viewer"
    return found[1]


def submit(client: Any, path: str, fields: Mapping[str, str], **headers: str) -> Any:
    """Send a form as a browser does, from our own origin unless told otherwise."""
    return client.post(path, data=dict(fields), headers={"Origin": ORIGIN, **headers})
