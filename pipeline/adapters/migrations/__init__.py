"""Alembic migrations of the control plane; ``ControlPlane.migrate`` applies them."""
