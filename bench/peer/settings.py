"""The settings of the peer's processes, from environment variables, as such services do."""

from __future__ import annotations

import os

DATABASE_URL = os.environ.get("PEER_DATABASE_URL", "postgresql+psycopg://localhost/peer")
REDIS_URL = os.environ.get("PEER_REDIS_URL", "redis://localhost:6379/0")
API_KEY = os.environ.get("PEER_API_KEY", "peer-key")
SENDGRID_URL = os.environ.get("PEER_SENDGRID_URL", "https://api.sendgrid.com")
TWILIO_URL = os.environ.get("PEER_TWILIO_URL", "https://api.twilio.com")
CHUNK = 500
"""Notifications of a batch request that one Celery message carries."""
