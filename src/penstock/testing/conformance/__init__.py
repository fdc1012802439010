"""What every backend promises, as tests. They name capabilities, never engines.

A stranger's backend is tested with ``pytest --pyargs penstock.testing.conformance --backend URL``.
"""
