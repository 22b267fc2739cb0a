"""Plain networks from adapter sets: fold, drop what is absent, export."""
