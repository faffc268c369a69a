"""What comes from outside: run_steps takes it from the inputs by the row's key."""
