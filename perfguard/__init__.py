"""perfguard finds the commit that made a Python inference server slower, and shows the stack that did it."""

__version__ = "0.1.0"
