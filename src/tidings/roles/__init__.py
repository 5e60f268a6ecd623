"""What a process can be: an API, a worker, a sandbox. wiring.py imports only the roles that it runs."""
