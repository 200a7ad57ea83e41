"""Alerts sent for real: to an HTTP server and a mail server on this machine."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_string, policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from pipeline.adapters.alert_delivery import deliver
from pipeline.core.operations import Alert, AlertSettings, MailSettings

ALERT = Alert(
    "reconciliation.quantity_mismatch",
    "bill_window.reconcile/run-7",
    "page",
    "LLM API: reconcile refused: usage does not match",
    ("window 2026-01-15, acct-ü", "expected 3 requests, got 2"),
)


@contextmanager
def http_server(status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run a server that keeps what is posted to it."""
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append({"path": self.path, "type": self.headers["Content-Type"], "body": json.loads(body)})
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", received
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def mail_server() -> Iterator[tuple[int, list[str]]]:
    """Run a server that speaks as much SMTP as a client needs, and keeps the messages."""
    received: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 test\r\n")
            for line in self.rfile:
                command = line.strip().upper()
                if command.startswith(b"DATA"):
                    self.wfile.write(b"354 go on\r\n")
                    lines = []
                    for text in self.rfile:
                        if text == b".\r\n":
                            break
                        lines.append(text.decode())
                    received.append("".join(lines))
                self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], received
    finally:
        server.shutdown()
        server.server_close()


def mail_settings(port: int) -> MailSettings:
    return MailSettings(
        to=("ops@example.com", "ana@example.com"), sender="billing@example.com", host="127.0.0.1", port=port, tls="none"
    )


def test_every_receiver_gets_an_alert_in_its_own_form() -> None:
    with http_server() as (slack, to_slack), http_server() as (webhook, to_webhook), mail_server() as (port, mails):
        settings = AlertSettings(slack_url=slack, webhook_url=webhook, mail=mail_settings(port))

        assert deliver(ALERT, settings) == []

    assert to_slack[0]["body"] == {"text": f"*{ALERT.title}*\nwindow 2026-01-15, acct-ü\nexpected 3 requests, got 2"}
    assert to_webhook[0]["body"] == ALERT.to_json()
    assert {one["type"] for one in (*to_slack, *to_webhook)} == {"application/json"}
    mail = message_from_string(mails[0], policy=policy.default)
    assert mail["Subject"] == f"[page] {ALERT.title}"
    assert mail["To"] == "ops@example.com, ana@example.com"
    assert mail["X-Billing-Alert"] == ALERT.key
    assert "expected 3 requests, got 2" in mail.get_content()
    assert "Runbook: reconciliation.quantity_mismatch" in mail.get_content()


def test_a_receiver_that_refuses_is_named_and_the_others_get_the_alert() -> None:
    with http_server(500) as (slack, _), mail_server() as (port, mails):
        settings = AlertSettings(slack_url=slack, webhook_url="http://127.0.0.1:9/", mail=mail_settings(port))

        problems = deliver(ALERT, settings)

    assert len(mails) == 1
    assert [problem.partition(" did not")[0] for problem in problems] == ["Slack", "the webhook"]
    assert "500" in problems[0]


def test_nobody_is_told_where_nobody_is_named() -> None:
    assert deliver(ALERT, AlertSettings()) == []


def test_a_title_of_two_lines_cannot_add_a_header() -> None:
    forged = Alert("a.b", "k\r\nBcc: x@example.com", "ticket", "title\r\nBcc: x@example.com")
    with mail_server() as (port, mails):
        assert deliver(forged, AlertSettings(mail=mail_settings(port))) == []

    assert message_from_string(mails[0], policy=policy.default)["Bcc"] is None


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.com/x", "example.com"])
def test_only_a_web_address_can_be_named(url: str) -> None:
    with pytest.raises(ValueError, match="webhook_url"):
        AlertSettings(webhook_url=url)
