"""Scratch folders: gone at the end, gone after a kill, and never that of a living process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.adapters.scratch import scratch_folder

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.adapters.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), "held") as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(parent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_removed_at_the_end_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), scratch_folder(tmp_path / "scratch", "work") as folder:
        (folder / "below").mkdir()
        raise ValueError("stop")

    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next_one_and_not_before(tmp_path: Path) -> None:
    process, held = holder(tmp_path)
    try:
        with scratch_folder(tmp_path, "work"):
            assert (held / "file").read_text() == "x"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert held.is_dir()
    with scratch_folder(tmp_path, "work") as folder:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, f"{folder.name}.lock"])
    assert list(tmp_path.iterdir()) == []
