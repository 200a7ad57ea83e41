"""Alembic environment: runs the migrations on the connection (and in the transaction) that the caller opened.

Offline, ``-x dialect=postgresql`` prints the SQL for a database administrator instead.
"""

from alembic import context

from pipeline.adapters.control_plane_tables import metadata

if context.is_offline_mode():
    context.configure(
        dialect_name=context.get_x_argument(as_dictionary=True).get("dialect", "postgresql"),
        target_metadata=metadata,
        literal_binds=True,
    )
else:
    context.configure(
        connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True
    )

with context.begin_transaction():
    context.run_migrations()
