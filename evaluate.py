"""Measures samples: python evaluate.py --samples samples/digits --reference data/digits."""

from jaxdiff.evaluation.command import main

if __name__ == "__main__":
    main()
