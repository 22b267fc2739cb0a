"""What a model's user watches: inputs that go bad, answers to doubt, masks that leak."""
