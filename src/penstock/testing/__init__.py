"""Shipped test kit: the pytest plugin, a harness per engine, and the conformance suite for backends."""
