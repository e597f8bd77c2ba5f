"""python -m jaxdiff.plan."""

import sys

from jaxdiff.plan.command import main

sys.argv[0] = "jaxdiff.plan"
main()
