"""What ledgers and backends both know of servers: how a URL reaches one, and what may be wrong with it."""
