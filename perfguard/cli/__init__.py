"""One file a verb: argv to workflow to printed result and exit code."""
