"""Settings of this machine: the only reader of environment variables.

``BILLING_PROJECT`` names the project folder; ``BILLING_DATABASE_URL`` and ``BILLING_S3_ENDPOINT_URL`` replace what
``billing.toml`` says, so that one project runs on a laptop and on a server and holds no password. ``BILLING_WORKERS``
is how many processes collect at once, by default one for each processor. ``BILLING_USER`` is who does what the audit
log records, where ``--by`` does not say it. ``BILLING_SLACK_URL`` and ``BILLING_WEBHOOK_URL`` receive alerts;
``BILLING_SMTP_USER`` and ``BILLING_SMTP_PASSWORD`` are those of the mail server. The credentials and the region of the
bucket are boto3's own variables (``AWS_*``).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from pipeline.core.errors import InputError
from pipeline.core.operations import AlertSettings
from pipeline.core.project import ProjectSettings

PROJECT_VARIABLE = "BILLING_PROJECT"
DATABASE_URL_VARIABLE = "BILLING_DATABASE_URL"
# Objects between two looks for cycles. A command imports and makes many that live to its end, and few cycles.
GARBAGE_THRESHOLD = 50_000
ENDPOINT_URL_VARIABLE = "BILLING_S3_ENDPOINT_URL"
WORKERS_VARIABLE = "BILLING_WORKERS"
USER_VARIABLE = "BILLING_USER"
ALERT_URL_VARIABLES = {"slack_url": "BILLING_SLACK_URL", "webhook_url": "BILLING_WEBHOOK_URL"}
MAIL_VARIABLES = ("BILLING_SMTP_USER", "BILLING_SMTP_PASSWORD")


def project_folder(named: Path | None = None) -> Path:
    """Return the folder that is named, else that of ``BILLING_PROJECT``, else the current one."""
    return (named or Path(os.environ.get(PROJECT_VARIABLE) or ".")).resolve()


def endpoint_url(settings: ProjectSettings) -> str | None:
    """Return the URL of the S3 server, or None for AWS itself; what is not a URL is refused."""
    named = os.environ.get(ENDPOINT_URL_VARIABLE)
    if named and not re.match(r"https?://[^/\s]+", named):
        raise InputError(
            "settings.endpoint_url",
            "the S3 endpoint cannot be used",
            [f"{ENDPOINT_URL_VARIABLE}: found {named!r}, accepted a URL such as https://s3.example.com"],
        )
    return named or settings.raw.endpoint_url


def database_url(settings: ProjectSettings, folder: Path) -> str:
    """Return the URL of the control plane; the path of an SQLite database is taken from the project folder.

    Refused: what is not a URL, and an SQLite database in memory, which would forget every invoice.
    """
    named = os.environ.get(DATABASE_URL_VARIABLE) or settings.control_plane.url
    origin = DATABASE_URL_VARIABLE if os.environ.get(DATABASE_URL_VARIABLE) else "billing.toml: control_plane.url"
    try:
        url = make_url(named)
    except ArgumentError:
        raise _refused(origin, "text that is no database URL") from None
    if url.get_backend_name() == "postgresql":
        return named
    if url.get_backend_name() != "sqlite":
        raise _refused(origin, url.get_backend_name())
    if not url.database or url.database == ":memory:":
        raise _refused(origin, "an SQLite database in memory")
    return url.set(database=str(folder / url.database)).render_as_string(hide_password=False)


def user(named: str | None = None) -> str:
    """Return who is named, else who ``BILLING_USER`` names; that nobody is named is refused."""
    name = (named or os.environ.get(USER_VARIABLE) or "").strip()
    if not name:
        raise InputError(
            "settings.user",
            "the audit log records who does this, and nobody is named",
            [f"--by: found nothing, accepted a name such as ana@example.com; {USER_VARIABLE} may hold it"],
        )
    return name


def worker_count() -> int:
    """Return how many processes may work at once; what they compute does not depend on it."""
    named = os.environ.get(WORKERS_VARIABLE)
    if not named:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not re.fullmatch(r"[1-9][0-9]{0,3}", named):
        raise InputError(
            "settings.workers",
            "the number of processes cannot be used",
            [f"{WORKERS_VARIABLE}: found {named!r}, accepted a whole number from 1 on"],
        )
    return int(named)


def alerts(settings: ProjectSettings) -> AlertSettings:
    """Return who gets alerts: what ``billing.toml`` says, with the URLs that variables name instead."""
    named = {key: url for key, variable in ALERT_URL_VARIABLES.items() if (url := os.environ.get(variable))}
    wrong = [ALERT_URL_VARIABLES[key] for key, url in named.items() if not re.match(r"https?://[^/\s]+", url)]
    if wrong:
        raise InputError(
            "settings.alert_url",
            "an alert cannot be sent to what a variable names",
            [f"{variable}: accepted a URL that begins with https:// or http://" for variable in wrong],
        )
    return settings.alerts.model_copy(update=named)


def mail_credentials() -> tuple[str, str] | None:
    """Return user and password of the mail server, or None if it asks for none."""
    user_name, password = (os.environ.get(variable) for variable in MAIL_VARIABLES)
    return (user_name, password) if user_name and password else None


def _refused(origin: str, found: str) -> InputError:
    accepted = 'accepted "sqlite:///file.db" or "postgresql+psycopg://..."'
    return InputError(
        "settings.database_url", "the control plane's database cannot be used", [f"{origin}: found {found}, {accepted}"]
    )
