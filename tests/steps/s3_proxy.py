"""A proxy before the S3 server that fails the way networks and servers do: errors, lost connections, silence."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

NO_BODY = frozenset({204, 304})


@dataclass
class Proxy:
    """Where the proxy listens, and what it does to requests for a key, one entry for each request.

    ``error`` answers 503, ``drop`` closes the connection, ``cut`` sends half of the content and closes, ``hang`` waits
    until the proxy ends. A key without entries left is served.
    """

    url: str = ""
    failures: dict[str, list[str]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    is_hanging: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def proxy_of(server_url: str) -> Iterator[Proxy]:
    proxy = Proxy()
    upstream = urlsplit(server_url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            key = unquote(urlsplit(self.path).path).partition("/")[2].partition("/")[2]
            proxy.requests[key] += 1
            failure = (proxy.failures.get(key) or [""]).pop(0)
            if failure == "hang":
                proxy.is_hanging.set()
                proxy.is_over.wait()
            if failure in ("hang", "drop"):
                return
            if failure == "error":
                self.send_response(503)
                self.send_header("Connection", "close")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._pass_on(is_cut=failure == "cut")

        def _pass_on(self, *, is_cut: bool) -> None:
            connection = HTTPConnection(upstream.hostname or "", upstream.port, timeout=30)
            connection.request(self.command, self.path, headers=dict(self.headers.items()))
            response = connection.getresponse()
            content = response.read()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Connection", "close")  # else the client sends its next request into a closed connection
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
            connection.close()

        def log_request(self, code: object = "-", size: object = "-") -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        proxy.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()
