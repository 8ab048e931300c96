"""AMSBound: the witnesses of AdaBound, with the largest second moment."""

from witnesses.adabound import witnesses

WITNESSES = witnesses(largest=True)
