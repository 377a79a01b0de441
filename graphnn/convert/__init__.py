"""Networks from and to other libraries' objects."""
