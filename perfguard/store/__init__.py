"""What was measured, on disk: versioned SQLite plus raw artifacts by content hash, and the guard's nights."""

from perfguard.store.nights import NightStore
from perfguard.store.runs import RunStore

__all__ = ["NightStore", "RunStore"]
