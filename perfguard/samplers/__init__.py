"""Collect stacks and CPU of running processes; a sampler never interprets what it collects."""
