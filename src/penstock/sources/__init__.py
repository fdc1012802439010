"""Where tasks and pipelines come from."""
