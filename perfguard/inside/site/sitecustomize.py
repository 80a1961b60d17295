"""Python imports this file by its name when an interpreter starts: the one way into processes that others start.

It may shadow a `sitecustomize` of the machine or of the environment (a coverage or a crash reporter, say), which
is run afterwards, so that the server sees the environment that its owner set up.
"""

import perfguard_hook

perfguard_hook.install()
perfguard_hook.run_shadowed_sitecustomize()
