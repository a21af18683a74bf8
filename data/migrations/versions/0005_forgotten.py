"""That somebody was forgotten: a salted hash of who it was, and when.

Frozen: a table is changed by the next migration, never here.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "forgotten",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_forgotten"),
        sa.UniqueConstraint("hash", name="uq_forgotten_hash"),
    )
