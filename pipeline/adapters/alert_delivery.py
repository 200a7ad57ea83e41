"""Delivering alerts: a POST to Slack or to any webhook, a mail. Each receiver is tried, whatever another one does."""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from pipeline.core.operations import Alert, AlertSettings, MailSettings

TIMEOUT_SECONDS = 10
Credentials = tuple[str, str]


def deliver(alert: Alert, settings: AlertSettings, credentials: Credentials | None = None) -> list[str]:
    """Send an alert to every receiver; return what went wrong, one sentence for each that did not take it.

    ``credentials`` are user and password of the mail server.
    """
    receivers: dict[str, Callable[[], None]] = {}
    if settings.slack_url is not None:
        slack_url = settings.slack_url
        receivers["Slack"] = lambda: _post(
            slack_url, {"text": f"*{alert.title}*\n{chr(10).join(alert.details)}".strip()}
        )
    if settings.webhook_url is not None:
        webhook_url = settings.webhook_url
        receivers["the webhook"] = lambda: _post(webhook_url, alert.to_json())
    if settings.mail is not None:
        mail = settings.mail
        receivers["mail"] = lambda: _mail(alert, mail, credentials)
    problems = []
    for name, send in receivers.items():
        try:
            send()
        except (OSError, URLError, smtplib.SMTPException) as error:
            problems.append(f"{name} did not take the alert {alert.key}: {error}")
    return problems


def _post(url: str, content: Mapping[str, Any]) -> None:
    body = json.dumps(content, ensure_ascii=False).encode()
    request = Request(url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 - settings accept http(s) only
    with urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
        pass


def _mail(alert: Alert, settings: MailSettings, credentials: Credentials | None) -> None:
    message = EmailMessage()
    message["Subject"] = f"[{alert.severity}] {' '.join(alert.title.split())}"
    message["From"] = settings.sender
    message["To"] = ", ".join(settings.to)
    message["X-Billing-Alert"] = " ".join(alert.key.split())
    message.set_content(f"{alert.text}\n\nRunbook: {alert.code}\n")
    with smtplib.SMTP(settings.host, settings.port, timeout=TIMEOUT_SECONDS) as server:
        if settings.tls == "starttls":
            server.starttls(context=ssl.create_default_context())
        if credentials is not None:
            server.login(*credentials)
        server.send_message(message)
