"""What runs a revision: start, health-check, drain and stop; every process it starts is gone when it returns."""
