"""The terminal screen of ``penstock top``."""
