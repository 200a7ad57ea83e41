"""The environment of a machine replaces what the project says; paths of a project are relative to its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import settings
from pipeline.core.errors import InputError
from pipeline.core.project import ProjectSettings
from pipeline.steps.workspace import open_workspace
from tests.fixtures_project import write_project


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (settings.PROJECT_VARIABLE, settings.DATABASE_URL_VARIABLE, settings.ENDPOINT_URL_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def project_settings(database_url: str = "sqlite:///control_plane.db") -> ProjectSettings:
    return ProjectSettings.model_validate(
        {
            "name": "test",
            "window": {"first_window": "2026-01-01"},
            "raw": {"bucket": "raw-usage", "endpoint_url": "http://project"},
            "control_plane": {"url": database_url},
            "seller": {"legal_entity": "Test Ltd", "number_series": "TEST"},
        }
    )


def test_the_path_of_an_sqlite_database_is_relative_to_the_project() -> None:
    assert settings.database_url(project_settings(), Path("/projects/a")) == "sqlite:////projects/a/control_plane.db"
    assert settings.database_url(project_settings("sqlite:////var/b.db"), Path("/projects/a")) == "sqlite:////var/b.db"


def test_variables_replace_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(settings.DATABASE_URL_VARIABLE, "postgresql+psycopg://billing:secret@host/billing")
    monkeypatch.setenv(settings.ENDPOINT_URL_VARIABLE, "http://machine")
    monkeypatch.setenv(settings.PROJECT_VARIABLE, str(tmp_path))

    url = settings.database_url(project_settings(), Path("/projects/a"))
    assert url == "postgresql+psycopg://billing:secret@host/billing"
    assert settings.endpoint_url(project_settings()) == "http://machine"
    assert settings.project_folder() == tmp_path
    assert settings.project_folder(Path("/projects/b")) == Path("/projects/b")


def test_without_variables_the_project_and_the_current_folder_are_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    assert settings.endpoint_url(project_settings()) == "http://project"
    assert settings.project_folder() == tmp_path


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://user:secret@host/billing", "no url"])
def test_a_database_that_cannot_keep_invoices_is_refused_and_no_password_is_shown(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv(settings.DATABASE_URL_VARIABLE, url)

    with pytest.raises(InputError, match=r"settings\.database_url") as refused:
        settings.database_url(project_settings(), Path("/projects/a"))

    assert settings.DATABASE_URL_VARIABLE in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_broken_project_is_refused_before_a_database_or_a_folder_is_made(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project", files={"meters.toml": "meters = []"})
    before = sorted(folder.rglob("*"))

    with pytest.raises(InputError, match=r"project\.invalid"):
        open_workspace(folder)

    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("named", "expected"), [("1", 1), ("16", 16)])
def test_the_number_of_processes_is_what_is_named(monkeypatch: pytest.MonkeyPatch, named: str, expected: int) -> None:
    monkeypatch.setenv(settings.WORKERS_VARIABLE, named)

    assert settings.worker_count() == expected


def test_there_is_a_process_for_each_processor_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(settings.WORKERS_VARIABLE, raising=False)

    assert settings.worker_count() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("named", ["0", "-1", "two", "1.5", "10000"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv(settings.WORKERS_VARIABLE, named)

    with pytest.raises(InputError, match=r"settings\.workers"):
        settings.worker_count()


def test_who_acts_is_named_by_the_option_else_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.USER_VARIABLE, "ana@example.com")
    assert settings.user() == "ana@example.com"
    assert settings.user("ben") == "ben"

    monkeypatch.setenv(settings.USER_VARIABLE, " ")
    with pytest.raises(InputError, match=r"settings\.user"):
        settings.user()
