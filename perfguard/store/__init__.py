"""What was measured, on disk: versioned SQLite plus raw artifacts by content hash."""
