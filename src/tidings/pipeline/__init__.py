"""The flow: accept, route, deliver, record, schedule. Stages know queues and ports, and not each other."""
