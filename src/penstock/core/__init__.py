"""Ground floor: values and contracts. No I/O, no threads, no async."""
