"""Holds the stand-in layers."""
