"""What runs a revision: start, health-check, drain and stop a server; every process it starts is gone when it returns."""
