"""What a method must know of a layer, declared or described."""
