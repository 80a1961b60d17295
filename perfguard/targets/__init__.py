"""What runs a revision: start, health-check, drain and stop a server, and leave no process behind."""
