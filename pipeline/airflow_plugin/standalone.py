"""A whole Airflow on this machine for our DAGs: scheduler, DAG processor, triggerer and web pages, until Ctrl-C.

    make airflow            or: python -m pipeline.airflow_plugin.standalone [--port 8080] [--home .airflow]

It runs the billing project that BILLING_PROJECT names; without one, a copy of the example project, with an S3 server
of its own for the raw bucket. Everything it keeps is below its home (SQLite, logs, the password).
`airflow standalone` is not used because it leaves its parts running when it is stopped and does not notice when one
of them ends.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from pipeline import settings
from pipeline.adapters.s3_server import serve_s3

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE_PROJECT = REPOSITORY / "examples" / "llm_api"
EXAMPLE_BUCKET = "nimbus-usage"
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
# Airflow's users and the role that each has there. Who may do what in billing is said by [roles] of billing.toml, which
# gives each of these names in the example one of the four roles.
USERS = {"admin": "admin", "finance": "user", "pricing": "viewer", "auditor": "viewer"}
_SECONDS_TO_START = 120
_SECONDS_TO_STOP = 20


def configuration(
    home: Path, port: int, log_server_ports: tuple[int, int], users: Mapping[str, str] = USERS
) -> dict[str, str]:
    """Return the environment of every component; ``users`` has the Airflow role of each user.

    The port alone is not enough: a task calls the server by the two URLs, whose default is port 8080. The log servers
    of scheduler and triggerer have fixed ports by default, so two Airflows on a machine would collide.
    """
    url = f"http://127.0.0.1:{port}"
    worker_logs, trigger_logs = log_server_ports
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in users.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_password_file(home)),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__SECRET_KEY": _kept_secret(home / "secret_key"),
        "AIRFLOW__API_AUTH__JWT_SECRET": _kept_secret(home / "jwt_secret"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
    }


@contextmanager
def _billing_environment(home: Path) -> Iterator[dict[str, str]]:
    """Yield which project the DAGs bill and where its bucket is: the user's, else a copy of the example."""
    if os.environ.get(settings.PROJECT_VARIABLE):
        project = settings.project_folder()
        _say(f"billing project: {project}")
        yield {settings.PROJECT_VARIABLE: str(project)}
        return
    project = home / "project"
    if not project.exists():
        shutil.copytree(EXAMPLE_PROJECT, project, ignore=shutil.ignore_patterns("*.py", "*.md", "__pycache__"))
    (home / "s3" / EXAMPLE_BUCKET).mkdir(parents=True, exist_ok=True)
    with serve_s3(home / "s3") as endpoint:
        _say(f"billing project: {project}, a copy of the example ({settings.PROJECT_VARIABLE} names another)")
        keys = " ".join(f"{name}={value}" for name, value in endpoint.environment().items())
        _say(f"its bucket is s3://{EXAMPLE_BUCKET} at {endpoint.url}  {keys}")
        yield {
            **endpoint.environment(),
            settings.PROJECT_VARIABLE: str(project),
            settings.ENDPOINT_URL_VARIABLE: endpoint.url,
        }


def _password_file(home: Path) -> Path:
    return home / "simple_auth_manager_passwords.json"


def _kept_secret(file: Path) -> str:
    """Return a secret that is made once per home, readable by its owner alone."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(64))
    return file.read_text()


def passwords(home: Path, users: Mapping[str, str] = USERS) -> dict[str, str]:
    """Return the password of each user; one that has none yet gets one, which is kept in the home."""
    file = _password_file(home)
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    file.touch(mode=0o600)
    file.write_text(json.dumps({**{user: secrets.token_urlsafe(12) for user in users}, **known}))
    return {user: str(password) for user, password in json.loads(file.read_text()).items()}


def free_ports(count: int) -> tuple[int, ...]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = tuple(listener.getsockname()[1] for listener in sockets)
    for listener in sockets:
        listener.close()
    return ports


def start(component: str, home: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with (home / f"{component}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "airflow", component],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops each component in turn
        )


def stop(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Ask each component to end, then end what is left of it, its workers too."""
    for process in processes.values():
        if process.poll() is None:
            process.terminate()
    give_up_at = time.monotonic() + _SECONDS_TO_STOP
    for process in processes.values():
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, give_up_at - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # each component leads its own group
        process.wait()


def _ended(processes: Mapping[str, subprocess.Popen[bytes]]) -> str | None:
    return next((component for component, process in processes.items() if process.poll() is not None), None)


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5) as response:
            health = json.load(response)
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return all(part.get("status") == "healthy" for part in health.values())


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run Airflow until Ctrl-C or SIGTERM; 0 then, 1 if a component ended by itself."""
    parser = argparse.ArgumentParser(description="Run Airflow with the billing DAGs on this machine, until Ctrl-C.")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--home", type=Path, default=REPOSITORY / ".airflow", help="default: %(default)s")
    options = parser.parse_args(arguments)
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with _billing_environment(home) as billing:
            worker_logs, trigger_logs = free_ports(2)
            environment = {**os.environ, **configuration(home, options.port, (worker_logs, trigger_logs)), **billing}
            return _run(home, options.port, environment)
    except KeyboardInterrupt:
        return 0


def _run(home: Path, port: int, environment: Mapping[str, str]) -> int:
    """Prepare the database, start each component, wait, and stop them all, however it ends."""
    known = passwords(home)
    _say("preparing the database ...")
    with (home / "migrate.log").open("wb") as log:
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        if subprocess.run(migrate, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
            _say(f"the database could not be prepared, see {home / 'migrate.log'}")
            return 1
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for component in COMPONENTS:
            processes[component] = start(component, home, environment)
        return _watch(processes, home, port, known)
    finally:
        _say("stopping ...")
        stop(processes)


def _watch(processes: Mapping[str, subprocess.Popen[bytes]], home: Path, port: int, known: Mapping[str, str]) -> int:
    """Say where to log in once everything is healthy, then wait; return when a component has ended."""
    give_up_at = time.monotonic() + _SECONDS_TO_START
    is_ready = False
    while (ended := _ended(processes)) is None:
        if not is_ready and (is_ready := _is_healthy(port)):
            _say(f"Airflow is at http://127.0.0.1:{port}  (Ctrl-C stops it)")
            for user, password in known.items():
                _say(f"  user: {user}  password: {password}")
            _say("Billing in its navigation leads to the windows, reports, accounts and price books")
            _say("the DAGs are paused at first: un-pause collect_usage and bill_window to begin")
        if not is_ready and time.monotonic() > give_up_at:
            _say(f"not healthy after {_SECONDS_TO_START} s, see the logs in {home}")
            return 1
        time.sleep(1)
    _say(f"{ended} has ended, see {home / f'{ended}.log'}")
    return 1


def _say(sentence: str) -> None:
    print(sentence, flush=True)  # noqa: T201 - this module is a command


if __name__ == "__main__":
    raise SystemExit(main())
