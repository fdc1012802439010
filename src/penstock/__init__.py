"""Data pipelines as durable jobs on the Python job queue you already have."""
