from genkit.testing import parametrize_with_checks


@parametrize_with_checks("dcgan")
def test_contract(check):
    check()
