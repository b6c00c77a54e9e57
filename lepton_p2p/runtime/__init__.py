"""One running peer, put together from the rooms below: ``Node`` (control and data plane), ``JobHost`` (training)."""
