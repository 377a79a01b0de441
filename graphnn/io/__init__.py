"""Networks from and to files."""
