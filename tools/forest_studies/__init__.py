"""Studies of small published forest data, one file each; `tools/real_forests.py` runs them."""
