import pytest

import esamp


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (esamp.UsageError, ValueError),
        (esamp.ModelError, Exception),
        (esamp.MissingDependencyError, ImportError),
    ],
)
def test_one_clause_catches_all_and_callers_may_use_the_builtin_name(error, also):
    with pytest.raises(esamp.EsampError):
        raise error("why")
    assert issubclass(error, also)


def test_an_inert_configuration_warns_and_is_no_error():
    assert issubclass(esamp.InertWarning, UserWarning)
    assert not issubclass(esamp.InertWarning, esamp.EsampError)
