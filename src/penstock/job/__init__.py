"""Ground floor: what a job is, and the only place where its next state is decided."""
