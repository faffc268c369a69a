"""Pictures: PNG written and read, and other sizes."""
