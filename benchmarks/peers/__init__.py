"""Those that a user would take instead, doing the same work on the same server."""
