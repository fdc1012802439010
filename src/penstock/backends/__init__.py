"""One package per engine, each leave-able: found by its entry point alone, importing the ground floor alone."""
