"""What a model knows of healthy input: it says of each row and modality how good it is, and why."""
