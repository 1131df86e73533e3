"""`python -m genkit` is `genkit`."""

from .cli.main import main

main()
