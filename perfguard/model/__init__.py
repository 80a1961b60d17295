"""The words perfguard is built from: frozen dataclasses, enums, Protocols and errors. Standard library only."""
