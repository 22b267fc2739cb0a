"""Names of modules and modalities -> names that a module's parameters may have."""

from __future__ import annotations


def attribute_name(name: str) -> str:
    """Write a name without dots, so that no two names become one.

    >>> attribute_name("encoder.0:ssf:scale"), attribute_name("encoder/0:ssf:scale")
    ('encoder/0:ssf:scale', 'encoder%2F0:ssf:scale')
    """
    return name.replace("%", "%25").replace("/", "%2F").replace(".", "/")
