import sys

import pytest

from subsense.errors import SubsenseError
from subsense.support.factories import FactoryError, check_options, find, import_factory


def test_finds_and_imports_only_what_is_asked_for():
    table = {"root": "math:sqrt", "absent": "no_such_module:anything"}
    assert find("root", table, "function")(9.0) == 3.0


def test_unknown_name_lists_what_there_is():
    with pytest.raises(
        FactoryError, match=r"^Expected a function among cube, root, but got 'rot'\. Did you mean 'root'\?"
    ):
        find("rot", {"root": "math:sqrt", "cube": "math:cbrt"}, "function")


def test_the_callers_own_error_is_raised():
    class OwnError(SubsenseError):
        pass

    with pytest.raises(OwnError):
        find("rot", {}, "function", OwnError)


@pytest.mark.parametrize("place", ["math", ":sqrt", "math:", ""])
def test_other_forms_are_refused(place):
    with pytest.raises(FactoryError, match=r"'package\.module:name', but got"):
        import_factory(place)


def test_absent_module_and_absent_name_are_told_apart():
    with pytest.raises(FactoryError, match="Expected a module 'mth'"):
        import_factory("mth:sqrt")
    with pytest.raises(FactoryError, match=r"callable 'sqr' in module 'math'\. Did you mean 'sqrt'\?"):
        import_factory("math:sqr")
    with pytest.raises(FactoryError, match="callable 'pi'"):
        import_factory("math:pi")


def test_an_error_inside_the_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_factory_module.py").write_text("import a_module_that_is_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
        import_factory("broken_factory_module:anything")
    assert "broken_factory_module" not in sys.modules


def test_options_are_checked_before_the_call():
    def factory(*, width=1):
        raise AssertionError("called")

    check_options("it", factory, {"width": 2})
    with pytest.raises(FactoryError, match=r"^it: unknown option 'widht'; it takes width\. Did you mean 'width'\?"):
        check_options("it", factory, {"widht": 2})
    check_options("it", lambda **options: options, {"anything": 1})
