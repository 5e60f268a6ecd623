"""The queue on Kafka, for installations on several machines."""
