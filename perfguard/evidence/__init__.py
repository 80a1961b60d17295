"""What stacks and CPU say: costs per request, call-site classes, differences, rules.

Pure: no file, clock, process or git.
"""
