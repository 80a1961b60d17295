"""The jobs perfguard does, end to end; the only place that wires rooms together."""
