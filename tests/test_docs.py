"""Documents are tested: an error code without a runbook section, or a command the README invents, fails here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ERROR_CLASSES = {
    "InputError",
    "PricingError",
    "NotReadyError",
    "CheckFailed",
    "ReconciliationError",
    "PublicationError",
    "AccessError",
    "BillingError",
}


def error_codes() -> set[str]:
    """Return the code of every error that the package constructs; those of the equations stand in one table."""
    codes = set()
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and re.fullmatch(r"reconciliation\.[a-z]+_mismatch", str(node.value)):
                codes.add(str(node.value))
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERROR_CLASSES):
                continue
            code = node.args[0]
            if isinstance(code, ast.Constant):
                codes.add(code.value)
            else:
                assert path.name == "reconciliation.py", f"{path}:{node.lineno}: an error code is a literal"
    return codes


def test_every_error_code_has_a_section_in_the_runbook() -> None:
    codes = error_codes()
    sections = set(
        re.findall(r"^## `([a-z0-9_.]+)`$", (ROOT / "docs/runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
    )

    assert len(codes) > 20
    assert codes - sections == set(), "codes without a section in docs/runbook.md"
    assert sections - codes == set(), "sections of docs/runbook.md whose code is raised nowhere"


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert targets
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()


def test_every_billing_command_is_in_the_readme_and_has_an_example() -> None:
    from pipeline.cli import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [command.callback.__name__ for command in app.registered_commands if command.callback]

    assert names
    assert [name for name in names if f"billing {name}" not in readme and name != "demo"] == []
    assert [
        c.callback.__name__ for c in app.registered_commands if c.callback and "Example" not in (c.epilog or "")
    ] == []


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"], ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_module_is_the_console_script() -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline", "--help"], capture_output=True, text=True, check=True)

    for command in ("init", "demo", "collect", "run", "close", "report", "status"):
        assert command in done.stdout
