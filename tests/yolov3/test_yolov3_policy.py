"""The shortcut policy: what the published rule leaves, and the same structure found by hand on a small network."""
