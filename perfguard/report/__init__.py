"""A result as people read it: one offline HTML file, and plain text for a terminal."""
