"""Effects with intervals, from whole trials. Pure: no file, clock, process or git."""
