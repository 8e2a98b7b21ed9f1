"""Stock for each order, reserved once: an example for `onceproof prove`."""
