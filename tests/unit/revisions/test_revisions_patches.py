from __future__ import annotations

import pytest

from perfguard.revisions.patches import parse_patch

_PATCH = """\
diff --git a/server.py b/server.py
index 1..2 100644
--- a/server.py
+++ b/server.py
@@ -1,3 +1,4 @@ def handle():
 one
--- looks like a header
+++ so does this
+new
 three
@@ -10 +11 @@
-old
\\ No newline at end of file
+new
\\ No newline at end of file
diff --git a/gone.py b/gone.py
deleted file mode 100644
--- a/gone.py
+++ /dev/null
@@ -1,2 +0,0 @@
-a
-b
diff --git a/logo.png b/logo.png
Binary files a/logo.png and b/logo.png differ
diff --git a/run.sh b/run.sh
old mode 100644
new mode 100755
diff --git a/with space.py b/with space.py
--- a/with space.py\t
+++ b/with space.py\t
@@ -4,0 +5,1 @@
+x
diff --git "a/tab\\there \\303\\274.py" "b/tab\\there \\303\\274.py"
--- "a/tab\\there \\303\\274.py"
+++ "b/tab\\there ü.py"
@@ -0,0 +1 @@
+y
"""


def test_reads_positions_paths_and_text():
    first, second, gone, space, quoted = parse_patch(_PATCH)
    assert (first.path, first.old_start, first.old_lines, first.new_start, first.new_lines) == ("server.py", 1, 3, 1, 4)
    assert first.text == " one\n--- looks like a header\n+++ so does this\n+new\n three"
    assert (second.old_start, second.old_lines, second.new_start, second.new_lines) == (10, 1, 11, 1)
    assert second.text == "-old\n+new"
    assert (gone.path, gone.new_start, gone.new_lines) == ("gone.py", 0, 0)
    assert (space.path, space.new_start) == ("with space.py", 5)
    assert quoted.path == "tab\there ü.py"


@pytest.mark.parametrize("patch", ["", "diff --git a/x b/x\nold mode 100644\nnew mode 100755\n"])
def test_no_text_changes_no_hunks(patch):
    assert parse_patch(patch) == ()
