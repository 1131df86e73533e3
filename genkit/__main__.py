"""`python -m genkit` is `genkit`."""

from .cli import main

main()
