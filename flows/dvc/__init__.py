"""The DVC side: what is cached, what is stale and why, and what keeps DVC's files whole."""
