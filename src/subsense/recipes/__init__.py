"""A recipe: one YAML file that says which network, which data, how it is adapted, trained and evaluated.

There is one syntax: no includes, no interpolation, no second place for defaults. A file is checked as a whole, and all
its faults are reported together, each with its line and key, what was expected, what was found, and the near miss.
"""
