"""An email for each order, sent once: an example for `onceproof prove`."""
