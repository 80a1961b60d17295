"""What was measured, on disk: versioned SQLite plus raw artifacts by content hash."""

from perfguard.store.runs import RunStore

__all__ = ["RunStore"]
