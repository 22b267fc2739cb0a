"""Names become attributes, and no two become one."""

from hypothesis import given
from hypothesis import strategies as st

from subsense.modalities.names import attribute_name

names = st.text(alphabet="a./%2EF5:", min_size=1, max_size=8)


@given(names, names)
def test_different_names_stay_different(one: str, other: str) -> None:
    assert "." not in attribute_name(one)
    assert (attribute_name(one) == attribute_name(other)) == (one == other)
