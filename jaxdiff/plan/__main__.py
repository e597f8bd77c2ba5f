"""python -m jaxdiff.plan."""

from jaxdiff.plan.command import main

main()
