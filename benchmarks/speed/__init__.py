"""What adapters cost in time and memory, against a frozen network and against other ways to adapt it."""
