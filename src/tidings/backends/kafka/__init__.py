"""Kafka: the queue, scaled out."""
