"""Who may take part in a swarm, and how it is proved: keys, certificates (RFC 5280), join tokens.

A swarm has one *authority* (a self-signed certificate).  It certifies *nodes* (a machine, a state directory); a node
certifies its own *processes*, each with a fresh key.  An *invite* may do one thing: become a node.  Nothing here knows
sockets or event loops.
"""
