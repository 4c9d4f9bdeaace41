"""Messages between the three workers, and the TLS that carries them."""
