"""Label files: tables that say which image has which age and gender."""
