from subsense.support.tables import format_table

LONG = "skeleton+accelerometer+gyroscope+depth"


def test_numbers_are_aligned_right_and_lines_have_no_trailing_space():
    table = format_table(["combination", "mIoU"], [["a", "5"], ["a+b", "10"]], rule_before=[1])
    assert table.splitlines() == [
        "combination  mIoU",
        "-----------  ----",
        "a               5",
        "-----------  ----",
        "a+b            10",
    ]


def test_a_long_first_column_is_wrapped_after_a_plus_and_loses_nothing():
    table = format_table(["combination", *["pretrained"] * 4], [[LONG, "1", "2", "3", "4"]])
    assert max(map(len, table.splitlines())) <= 80
    assert table.splitlines()[2].split() == ["skeleton+accelerometer+", "1", "2", "3", "4"]
    assert "".join(line.split()[0] for line in table.splitlines()[2:]) == LONG


def test_a_word_that_is_too_long_is_cut_where_it_must_be():
    lines = format_table(["name", "n"], [["x" * 100, "1"]], width=40).splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert sum(line.count("x") for line in lines) == 100
