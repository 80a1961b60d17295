"""Which revisions to run next, what is known so far, and when to stop. Pure: no file, clock, process or git."""
