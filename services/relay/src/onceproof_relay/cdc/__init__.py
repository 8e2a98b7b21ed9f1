"""The other relay: Debezium Server reads the outbox from the WAL, and this stands beside it.

Debezium moves the events. What it lacks is here: a door to the broker that sends with our own client, so
that its heartbeats stay out of the queue and each send has a span and passes the crash points; and a
watch over the replication slot, which records how far it got and says when it is lost.
"""
