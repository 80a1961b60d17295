"""Where revisions come from: git repositories, release histories, and the managed environments they run in."""
