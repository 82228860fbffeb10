"""The kernel's own tables, as SQLAlchemy models. Statements about them live with the rooms that own the meaning."""
