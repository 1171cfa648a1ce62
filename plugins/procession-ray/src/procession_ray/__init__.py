"""The start method ``ray``: ranks on the nodes of a Ray cluster, one in each bundle of a placement group."""
