"""Changes: plain transactional writes that the API asks for, to what waits or has ended. No stage."""
