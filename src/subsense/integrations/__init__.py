"""Thin plugs into other libraries, one file each; each needs its extra and imports it alone."""
