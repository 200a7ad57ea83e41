"""What every step works on: the checked project, the lake, the control plane, the raw bucket, and two folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline import settings
from pipeline.adapters.control_plane import ControlPlane
from pipeline.adapters.lake import Lake, open_lake
from pipeline.adapters.object_store import ObjectStore
from pipeline.adapters.project_files import load_project
from pipeline.core.project import Project


@dataclass(frozen=True)
class Workspace:
    """An open project. ``scratch`` holds temporary files, ``out`` the readable copies of reports and invoices."""

    project: Project
    lake: Lake
    control_plane: ControlPlane
    raw: ObjectStore
    scratch: Path
    out: Path


def open_workspace(folder: Path) -> Workspace:
    """Return the open project of a folder, its control plane migrated; a project with a problem is refused first."""
    folder = folder.resolve()
    project = load_project(folder)
    endpoint_url = settings.endpoint_url(project.settings)
    control_plane = ControlPlane(settings.database_url(project.settings, folder))
    control_plane.migrate()
    scratch = folder / ".billing" / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    return Workspace(
        project=project,
        lake=open_lake(project.settings, folder, endpoint_url, folder / ".billing" / "staging"),
        control_plane=control_plane,
        raw=ObjectStore(project.settings.raw.bucket, endpoint_url, project.settings.raw.region),
        scratch=scratch,
        out=folder / "out",
    )
