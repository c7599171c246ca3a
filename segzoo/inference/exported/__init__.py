"""Networks of exported files, on the CPU."""
