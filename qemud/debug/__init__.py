"""For those who look for the cause of something: tracing."""
